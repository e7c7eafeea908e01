"""Runs that share their workers, each in a thread of its own."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import pandas as pd
import pytest

from batchrun import ChunkContext, Pipeline, RunState, Stage, by_rows, launch, submit_pipeline
from batchrun.cluster.executor import DaskExecutor
from batchrun.config import Settings, load_settings
from batchrun.dispatch import Choice
from batchrun.errors import UsageError
from batchrun.events import AttemptEnded, ChunksPlanned, Event
from batchrun.executor import TaskDone, TaskLost
from batchrun.handle import RunHandle
from batchrun.report import RunReport
from batchrun.resources import Demand, Worker
from batchrun.runner import SharedSlots
from batchrun.runner.sharing import SharedDispatcher
from batchrun.waiting import Waiting
from tests.test_dispatch import measured
from tests.test_run import assert_conserved

GIB = 2**30
DEMANDS = [Demand(), Demand(tags={"HIGHMEM": 1})]


def standard(number: int, *, threads: int = 1) -> Worker:
    return Worker(f"tcp://s{number}", f"standard-{number}", threads, 2 * GIB)


class Member(SharedDispatcher):
    """Counts how often it was woken."""

    woken = 0

    def __init__(self, shared: SharedSlots, *workers: Worker, **more) -> None:
        super().__init__(DEMANDS, shared=shared, wake=self.count_wake, **more)
        if workers:
            self.set_workers(workers)

    def count_wake(self) -> None:
        self.woken += 1

    def let_wait(self, *chunks: int, **more) -> None:
        for chunk in chunks:
            self.add(Waiting(chunk, 0, 1, **more))


def chunks_of(choices: list[Choice]) -> list[int]:
    return [item.chunk for choice in choices for item in choice.items]


def used_of(shared: SharedSlots) -> dict[str, float]:
    has, free = shared.slots.totals()
    return {tag: has[tag] - free[tag] for tag in has}


def used(shared: SharedSlots) -> float:
    return used_of(shared)["threads"]


class TestTheMailbox:
    def two(self, *workers: Worker) -> tuple[SharedSlots, Member, Member]:
        """Two runs: the first has all slots, and chunks 10 to 12 of the second wait."""
        shared = SharedSlots()
        first, second = Member(shared, *workers), Member(shared, *workers)
        first.let_wait(*range(sum(worker.threads for worker in workers)))
        self.running = first.choose()
        second.let_wait(10, 11, 12)
        assert second.choose() == []
        return shared, first, second

    def test_gets_what_another_run_frees_and_has_no_use_for_and_its_run_is_woken(self):
        _, first, second = self.two(standard(0))

        first.give_back(self.running[0])
        first.offer()

        assert (first.woken, second.woken) == (0, 1)
        assert second.waiting == 3  # or the run would think that it is finished
        assert chunks_of(second.choose()) == [10]
        assert second.waiting == 2

    def test_keeps_what_the_run_itself_is_entitled_to_without_waking_it(self):
        _, first, second = self.two(standard(0), standard(1))
        first.let_wait(5, 6)

        for choice in self.running:
            first.give_back(choice)
        first.offer()

        assert (first.woken, second.woken) == (0, 1)
        assert (chunks_of(first.choose()), chunks_of(second.choose())) == ([5], [10])

    def test_gives_back_the_slot_of_a_chunk_that_is_dropped(self):
        shared, first, second = self.two(standard(0))
        first.give_back(self.running[0])
        first.offer()
        first.let_wait(7)

        dropped = second.drop({10, 11})

        assert sorted(item.chunk for item in dropped) == [10, 11]
        assert first.woken == 1
        assert chunks_of(first.choose()) == [7]
        assert chunks_of(second.choose()) == []
        assert (second.waiting, second.in_use, used(shared)) == (1, 0, 1)

    def test_lets_those_wait_again_that_were_to_ride_with_a_chunk_that_is_dropped(self):
        shared, first, second = self.two(standard(0))
        measured(second, 0.001, cost=1)
        second.behind = 100
        first.give_back(self.running[0])
        first.offer()
        assert second.in_use > 0

        assert [item.chunk for item in second.drop({11})] == [11]

        assert second.waiting == 2
        assert sorted(chunks_of(second.choose())) == [10, 12]
        assert used(shared) == second.in_use

    def test_is_emptied_when_nothing_is_to_wait_any_more(self):
        shared, first, second = self.two(standard(0))
        first.give_back(self.running[0])
        first.offer()
        first.let_wait(7)

        second.drop_waiting()

        assert second.waiting == 0
        assert second.choose() == []
        assert first.woken == 1
        assert chunks_of(first.choose()) == [7]
        assert used(shared) == 1

    def test_and_all_that_runs_is_for_the_others_when_the_run_leaves(self):
        shared, first, second = self.two(standard(0), standard(1), standard(2))
        first.give_back(self.running[0])
        first.offer()
        first.let_wait(7, 8, 9)

        second.leave()
        assert chunks_of(first.choose()) == [7]
        first.leave()

        assert (shared.runs, used(shared)) == (0, 0)
        first.give_back(self.running[1])  # it comes back late
        assert used(shared) == 0

    def test_of_a_run_that_left_gets_nothing_more(self):
        _, first, second = self.two(standard(0))
        second.leave()
        second.let_wait(99)

        first.give_back(self.running[0])
        first.offer()

        assert second.woken == 0
        assert used(first.shared) == 0


class TestSlots:
    def test_of_a_task_that_turned_out_long_are_given_back_whole(self):
        shared = SharedSlots()
        run = Member(shared, standard(0))
        measured(run, 0.05, cost=1)
        run.let_wait(0, apart=True)
        (choice,) = run.choose()
        assert not choice.long

        run.give_back(run.overdue(choice))
        run.let_wait(1, 2, apart=True)

        assert [choice.ahead for choice in run.choose()] == [False, True]

    def test_are_not_idle_for_a_second_start_while_another_run_has_chunks_for_them(self):
        shared, workers = SharedSlots(), [standard(number, threads=2) for number in range(2)]
        first, second = Member(shared, *workers), Member(shared, *workers)
        straggler = Waiting(0, 0, 1, avoid=frozenset({"standard-0"}))
        second.behind = 1
        assert first.choose_idle(straggler) is None
        second.behind = 0

        choice = first.choose_idle(straggler)

        assert choice is not None
        first.leave()
        assert used(shared) == 0

    def test_of_a_worker_that_is_gone_are_not_brought_back_by_a_run_that_hears_of_it_late(self):
        shared, both = SharedSlots(), [standard(0), standard(1)]
        first, second = Member(shared, *both), Member(shared, *both)

        first.set_workers([standard(0)])
        second.set_workers(both)
        assert len(shared.slots) == 1
        second.set_workers([standard(0)])

        assert len(shared.slots) == 1
        first.let_wait(*range(3))
        assert len(first.choose()) == 1

    def test_of_a_new_worker_are_not_taken_away_by_a_run_that_has_not_heard_of_it(self):
        shared, both = SharedSlots(), [standard(0), standard(1)]
        first, second = Member(shared, standard(0)), Member(shared, standard(0))
        first.set_workers(both)
        first.let_wait(*range(3))
        assert len(first.choose()) == 2

        second.set_workers([standard(0)])
        second.set_workers(both)

        second.let_wait(10)
        assert second.choose() == []
        assert used(shared) == 2

    def test_of_a_worker_that_left_and_came_back_under_its_address_are_counted_once(self):
        shared = SharedSlots()
        first, second = Member(shared, standard(0)), Member(shared, standard(0))
        first.let_wait(0)
        (before,) = first.choose()
        second.set_workers([])
        second.set_workers([standard(0)])
        second.let_wait(10, 11)
        (now,) = second.choose()

        first.set_workers([standard(0)])
        first.give_back(before)  # its task was lost with the worker
        assert second.choose() == []
        assert (first.in_use, used(shared)) == (0, 1)
        second.give_back(now)

        assert chunks_of(second.choose()) == [11]

    def test_of_workers_that_came_while_no_run_was_there_are_known_to_the_next(self):
        shared = SharedSlots()
        Member(shared, standard(0)).leave()

        run = Member(shared, standard(1), standard(2))

        assert {worker.name for worker in shared.slots.workers} == {"standard-1", "standard-2"}
        assert run.threads == 2


class Cluster:
    """Workers that threads of a test use; it finds out if one has more to do than it has threads."""

    def __init__(self, *workers: Worker) -> None:
        self.workers = {worker.address: worker for worker in workers}
        self.lock = threading.Lock()
        self.running: Counter[str] = Counter()
        self.overrun: list[str] = []

    def begin(self, address: str) -> None:
        with self.lock:
            self.running[address] += 1
            if self.running[address] > self.workers[address].threads:
                self.overrun.append(address)

    def end(self, address: str) -> None:
        with self.lock:
            self.running[address] -= 1


class Driver(threading.Thread):
    """Drives a run as the runner does. Its tasks end as soon as it looks, or all at once when it breaks."""

    def __init__(self, shared: SharedSlots, cluster: Cluster, chunks: int, *, breaks_at: int = -1, **more):
        super().__init__(daemon=True)
        self.woken = threading.Event()
        self.dispatcher = SharedDispatcher(DEMANDS, 0.0, shared=shared, wake=self.woken.set, **more)
        self.cluster, self.left, self.breaks_at = cluster, list(range(chunks)), breaks_at
        self.done: list[int] = []
        self.most = self.slept_through = 0

    def run(self) -> None:
        d, running = self.dispatcher, list[Choice]()
        d.set_workers(self.cluster.workers.values())
        while self.left or d.waiting or running:
            for chunk in self.left[:7]:
                d.add(Waiting(chunk, 0, 1))
            del self.left[:7]
            for choice in d.choose():
                self.cluster.begin(choice.worker.address)
                running.append(choice)
            self.most = max(self.most, d.in_use)
            if running:
                choice = running.pop(0)
                self.cluster.end(choice.worker.address)
                self.done += chunks_of([choice])
                d.give_back(choice)
                d.offer()
            elif not self.woken.wait(20):
                self.slept_through += 1
                break
            self.woken.clear()
            if 0 <= self.breaks_at <= len(self.done):
                break
        for choice in running:
            self.cluster.end(choice.worker.address)
        d.leave()


@pytest.fixture
def interleaved() -> Iterator[None]:
    """Threads take turns so often that what is not guarded is found out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("interleaved")
