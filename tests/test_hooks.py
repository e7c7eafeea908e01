"""Hooks tell of the end of a run: signed, tried again, recorded, and without touching the run."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from batchrun import RunReport, by_rows, run_pipeline
from batchrun.config import HookSettings, Settings, load_settings
from batchrun.errors import ConfigError, LeaseLostError
from batchrun.hooks import deliver, end_told, run_hooks, run_pending_hooks
from batchrun.hooks.webhook import SIGNATURE
from batchrun.outcome import RunState
from batchrun.service.messenger import Messenger
from batchrun.store.queue import QueueEntry
from batchrun.store.records import RunRecord
from batchrun.store.runs import RunStore

SECRET = "hush-7f3a9c"
DOCUMENT = {"event": 7, "run": "delays-1", "state": "failed"}
RUN = RunRecord("delays-1", "delays", None, RunState.QUEUED, 1.0, "by_rows(3)", "/runs", 100, fence=1)


@dataclass
class Receiver:
    """A server that answers as it is told, and remembers what it was sent."""

    port: int = 0
    answers: list[int | str | None] = field(default_factory=list)
    """One for each request, 200 after the last: a status, a place to send on to, or None to hang."""
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        self.paths.append(handler.path)
        self.headers.append(dict(handler.headers))
        self.bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        answer = self.answers.pop(0) if self.answers else 200
        if answer is None:
            self.release.wait(30)
            return
        handler.send_response(answer if isinstance(answer, int) else 307)
        if isinstance(answer, str):
            handler.send_header("Location", answer)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@pytest.fixture
def start() -> Iterator[Callable[..., Receiver]]:
    """Starts a receiver with the answers that it is to give."""
    servers: list[tuple[ThreadingHTTPServer, Receiver]] = []

    def begin(*answers: int | str | None) -> Receiver:
        receiver = Receiver(answers=list(answers))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        receiver.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append((server, receiver))
        return receiver

    yield begin
    for server, receiver in servers:
        receiver.release.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


def webhook(url: str, **options) -> HookSettings:
    return HookSettings(webhook={"url": url, "timeout": 10, **options})


def command(code: str, **options) -> HookSettings:
    return HookSettings(command=[sys.executable, "-c", code], **options)


class TestWebhook:
    def test_is_posted_the_document_with_a_signature_that_its_receiver_can_check(self, start, secret_file):
        receiver = start()

        [told] = deliver(webhook(receiver.url, secret_file=str(secret_file)), DOCUMENT)

        assert (told.delivered, told.tries, told.error) == (True, 1, "")
        [body], [headers] = receiver.bodies, receiver.headers
        assert json.loads(body) == DOCUMENT
        assert headers["Content-Type"] == "application/json"
        stamp, proof = headers[SIGNATURE].split(",")
        at = stamp.removeprefix("t=")
        expected = hmac.new(SECRET.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert proof == f"v1={expected}"
        assert abs(time.time() - int(at)) < 60

    def test_signs_so_that_the_check_of_the_manual_believes_it_and_nothing_else(self, start, secret_file):
        manual = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
        [snippet] = re.findall(r"```python\n(.*?)```", manual, flags=re.DOTALL)
        names: dict[str, Any] = {}
        exec(snippet, names)
        receiver = start()

        deliver(webhook(receiver.url, secret_file=str(secret_file)), DOCUMENT)

        [body], [headers] = receiver.bodies, receiver.headers
        check, header = names["is_genuine"], headers[SIGNATURE]
        assert check(SECRET.encode(), header, body)
        assert not check(b"another", header, body)
        assert not check(SECRET.encode(), header, body + b" ")
        assert not check(SECRET.encode(), header, body, most_seconds=-1)

    def test_without_a_secret_is_not_signed(self, start):
        receiver = start()
        assert deliver(webhook(receiver.url), DOCUMENT)[0].delivered
        assert SIGNATURE not in receiver.headers[0]

    @pytest.mark.parametrize("status", [500, 503, 408, 429])
    def test_that_has_trouble_is_tried_again_after_longer_and_longer_waits(self, start, status):
        receiver, waits = start(status, status, status), []

        [told] = deliver(webhook(receiver.url), DOCUMENT, pause=waits.append, chance=lambda: 1.0)

        assert (told.delivered, told.tries) == (True, 4)
        assert waits == [1.0, 2.0, 4.0]
        assert len(set(receiver.bodies)) == 1

    def test_that_refuses_is_not_tried_again(self, start):
        receiver, waits = start(404), []

        [told] = deliver(webhook(receiver.url), DOCUMENT, pause=waits.append)

        assert (told.delivered, told.tries, told.error) == (False, 1, "the answer was 404")
        assert waits == []

    def test_is_given_up_after_its_retries(self, start):
        receiver, waits = start(*[500] * 9), []

        [told] = deliver(webhook(receiver.url, retries=2), DOCUMENT, pause=waits.append)

        assert (told.delivered, told.tries, len(waits)) == (False, 3, 2)
        assert len(receiver.bodies) == 3

    def test_where_nobody_listens_is_tried_again(self, start):
        waits: list[float] = []

        [told] = deliver(webhook("http://127.0.0.1:9/x", retries=1), DOCUMENT, pause=waits.append)

        assert (told.delivered, told.tries, len(waits)) == (False, 2, 1)
        assert told.error.startswith("it cannot be reached")

    def test_that_hangs_is_left_after_its_timeout_and_tried_again(self, start):
        receiver = start(None)

        [told] = deliver(webhook(receiver.url, timeout="500ms"), DOCUMENT, pause=lambda _: None)

        assert told.tries > 1
        assert told.delivered

    def test_that_never_answers_is_given_up_in_the_time_of_its_tries(self, start):
        receiver = start(None, None)

        [told] = deliver(webhook(receiver.url, timeout="300ms", retries=1), DOCUMENT, pause=lambda _: None)

        assert (told.delivered, told.tries, told.error) == (False, 2, "no answer within 300 ms")
        assert 0.6 <= told.seconds < 10

    def test_that_drips_its_answer_does_not_hold_longer_than_its_timeout(self):
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            done = threading.Event()

            def drip() -> None:
                with server.accept()[0] as connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    while not done.wait(0.1):
                        connection.sendall(b"x")

            thread = threading.Thread(target=drip)
            thread.start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            [told] = deliver(webhook(url, timeout="600ms", retries=0), DOCUMENT)
            done.set()
            thread.join()

        assert told.error == "no answer within 600 ms"

    def test_that_sends_on_within_its_host_is_posted_to_there(self, start, secret_file):
        receiver = start("/moved")

        [told] = deliver(webhook(receiver.url, secret_file=str(secret_file)), DOCUMENT)

        assert told.delivered
        assert receiver.paths == ["/hook", "/moved"]
        assert receiver.bodies[0] == receiver.bodies[1]

    def test_that_sends_on_in_a_circle_is_left(self, start):
        receiver = start(*["/again"] * 20)

        [told] = deliver(webhook(receiver.url), DOCUMENT)

        assert "sent on more than" in told.error
        assert len(receiver.paths) == 4

    @pytest.mark.parametrize(
        "place", ["http://localhost:{port}/", "http://127.0.0.1:{other}/", "file:///etc/x"]
    )
    def test_that_sends_on_to_another_host_is_not_followed(self, start, place):
        other = start()
        receiver = start()
        receiver.answers.append(place.format(port=receiver.port, other=other.port))

        [told] = deliver(webhook(receiver.url), DOCUMENT)

        assert not told.delivered
        assert "another host, which is not followed" in told.error
        assert other.bodies == []
        assert len(receiver.bodies) == told.tries == 1

    @pytest.mark.parametrize("content", [None, " \n"])
    def test_whose_secret_is_missing_posts_nothing(self, start, tmp_path, content):
        receiver, path = start(), tmp_path / "none"
        if content is not None:
            path.write_text(content)

        [told] = deliver(webhook(receiver.url, secret_file=str(path)), DOCUMENT)

        assert (told.delivered, told.tries) == (False, 0)
        assert str(path) in told.error
        assert receiver.bodies == []


class TestCommand:
    def test_reads_the_run_and_finds_its_name_in_the_environment(self, tmp_path):
        out = tmp_path / "out.json"
        code = (
            "import json, os, sys; json.dump([json.load(sys.stdin), os.environ['BATCHRUN_RUN'], "
            f"os.environ['BATCHRUN_STATE']], open({str(out)!r}, 'w'))"
        )

        [told] = deliver(command(code), DOCUMENT)

        assert told.delivered
        assert told.target == sys.executable
        assert json.loads(out.read_text()) == [DOCUMENT, "delays-1", "failed"]

    def test_that_fails_is_told_with_the_end_of_what_it_printed(self, capfd):
        [told] = deliver(command("print('x' * 5000); print('no route'); raise SystemExit(3)"), DOCUMENT)

        assert told.error.startswith("it ended with exit code 3; it said: xxx")
        assert told.error.endswith("no route")
        assert len(told.error) < 600
        assert capfd.readouterr() == ("", "")

    def test_that_prints_says_nothing_here(self, capfd):
        [told] = deliver(command("import sys; print('hello'); print('there', file=sys.stderr)"), DOCUMENT)

        assert (told.delivered, told.error) == (True, "")
        assert capfd.readouterr() == ("", "")

    def test_that_hangs_is_ended_with_all_that_it_started(self, tmp_path):
        import psutil

        out = tmp_path / "pid"
        code = (
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            f"open({str(out)!r}, 'w').write(str(child.pid))\n"
            "time.sleep(600)"
        )

        [told] = deliver(command(code, timeout="5s"), DOCUMENT)

        assert (told.delivered, told.error) == (False, "it did not end within 5.0 s, and was ended")
        child = int(out.read_text())
        deadline = time.monotonic() + 10
        while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_that_is_not_there_is_told(self):
        [told] = deliver(HookSettings(command=["no-such-program-here"]), DOCUMENT)

        assert told.error.startswith("it cannot be started: ")
        assert not told.delivered


def test_only_the_states_that_are_wanted_are_told(start):
    receiver = start()
    hooks = HookSettings(webhook={"url": receiver.url}, only=["partial"])

    assert deliver(hooks, DOCUMENT) == ()
    assert [told.delivered for told in deliver(hooks, {**DOCUMENT, "state": "partial"})] == [True]


def test_a_hook_that_fails_does_not_keep_the_other_from_being_told(start):
    receiver = start()
    hooks = HookSettings(command=["no-such-program-here"], webhook={"url": receiver.url})

    assert [(told.hook, told.delivered) for told in deliver(hooks, DOCUMENT)] == [
        ("command", False),
        ("webhook", True),
    ]


@pytest.fixture
def store(here: Path, store_url: str) -> Iterator[RunStore]:
    with RunStore(store_url) as store:
        yield store


def hook_events(store: RunStore) -> list[tuple[str, str | None]]:
    found = store.events.read(kinds=["hook_delivered", "hook_failed"])
    return [(event.kind, event.data.get("error")) for event in found]


def queued_and_ended(store: RunStore) -> None:
    store.queue.submit(RUN, QueueEntry(queued=1.0, prepared=True))
    writer = store.queue.claim("delays-1", "s-1", lease=30.0, driver="host/1/1.0")
    writer.reopen(state=RunState.RUNNING)
    writer.end(state=RunState.FAILED, ended=2.0)
    store.queue.ended(writer)


class TestQueuedRuns:
    def test_whose_end_was_not_told_before_a_crash_are_told_after_it_and_once(self, start, store):
        receiver = start()
        queued_and_ended(store)

        assert run_pending_hooks(store, webhook(receiver.url)) == ["delays-1"]
        assert run_pending_hooks(store, webhook(receiver.url)) == []

        [body] = receiver.bodies
        document = json.loads(body)
        assert (document["run"], document["state"], document["kind"]) == ("delays-1", "failed", "run_ended")
        assert document["event"] == next(store.events.read(kinds=["run_ended"])).id
        assert hook_events(store) == [("hook_delivered", None)]

    def test_are_told_again_with_the_same_event_if_the_first_time_was_not_recorded(
        self, start, store, monkeypatch
    ):
        receiver = start()
        queued_and_ended(store)
        with monkeypatch.context() as crash:
            crash.setattr(store.deliveries, "record", lambda *_: sys.exit("killed"))
            with pytest.raises(SystemExit):
                run_pending_hooks(store, webhook(receiver.url))

        assert run_pending_hooks(store, webhook(receiver.url)) == []
        monkeypatch.setattr(store._database, "now", lambda _: time.time() + 3600)
        assert run_pending_hooks(store, webhook(receiver.url)) == ["delays-1"]

        first, second = (json.loads(body)["event"] for body in receiver.bodies)
        assert first == second

    def test_are_told_by_one_of_many_who_look_at_the_same_time(self, start, store):
        receiver = start()
        queued_and_ended(store)
        ready = threading.Barrier(6)

        def look() -> None:
            ready.wait(30)
            run_pending_hooks(store, webhook(receiver.url))

        threads = [threading.Thread(target=look) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(receiver.bodies) == 1

    def test_are_told_by_the_messenger_of_a_service_before_it_ends(self, start, here):
        receiver = start()
        (here / "cluster.yaml").write_text(f"hooks: {{webhook: {{url: '{receiver.url}'}}}}\n")
        messenger = Messenger(load_settings())
        messenger.start()
        with RunStore(load_settings().store_url) as store:
            queued_and_ended(store)
            messenger.stop()

        assert not messenger.is_alive()
        assert [json.loads(body)["run"] for body in receiver.bodies] == ["delays-1"]

    def test_whose_hook_failed_are_not_tried_for_ever(self, start, store):
        queued_and_ended(store)

        run_pending_hooks(store, webhook(start(410).url))

        assert store.deliveries.take(60.0) is None
        assert hook_events(store) == [("hook_failed", "the answer was 410")]

    def test_without_hooks_are_done_with_and_not_told_later(self, start, store):
        receiver = start()
        queued_and_ended(store)

        run_pending_hooks(store, HookSettings())
        run_pending_hooks(store, webhook(receiver.url))

        assert receiver.bodies == []

    def test_that_began_again_while_their_end_was_told_are_told_at_their_next_end(self, start, store):
        queued_and_ended(store)
        hooks = command("raise SystemExit(0)")
        requeue = store.deliveries.record

        def begin_again(*arguments) -> None:
            store.queue.requeue("delays-1")
            requeue(*arguments)

        store.deliveries.record = begin_again
        run_pending_hooks(store, hooks)
        del store.deliveries.record

        assert store.deliveries.take(60.0) is None
        store.take_over("delays-1").end(state=RunState.SUCCEEDED, ended=3.0)
        assert run_pending_hooks(store, hooks) == ["delays-1"]
        assert [kind for kind, _ in hook_events(store)] == ["hook_delivered"] * 2

    def test_that_go_on_are_not_told(self, store):
        store.create(RUN)
        assert run_hooks(store, command("pass"), "delays-1") == ()
        assert hook_events(store) == []


class TestForegroundRuns:
    @pytest.mark.parametrize(("error", "times"), [(ZeroDivisionError, 1), (LeaseLostError, 0)])
    def test_are_told_when_an_error_ends_them_unless_another_process_has_them_now(
        self, start, store, error, times
    ):
        receiver, writer = start(), store.create(RUN)

        with contextlib.suppress(error), end_told(store, webhook(receiver.url), "delays-1"):
            writer.end(state=RunState.FAILED)
            raise error("broken")

        assert len(receiver.bodies) == times

    def test_that_did_not_begin_are_not_told_of_their_last_end(self, start, store):
        receiver = start()
        store.create(RUN).end(state=RunState.FAILED)

        with pytest.raises(ZeroDivisionError), end_told(store, webhook(receiver.url), "delays-1"):
            raise ZeroDivisionError
        assert receiver.bodies == []

    def test_are_told_once_the_store_has_them_and_no_output_has_the_secret(
        self, start, here, secret_file, caplog, capfd
    ):
        receiver = start(400, 200)
        (here / "cluster.yaml").write_text(
            "hooks:\n"
            f"  webhook: {{url: '{receiver.url}?token={SECRET}', secret_file: '{secret_file.as_posix()}'}}\n"
        )
        settings = load_settings("cluster.yaml")
        caplog.set_level(logging.DEBUG)

        reports = [run(settings), run(settings)]

        assert [json.loads(body)["run"] for body in receiver.bodies] == [each.run_id for each in reports]
        assert [each.state for each in reports] == [RunState.SUCCEEDED] * 2
        last = [each.events["kind"].iloc[-1] for each in reports]
        assert last == ["hook_failed", "hook_delivered"]
        told = [each.to_html().read_text(encoding="utf-8") for each in reports]
        told += [str(each.record) + str(each.events["data"].tolist()) for each in reports]
        said = "".join([*told, caplog.text, *capfd.readouterr(), repr(settings), str(settings.entries())])
        assert "was not told to the webhook" in caplog.text
        assert SECRET not in said
        database = b"".join(path.read_bytes() for path in (here / ".batchrun").glob("store.db*"))
        assert SECRET.encode() not in database

    def test_are_not_failed_by_a_hook_that_cannot_be_recorded(self, here, caplog, monkeypatch):
        (here / "cluster.yaml").write_text("hooks: {command: [no-such-program-here]}\n")
        monkeypatch.setattr("batchrun.hooks.run_end.deliver", lambda *_: 1 / 0)

        assert run(load_settings("cluster.yaml")).state is RunState.SUCCEEDED
        assert "ZeroDivisionError" in caplog.text


def run(settings: Settings) -> RunReport:
    return run_pipeline(
        lambda chunk: chunk,
        pd.DataFrame({"x": range(4)}),
        split=by_rows(2),
        cluster="inline",
        settings=settings,
        progress=False,
    )


class TestSettings:
    def test_are_off_by_default(self, here):
        assert not load_settings().hooks.on

    def test_find_the_secret_beside_the_file_and_show_only_the_host(self, here):
        (here / "cluster.yaml").write_text(
            "hooks:\n  only: [failed, partial]\n"
            "  webhook: {url: 'https://h.example.org/T0/hush?key=hush', secret_file: s, timeout: 2s}\n"
        )

        settings = load_settings()

        assert settings.hooks.webhook.secret_file == str(here / "s")
        assert settings.hooks.webhook.url == "https://h.example.org/T0/hush?key=hush"
        shown = {entry.key: entry.value for entry in settings.entries()}
        assert shown["hooks.webhook.url"] == "https://h.example.org/…"
        assert shown["hooks.only"] == ["failed", "partial"]
        assert "hush" not in repr(settings)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("webhook: {url: 'https://me:hush@example.org/'}", "no user and password"),
            ("webhook: {url: 'ftp://example.org/hush'}", "http:// or https://"),
            ("webhook: {url: 'https://'}", "http:// or https://"),
            ("webhook: {url: 'https://example.org/a hush'}", "no blanks"),
            ("webhook: {url: [hush]}", "a URL is wanted"),
            ("webhook: https://example.org/hush", "hooks.webhook: it should be"),
            ("webhook: {uri: https://example.org}", "Did you mean `url`"),
            ("comand: [a]", "Did you mean `command`"),
            ("command: []", "hooks.command"),
            ("command: notify", "hooks.command"),
            ("only: [ended]", "hooks.only"),
        ],
    )
    def test_that_are_wrong_are_refused_without_showing_what_may_be_secret(self, here, text, said):
        (here / "cluster.yaml").write_text(f"hooks:\n  {text}\n")

        with pytest.raises(ConfigError) as refused:
            load_settings()

        assert said in str(refused.value)
        assert "cluster.yaml:2" in str(refused.value)
        assert "hush" not in str(refused.value)
