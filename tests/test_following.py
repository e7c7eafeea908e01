"""Logs that are followed: what is new is told once, below a line that says whose it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from batchrun.cli.following import LEFT_OUT, LogTail, follow_logs
from batchrun.data.load import write_table
from batchrun.outcome import Attempt, Outcome, RunState
from batchrun.store.artifacts import RunFolder
from batchrun.store.driver import driver_name, driving
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.records import ChunkLog, RunRecord, SettledChunk, SettledChunks
from batchrun.store.runs import RunStore
from tests.writing import writer


def live(chunk: int, text: str, attempt: int = 1) -> ChunkLog:
    return ChunkLog(chunk, "solve", attempt, text, live=True)


def ended(chunk: int, text: str, attempt: int = 1) -> ChunkLog:
    return ChunkLog(chunk, "solve", attempt, text)


def test_what_is_new_is_told_once():
    tail = LogTail()

    assert tail.news([live(7, "a\n")]) == "== chunk 7, stage solve, attempt 1 ==\na\n"
    assert tail.news([live(7, "a\n")]) == ""
    assert tail.news([live(7, "a\nb\n")]) == "b\n"
    assert tail.news([ended(7, "a\nb\nc\n")]) == "c\n"
    assert tail.news([ended(7, "a\nb\nc\n")]) == ""


def test_another_attempt_begins_with_a_line_of_its_own():
    tail = LogTail()
    tail.news([live(7, "half a line")])

    told = tail.news([ended(7, "half a line"), live(7, "again\n", attempt=2), live(8, "other\n")])

    assert told == (
        "\n\n== chunk 7, stage solve, attempt 2 ==\nagain\n\n== chunk 8, stage solve, attempt 1 ==\nother\n"
    )
    assert tail.news([live(7, "again\nmore\n", attempt=2)]) == (
        "\n== chunk 7, stage solve, attempt 2 ==\nmore\n"
    )


def test_a_log_that_lost_its_beginning_goes_on_where_it_was():
    lines = [f"line {number}\n" for number in range(100)]
    tail = LogTail()
    tail.news([live(7, "".join(lines[:60]))])

    assert tail.news([live(7, "".join(lines[20:80]))]) == "".join(lines[60:80])
    assert tail.news([ended(7, "".join(lines[:5]) + "…\n" + "".join(lines[50:]))]) == "".join(lines[80:])


def test_a_log_of_which_more_was_lost_says_so():
    tail = LogTail()
    tail.news([live(7, "first\n")])

    assert tail.news([live(7, "much later\n")]) == LEFT_OUT + "much later\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\x1b[31mred\x1b[0m\n", "red\n"),
        ("\x1b]0;title\x07bell\x07\n", "bell\n"),
        ("\x1b]8;;http://x\x1b\\link\n", "link\n"),
        ("10 %\r20 %\r\ntab\there\n", "10 %\n20 %\ntab\there\n"),
        ("[bold]é[/bold] →\n", "[bold]é[/bold] →\n"),
    ],
)
def test_a_log_cannot_steer_the_terminal(text: str, told: str):
    assert LogTail().news([ended(1, text)]).split("==\n", 1)[1] == told


@pytest.fixture
def store(here: Path) -> Iterator[RunStore]:
    """A store with a run that this process drives."""
    with RunStore("sqlite:///store.db") as opened, driving("r"):
        opened.create(
            RunRecord(
                "r", "pits", None, RunState.RUNNING, 0.0, "by_rows(1)", str(here), 4, driver=driver_name()
            )
        )
        yield opened


def says(store: RunStore, text: str, chunk: int = 2) -> Callable[[], None]:
    running = RunningChunk(chunk, "solve", 1, "w-0", 0.0, 1, log=text)
    return lambda: writer(store, "r").save_live(LiveState(0.0, running=(running,)))


def settles(store: RunStore, text: str, chunk: int = 2) -> Callable[[], None]:
    def settle() -> None:
        attempt = Attempt(chunk, "solve", 1, "w-0", Outcome.SUCCEEDED, 0.0, 1.0, log=text)
        writer(store, "r").commit(
            [attempt], SettledChunks.of([SettledChunk(chunk, Outcome.SUCCEEDED, 1, 1, 1.0)])
        )
        writer(store, "r").save_live(LiveState(0.0))

    return settle


def ends(store: RunStore) -> Callable[[], None]:
    return lambda: writer(store, "r").update(state=RunState.SUCCEEDED)


def follow(store: RunStore, chunk: int | None, steps: list[Callable[[], None]]) -> list[str]:
    """What is written while *steps* happen, one in each pause."""
    written: list[str] = []
    left = iter(steps)
    follow_logs(store, "r", chunk, write=written.append, pause=lambda _: next(left)())
    assert next(left, None) is None, "it stopped too soon"
    return [text for text in written if text]


def test_a_chunk_is_followed_until_it_is_settled(store: RunStore):
    steps = [says(store, "a\n"), says(store, "a\nb\n"), settles(store, "a\nb\nc\n")]

    written = follow(store, 2, steps)

    assert written == ["== chunk 2, stage solve, attempt 1 ==\na\n", "b\n", "c\n"]


def test_a_chunk_is_followed_until_it_is_cut(store: RunStore, here: Path):
    def cut() -> None:
        plan = {"start": [0, 2, 0, 1], "stop": [2, 4, 1, 2], "parent": [-1, -1, 0, 0]}
        write_table(pa.table(plan), RunFolder(str(here)).plan(0))
        writer(store, "r").save_live(LiveState(0.0))

    written = follow(store, 0, [says(store, "a\n", chunk=0), cut])

    assert written == ["== chunk 0, stage solve, attempt 1 ==\na\n"]


def test_a_run_is_followed_until_it_ends(store: RunStore):
    steps = [settles(store, "a\n", chunk=1), says(store, "b\n"), settles(store, "b\nc\n"), ends(store)]

    written = follow(store, None, steps)

    assert written == [
        "== chunk 1, stage solve, attempt 1 ==\na\n",
        "\n== chunk 2, stage solve, attempt 1 ==\nb\n",
        "c\n",
    ]


def test_a_run_whose_driver_went_away_is_followed_no_longer(store: RunStore):
    gone = {"driver": "elsewhere/1/1.0", "heartbeat": 0.0}

    written = follow(store, None, [says(store, "a\n"), lambda: writer(store, "r").update(**gone)])

    assert len(written) == 1