def test_many_threads_run_each_chunk_once_and_never_more_on_a_worker_than_it_has_threads():
    workers = [standard(0), standard(1, threads=2)]
    shared, cluster = SharedSlots(), Cluster(*workers)
    drivers = [
        Driver(shared, cluster, 400),
        Driver(shared, cluster, 400, priority=2),
        Driver(shared, cluster, 200, most=1),
        Driver(shared, cluster, 200, breaks_at=50),
        Driver(shared, cluster, 1, priority=-20),
        Driver(shared, cluster, 150, priority=-2),
    ]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)

    assert not any(driver.is_alive() for driver in drivers)
    assert cluster.overrun == []
    assert [driver.slept_through for driver in drivers] == [0] * 6
    for driver, chunks in zip(drivers, (400, 400, 200, None, 1, 150), strict=True):
        assert chunks is None or sorted(driver.done) == list(range(chunks))
    assert drivers[2].most == 1
    assert len(drivers[3].done) == 50
    assert (shared.runs, used(shared)) == (0, 0)


def test_the_slot_of_a_run_with_nothing_to_do_is_with_the_other_within_milliseconds():
    """However long the first one is busy elsewhere after that."""
    shared = SharedSlots()
    first, second = Member(shared, standard(0)), Member(shared, standard(0))
    first.let_wait(0)
    (running,) = first.choose()
    woken = threading.Event()
    second.wake = woken.set
    second.let_wait(1)
    assert second.choose() == []
    found: list[float] = []

    def wait() -> None:
        assert woken.wait(30)
        assert chunks_of(second.choose()) == [1]
        found.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    first.give_back(running)
    began = time.monotonic()
    first.offer()
    waiter.join(30)

    assert found
    assert found[0] - began < 1.0


