"""A discrete-event simulation of the driver and its workers, around the policies of the product.

``batchrun.dispatch``, ``batchrun.slots``, ``batchrun.recovery`` and ``batchrun.forecast`` are the very ones
that run in production; what the runner, the executor and Dask do around them is modelled:

- The driver is one server. It wakes when something came in, takes all that did, decides, and submits what it
  chose; each step takes it time (``Costs``), during which workers that came free wait.
- A task reaches its worker after a latency and the reading of its rows, starts when a thread is free, first
  come first served, runs its chunks one after the other, and is heard of a latency after its end.
- A worker lives for an exponential time, is gone for a while with all that was on it, and comes back under
  another address. Chunks fail by chance, by a bad row, by memory, or take their worker with them, somewhere
  on their way.
- Nothing else takes time: no interference between tasks, no network shared by workers, no scheduler's queue.
  Packs are not recalled, no task is started a second time, and a slow driver loses no heartbeat.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import process_time

from batchrun.dispatch import Choice, Dispatcher, Waiting, share
from batchrun.outcome import Cause, ErrorRecord
from batchrun.recovery import Cut, Enlarge, Failure, GiveUp, Retry, decide
from batchrun.resources import Worker
from batchrun.slots import Slots
from batchrun.split import halve
from tests.simulation.model import Costs, Fleet, Work

FEED = 4_096
"""Chunks handed to a dispatcher at a time, as the runner does."""
ERRORS = {
    cause: ErrorRecord(cause.value, "simulated", classes=("Exception",), signature=cause.value)
    for cause in Cause
}


@dataclass(slots=True, eq=False)
class Task:
    """A task that was placed."""

    run: SimulatedRun
    choice: Choice
    worker: SimulatedWorker
    failures: dict[int, Cause]
    """Why chunks on it fail, by number."""
    seconds: float
    """That its chunks take on this worker."""
    alone: bool = True


@dataclass(eq=False)
class SimulatedWorker:
    """A worker of the model, from one return to the next loss."""

    number: int
    """Its place in the fleet."""
    life: int
    """How often it was lost before."""
    worker: Worker
    speed: float
    free_at: list[float]
    """When each of its threads will be free, a heap."""
    tasks: dict[Task, None] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    """Memory and tags that running tasks hold."""

    def hold(self, task: Task, wanted: dict[str, float]) -> None:
        """A task is on it; raises AssertionError if it was promised more than the worker has."""
        for other in self.tasks:
            other.alone = task.alone = False
        self.tasks[task] = None
        has = {"MEMORY": self.worker.memory, **self.worker.tags}
        for tag, amount in wanted.items():
            self.used[tag] += amount
            assert self.used[tag] <= has.get(tag, 0), f"{tag} of {self.worker.name} was promised twice"

    def release(self, task: Task, wanted: dict[str, float]) -> None:
        """A task is no longer on it."""
        del self.tasks[task]
        self.used.subtract(wanted)


@dataclass
class History:
    """How often a chunk failed at its present leg, counted as the runner does."""

    failures: Counter[Cause] = field(default_factory=Counter)
    """By cause; a part begins with those of the chunk that it is a part of."""
    inherited: str | None = None
    """The signature of the error that it began with; another error begins its count anew."""

    def failed(self, cause: Cause, error: ErrorRecord) -> int:
        """Count a failure; returns how many there are of this cause."""
        if self.inherited is not None and self.inherited != error.signature:
            self.failures[cause] = 0
        self.inherited = None
        self.failures[cause] += 1
        return self.failures[cause]


@dataclass(eq=False)
class SimulatedRun:
    """A run of the model: the truth about its chunks, and what became of them."""

    work: Work
    dispatcher: Dispatcher
    chance: random.Random
    rows: list[int] = field(init=False)
    seconds: list[list[float]] = field(init=False)
    upper: list[list[float]] | None = field(init=False)
    bad_row: dict[int, int] = field(init=False)
    asks: list[int] | None = field(init=False)
    memory: list[int] | None = field(init=False)
    solved: bytearray = field(init=False)
    """By chunk: the legs that it passed."""
    rows_solved: int = 0
    rows_apart: int = 0
    cut: int = 0
    open: int = 0
    """Chunks that are neither settled nor cut."""
    placed: int = 0
    """Tries of one chunk at one leg."""
    passed: int = 0
    """Those that ended well."""
    failed: Counter[Cause] = field(default_factory=Counter)
    """Those that did not."""
    tasks: int = 0
    ended: float = math.nan
    slot_seconds: float = 0.0
    """Slots that it had, over the time in which all runs wanted more."""
    progress: dict[int, History] = field(default_factory=dict)

    def __post_init__(self) -> None:
        work, chunks = self.work, len(self.work.rows)
        self.rows, self.seconds = work.rows.tolist(), work.seconds.tolist()
        self.upper = None if work.upper is None else work.upper.tolist()
        bad = [] if work.bad_row is None else enumerate(work.bad_row.tolist())
        self.bad_row = {chunk: row for chunk, row in bad if row >= 0}
        self.asks = None if work.asks is None else work.asks.tolist()
        self.memory = None if work.memory is None else work.memory.tolist()
        self.solved = bytearray(chunks)
        self.open = chunks
        cost = work.rows if work.upper is None else work.upper.sum(axis=0)
        self._order = (-cost).argsort(kind="stable")
        self._given = 0

    @property
    def hungry(self) -> bool:
        """Whether it would use more slots than it has."""
        return bool(self.dispatcher.waiting) or self._given < len(self._order)

    def feed(self) -> None:
        """Let chunks wait for slots, those that may take longest first."""
        dispatcher = self.dispatcher
        if dispatcher.waiting < FEED // 4 and self._given < len(self._order):
            chunks = self._order[self._given : self._given + FEED].tolist()
            self._given += len(chunks)
            for chunk in chunks:
                dispatcher.add(self.waiting(chunk, self.leg_after(chunk, -1)))
        dispatcher.behind = len(self._order) - self._given

    def waiting(self, chunk: int, leg: int, *, part: bool = False) -> Waiting:
        """A chunk that waits for a leg."""
        upper = None if self.upper is None else self.upper[leg][chunk]
        asks = self.asks[chunk] if self.asks else 0
        return Waiting(chunk, leg, self.rows[chunk], seconds=upper, part=part, memory=asks)

    def leg_after(self, chunk: int, leg: int) -> int:
        """The next leg that a chunk passes; the number of legs if there is none."""
        leg += 1
        while leg < len(self.seconds) and not self.seconds[leg][chunk]:
            leg += 1
        return leg

    def failure(self, item: Waiting) -> Cause | None:
        """Why a try of a chunk will fail, or None."""
        chunk = item.chunk
        if chunk in self.work.killers:
            return Cause.WORKER_LOST
        if self.memory is not None:
            granted = item.memory or self.work.demands[item.leg].memory
            if self.memory[chunk] > granted:
                return Cause.MEMORY
        if chunk in self.bad_row or (self.work.flaky and self.chance.random() < self.work.flaky):
            return Cause.ERROR
        return None

    def halve(self, chunk: int) -> list[int]:
        """Cut a chunk in two; returns the numbers of the parts."""
        rows, bad = self.rows[chunk], self.bad_row.get(chunk)
        middle = halve(0, rows)
        assert middle is not None
        parts = []
        for start, stop in ((0, middle), (middle, rows)):
            part = len(self.rows)
            parts.append(part)
            weight = (stop - start) / rows
            self.rows.append(stop - start)
            self.solved.append(0)
            for column in [*self.seconds, *(self.upper or [])]:
                column.append(column[chunk] * weight)
            if self.asks is not None:
                self.asks.append(self.asks[chunk])
            if self.memory is not None:
                self.memory.append(math.ceil(self.memory[chunk] * weight))
            if bad is not None and start <= bad < stop:
                self.bad_row[part] = bad - start
        self.open += 1
        self.cut += 1
        return parts


class Simulation:
    """Runs that share a fleet, from their start to the end of the last one."""

    def __init__(
        self, fleet: Fleet, works: Sequence[Work], *, costs: Costs | None = None, seed: int = 0
    ) -> None:
        self.fleet, self.costs = fleet, costs or Costs()
        self.chance = random.Random(seed)
        self.slots = Slots()
        self.runs = [
            SimulatedRun(
                work, Dispatcher(work.demands, isolated=work.isolated, slots=self.slots), self.chance
            )
            for work in works
        ]
        self.now = 0.0
        self.driver_busy = 0.0
        self.busy = 0.0
        """Seconds that threads ran chunks whose results counted."""
        self.losses = 0
        self.policy_seconds = 0.0
        """Processor time in choosing, and in giving slots back."""
        self.workers_seconds = 0.0
        """Processor time in taking note of workers that come and go."""
        self.most_states = 0
        self._events: list[tuple[float, int, str, object]] = []
        self._serial = 0
        self._live: dict[str, SimulatedWorker] = {}
        self._changed = False
        self._accounted = 0.0
        self._active: list[SimulatedRun] = []

    @property
    def makespan(self) -> float:
        """When the last run ended."""
        return max(run.ended for run in self.runs)

    def run(self) -> Simulation:
        """Run to the end."""
        for number, _ in enumerate(self.fleet.workers):
            self._appear(number, 0)
        self._note_workers()
        for run in self.runs:
            self._at(run.work.begins, "begin", run)
        while any(math.isnan(run.ended) for run in self.runs):
            self.now = max(self.now, self._events[0][0])
            self._account()
            start = self.now
            self._take_all()
            self._dispatch()
            self.driver_busy += self.now - start
        return self

    # What comes in

    def _at(self, when: float, kind: str, what: object) -> None:
        self._serial += 1
        heapq.heappush(self._events, (when, self._serial, kind, what))

    def _take_all(self) -> None:
        """All that has happened by now, each thing in its turn."""
        events, until = self._events, self.now
        lost: list[Task] = []
        while events and events[0][0] <= until:
            _, _, kind, what = heapq.heappop(events)
            if kind == "done":
                self._done(what)  # type: ignore[arg-type]
            elif kind == "lost":
                lost += self._lose(what)  # type: ignore[arg-type]
            elif kind == "back":
                self._appear(*what)  # type: ignore[misc]
            elif kind == "again":
                run, item = what  # type: ignore[misc]
                run.dispatcher.add(item)
            else:
                self._active.append(what)  # type: ignore[arg-type]
        if self._changed:
            self._note_workers()
        for task in lost:
            self._lost(task)

    def _appear(self, number: int, life: int) -> None:
        """A worker joins, for the first time or again."""
        worker = self.fleet.workers[number]
        worker = replace(worker, address=f"{worker.address}:{life}")
        free_at = [self.now] * worker.threads
        one = SimulatedWorker(number, life, worker, self.fleet.speeds[number], free_at)
        self._live[worker.address] = one
        self._changed = True
        if self.fleet.life is not None:
            self._at(self.now + self.chance.expovariate(1 / self.fleet.life), "lost", one)

    def _lose(self, worker: SimulatedWorker) -> list[Task]:
        """A worker goes away; returns the tasks that went with it."""
        if self._live.pop(worker.worker.address, None) is None:  # a chunk on it was quicker
            return []
        self.losses += 1
        self._changed = True
        self._at(self.now + self.fleet.away, "back", (worker.number, worker.life + 1))
        return list(worker.tasks)

    def _note_workers(self) -> None:
        workers = [one.worker for one in self._live.values()]
        start = process_time()
        for run in self.runs:
            run.dispatcher.set_workers(workers)
        self.workers_seconds += process_time() - start
        self._changed = False

    def _done(self, task: Task) -> None:
        """A task came back from a worker that is still there."""
        if task.worker.worker.address not in self._live:
            return
        run, choice = task.run, task.choice
        leg = choice.first.leg
        self.now += self.costs.take + self.costs.record * len(choice.items)
        task.worker.release(task, run.dispatcher.demand(leg, choice.first.memory).resources())
        start = process_time()
        run.dispatcher.give_back(choice)
        if not task.failures:
            run.dispatcher.measured(
                leg, task.seconds, chunks=len(choice.items), cost=sum(item.cost for item in choice.items)
            )
        self.policy_seconds += process_time() - start
        for item in choice.items:
            cause = task.failures.get(item.chunk)
            if cause is None:
                self._passed(run, item)
            else:
                self._failed(task, item, cause)
        if not run.open:
            self._end(run)

    def _lost(self, task: Task) -> None:
        """A task went away with its worker."""
        run, choice = task.run, task.choice
        self.now += self.costs.take
        run.dispatcher.give_back(choice)
        for item in choice.items:
            self._failed(task, item, Cause.WORKER_LOST)
        if not run.open:
            self._end(run)

    def _end(self, run: SimulatedRun) -> None:
        run.ended = self.now
        self._active.remove(run)

    # What becomes of chunks

    def _passed(self, run: SimulatedRun, item: Waiting) -> None:
        chunk = item.chunk
        run.passed += 1
        assert not run.solved[chunk] >> item.leg & 1, f"chunk {chunk} passed leg {item.leg} twice"
        run.solved[chunk] |= 1 << item.leg
        self.busy += run.seconds[item.leg][chunk]
        run.progress.pop(chunk, None)
        leg = run.leg_after(chunk, item.leg)
        if leg < len(run.seconds):
            run.dispatcher.add(run.waiting(chunk, leg))
        else:
            run.rows_solved += run.rows[chunk]
            run.open -= 1

    def _failed(self, task: Task, item: Waiting, cause: Cause) -> None:
        """As ``runner.aftermath`` does."""
        run, chunk = task.run, item.chunk
        progress = run.progress.setdefault(chunk, History())
        demand = run.dispatcher.demand(item.leg, item.memory)
        run.failed[cause] += 1
        failure = Failure(
            cause,
            ERRORS[cause],
            count=progress.failed(cause, ERRORS[cause]),
            alone=task.alone and len(task.choice.items) == 1,
            divisible=run.rows[chunk] > 1,
            larger=run.dispatcher.larger_memory(item.leg, demand.memory),
        )
        match decide(failure, policy=run.work.policy, chance=self.chance.random()):
            case Retry(wait=wait):
                again = replace(
                    item,
                    avoid=item.avoid | {task.choice.worker.name},
                    alone=item.alone or cause is Cause.WORKER_LOST,
                )
                self._at(self.now + wait, "again", (run, again))
            case Enlarge(memory=memory):
                run.dispatcher.add(replace(item, memory=memory))
            case Cut():
                for part in run.halve(chunk):
                    run.progress[part] = History(
                        failures=Counter(progress.failures), inherited=ERRORS[cause].signature
                    )
                    run.dispatcher.add(run.waiting(part, item.leg, part=True))
                del run.progress[chunk]
            case GiveUp():
                run.rows_apart += run.rows[chunk]
                run.open -= 1
                del run.progress[chunk]

    # What goes out

    def _dispatch(self) -> None:
        """Fill every free slot."""
        costs = self.costs
        pending: list[tuple[SimulatedRun, Choice]] = []
        while True:
            start = process_time()
            for run in self._active:
                run.feed()
            choices = self._choose()
            self.policy_seconds += process_time() - start
            if not choices:
                break
            for chosen in choices:
                self.now += costs.place
                pending.append(chosen)
                if len(pending) == costs.slice:
                    self._submit(pending)
                    pending = []
        self._submit(pending)
        self.most_states = max(self.most_states, self.slots.states)

    def _choose(self) -> list[tuple[SimulatedRun, Choice]]:
        active = self._active
        if len(active) == 1:
            return [(active[0], choice) for choice in active[0].dispatcher.choose()]
        return [(active[number], choice) for number, choice in share([run.dispatcher for run in active])]

    def _submit(self, chosen: Sequence[tuple[SimulatedRun, Choice]]) -> None:
        """Tasks set out for their workers, all at once."""
        costs = self.costs
        for run, choice in chosen:
            worker = self._live[choice.worker.address]
            leg = choice.first.leg
            task = Task(run, choice, worker, {}, 0.0)
            killed = False
            for item in choice.items:
                seconds = run.seconds[leg][item.chunk] / worker.speed
                cause = run.failure(item)
                if cause is not None:
                    seconds *= self.chance.random()
                    task.failures[item.chunk] = cause
                    killed |= cause is Cause.WORKER_LOST
                task.seconds += seconds
                if killed:
                    break
            worker.hold(task, run.dispatcher.demand(leg, choice.first.memory).resources())
            rows = sum(item.rows for item in choice.items)
            arrives = self.now + costs.latency + rows * costs.row_bytes / costs.bandwidth
            ends = max(arrives, worker.free_at[0]) + costs.start + task.seconds
            heapq.heapreplace(worker.free_at, ends)
            run.tasks += 1
            run.placed += len(choice.items)
            if killed:
                self._at(ends, "lost", worker)
            else:
                self._at(ends + costs.latency, "done", task)

    def _account(self) -> None:
        """Time has passed; count who had the slots, if all wanted more."""
        seconds, self._accounted = self.now - self._accounted, self.now
        if len(self.runs) > 1 and len(self._active) == len(self.runs) and all(r.hungry for r in self.runs):
            for run in self.runs:
                run.slot_seconds += seconds * run.dispatcher.in_use