# Whole runs


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedSlots]:
    """All runs of the test share these slots, and leave none of them taken."""
    slots = SharedSlots()
    monkeypatch.setattr(launch, "make_session", functools.partial(launch.make_session, shared=slots))
    yield slots
    assert slots.runs == 0
    assert not any(used_of(slots).values())


def solve(chunk: pd.DataFrame, *, seconds: float) -> pd.DataFrame:
    time.sleep(seconds)
    return chunk.assign(y=chunk["x"] * 2)


def table(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"x": range(rows)})


def begin(rows: int, seconds: float, cluster: Settings | str, **more) -> RunHandle:
    """A run with a chunk for each row, in a thread."""
    return submit_pipeline(
        more.pop("pipeline", solve),
        table(rows),
        split=more.pop("split", by_rows(1)),
        params=more.pop("params", {"seconds": seconds}),
        cluster=cluster,
        progress=False,
        **more,
    )


def check(report: RunReport, rows: int) -> None:
    assert_conserved(report)
    assert report.state is RunState.SUCCEEDED
    assert report.results()["y"].tolist() == [2 * x for x in range(rows)]


class Attempts:
    """An observer that counts attempts, and is waited upon."""

    def __init__(self) -> None:
        self.ended = threading.Semaphore(0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, AttemptEnded):
            self.ended.release()

    def wait(self, number: int = 1) -> None:
        for _ in range(number):
            assert self.ended.acquire(timeout=60)


@pytest.mark.usefixtures("here")
class TestInThisProcess:
    def test_runs_have_the_only_slot_by_turns(self, shared):
        settings = load_settings(None, {"run.look_ahead": "0s"})
        handles = [begin(8, 0.05, "inline", settings=settings) for _ in range(2)]

        reports = [handle.wait(60) for handle in handles]

        for report in reports:
            check(report, 8)
        attempts = [report.attempts.sort_values("started") for report in reports]
        starts, ends = (
            sorted(pd.concat([a["started"] + more * a["seconds"] for a in attempts])) for more in (0, 1)
        )
        assert all(end <= start + 0.02 for end, start in zip(ends, starts[1:], strict=False))
        first, second = sorted(attempts, key=lambda a: a["started"].min())
        assert second["started"].min() < first["started"].max()

    @pytest.mark.parametrize("kind", [ChunksPlanned, AttemptEnded])
    def test_a_run_that_ends_by_an_exception_leaves_no_slot_taken(self, shared, kind):
        def broken(event: Event) -> None:
            if isinstance(event, kind):
                raise RuntimeError("the observer is broken")

        with pytest.raises(RuntimeError, match="is broken"):
            begin(8, 0.0, "inline", observers=[broken]).wait(60)

        assert (shared.runs, used(shared)) == (0, 0)
        check(begin(3, 0.0, "inline").wait(60), 3)

    def test_a_run_that_is_refused_does_not_take_part(self, shared):
        with pytest.raises(UsageError):
            begin(3, 0.0, "inline", params={"second": 1})

        assert shared.runs == 0

    def test_a_run_may_have_no_fewer_slots_than_one(self):
        with pytest.raises(UsageError, match="max_slots=0 leaves the run no slot"):
            begin(3, 0.0, "inline", max_slots=0)


class Watched:
    """The tasks that workers have, from when they are sent until they are heard of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock = threading.Lock()
        self.at: dict[str, str] = {}
        self.most: dict[str, int] = defaultdict(int)
        self.together = 0
        self._wrap(monkeypatch, "submit", before=self.sent)
        self._wrap(monkeypatch, "wait", after=self.heard)
        self._wrap(monkeypatch, "cancel", after=self.given_up)

    @staticmethod
    def _wrap(
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        before: Callable = lambda *_: None,
        after: Callable = lambda *_: None,
    ) -> None:
        original = getattr(DaskExecutor, name)

        def wrapped(executor, argument):
            before(argument)
            found = original(executor, argument)
            after(argument, found)
            return found

        monkeypatch.setattr(DaskExecutor, name, wrapped)

    def sent(self, placements) -> None:
        with self.lock:
            self.at.update((one.task.key, one.worker) for one in placements)
            self.together = max(self.together, len(self.at))
            for worker, tasks in Counter(self.at.values()).items():
                self.most[worker] = max(self.most[worker], tasks)

    def heard(self, _, signals) -> None:
        with self.lock:
            for one in signals:
                if isinstance(one, TaskDone | TaskLost):
                    self.at.pop(one.key, None)

    def given_up(self, keys, _) -> None:
        with self.lock:
            for key in keys:
                self.at.pop(key, None)


@pytest.mark.cluster
class TestOnWorkers:
    @pytest.fixture
    def plain(self, cluster: Settings) -> Settings:
        """The three workers, with nothing queued behind a busy thread."""
        return load_settings(cluster.path, {"run.look_ahead": "0s"})

    def test_a_few_long_chunks_begin_while_many_short_ones_wait(self, shared, plain, monkeypatch):
        watched = Watched(monkeypatch)
        short, long = begin(240, 0.03, plain), begin(3, 1.0, plain)

        check(short.wait(120), 240)
        check(long.wait(120), 3)

        last_began = long.report.attempts["started"].max()
        assert (short.report.attempts["started"] > last_began).sum() > 20
        assert set(watched.most.values()) == {1}
        assert watched.at == {}

    def test_short_chunks_begin_while_long_ones_wait(self, shared, plain, monkeypatch):
        watched = Watched(monkeypatch)
        long, short = begin(7, 1.0, plain), begin(120, 0.03, plain)

        check(short.wait(120), 120)
        check(long.wait(120), 7)

        first_began = short.report.attempts["started"].min()
        assert (long.report.attempts["started"] > first_began).sum() >= 2
        assert set(watched.most.values()) == {1}
        assert watched.at == {}

    def test_a_run_that_is_cancelled_frees_its_slots_for_the_other(self, shared, plain, monkeypatch):
        watched = Watched(monkeypatch)
        stage = Stage(solve, isolate=True)
        hangs = begin(
            3, 600.0, plain, pipeline=Pipeline("alone", split=by_rows(1), stages=[stage]), split=None
        )
        deadline = time.monotonic() + 60
        while len(watched.at) < 3:
            assert time.monotonic() < deadline, "the slots were not taken"
            time.sleep(0.02)
        other = begin(6, 0.01, plain)
        time.sleep(0.5)
        assert len(watched.at) == 3  # nothing is sent behind what runs

        hangs.cancel()
        asked = time.time()

        check(other.wait(60), 6)
        cancelled = hangs.wait(60)
        assert_conserved(cancelled)
        assert cancelled.state is RunState.CANCELLED
        assert other.report.attempts["started"].min() > asked
        assert set(watched.most.values()) == {1}

    def test_a_run_that_breaks_frees_the_slots_of_what_still_runs(self, shared, plain):
        def broken(event: Event) -> None:
            if isinstance(event, AttemptEnded):
                raise RuntimeError("the observer is broken")

        def uneven(chunk: pd.DataFrame, ctx: ChunkContext, *, seconds: float) -> pd.DataFrame:
            time.sleep(seconds if ctx.chunk else 0.5)
            return chunk

        stage = Stage(uneven, isolate=True)
        breaks = begin(
            3,
            600.0,
            plain,
            pipeline=Pipeline("alone", split=by_rows(1), stages=[stage]),
            split=None,
            observers=[broken],
        )
        other = begin(6, 0.01, plain)

        with pytest.raises(RuntimeError, match="is broken"):
            breaks.wait(60)
        check(other.wait(60), 6)

    def test_a_run_has_no_more_tasks_at_a_time_than_it_may(self, cluster, monkeypatch):
        watched = Watched(monkeypatch)

        check(begin(20, 0.05, cluster, max_slots=2).wait(60), 20)

        assert watched.together == 2
