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
- Nothing waits behind a short task from a second after it was placed on; what has not begun of it by then is
  asked back, and waits again for any slot.
- Nothing else takes time: no interference between tasks, no network shared by workers, no scheduler's queue.
  Results are not combined, no task is started a second time, and a slow driver loses no heartbeat.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from batchrun.dispatch import Choice, Dispatcher, share
from batchrun.outcome import Cause, ErrorRecord
from batchrun.recovery import Cut, Enlarge, Failure, GiveUp, Retry, decide
from batchrun.slots import Slots
from batchrun.waiting import Waiting
from tests.simulation.model import Costs, Fleet, Work
from tests.simulation.runs import History, SimulatedRun
from tests.simulation.workers import SimulatedWorker, Task

RECALL_AFTER = 1.0
"""Seconds after which what has not begun of a short task is asked back, as the runner does."""
ERRORS = {
    cause: ErrorRecord(cause.value, "simulated", classes=("Exception",), signature=cause.value)
    for cause in Cause
}


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
                work,
                Dispatcher(
                    work.demands,
                    isolated=work.isolated,
                    slots=self.slots,
                    priority=work.priority,
                    most=work.most,
                ),
                self.chance,
                fleet,
            )
            for work in works
        ]
        self.now = 0.0
        self.driver_busy = 0.0
        self.busy = 0.0
        """Seconds that threads ran chunks whose results counted."""
        self.losses = 0
        self.policy_seconds = 0.0
        """Seconds by the clock in choosing, and in giving slots back."""
        self.workers_seconds = 0.0
        """Seconds by the clock in taking note of workers that come and go."""
        self.most_states = 0
        self._events: list[tuple[float, int, str, object]] = []
        self._serial = 0
        self._live: dict[str, SimulatedWorker] = {}
        self._changed = False
        self._accounted = 0.0
        self._active: list[SimulatedRun] = []
        self._short: deque[tuple[float, Task]] = deque()
        """Tasks behind which others may wait, or with several chunks, and when they were placed."""
        self._looks = False
        """Whether an event to look for late ones is on its way."""

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
            when, _, kind, what = heapq.heappop(events)
            if kind == "done":
                self._done(what, when)  # type: ignore[arg-type]
            elif kind == "lost":
                lost += self._lose(what)  # type: ignore[arg-type]
            elif kind == "killed":
                lost += self._kill(what, when)  # type: ignore[arg-type]
            elif kind == "look":
                self._look_for_late()
            elif kind == "recall":
                self._recall(*what, when)  # type: ignore[misc]
            elif kind == "returned":
                self._returned(*what)  # type: ignore[misc]
            elif kind == "back":
                self._appear(*what)  # type: ignore[misc]
            elif kind == "again":
                run, item = what  # type: ignore[misc]
                run.dispatcher.add(item)
            else:
                self._begin(what)  # type: ignore[arg-type]
        if self._changed:
            self._note_workers()
        for task in lost:
            self._lost(task)

    def _begin(self, run: SimulatedRun) -> None:
        run.begin()
        self._active.append(run)

    def _appear(self, number: int, life: int) -> None:
        """A worker joins, for the first time or again."""
        worker = self.fleet.workers[number]
        worker = replace(worker, address=f"{worker.address}:{life}")
        free_at = [self.now] * worker.threads
        one = SimulatedWorker(number, life, worker, self.fleet.speeds[number], self.costs.start, free_at)
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
        start = perf_counter()
        for run in self.runs:
            run.dispatcher.set_workers(workers)
        self.workers_seconds += perf_counter() - start
        self._changed = False

    def _kill(self, task: Task, when: float) -> list[Task]:
        """A chunk takes its worker away, unless it was asked back; returns the tasks that went with it."""
        return self._lose(task.worker) if task in task.worker.tasks and task.ends == when else []

    def _done(self, task: Task, when: float) -> None:
        """A task came back, unless its worker is gone, or it ends earlier since part of it was asked back."""
        if task.worker.worker.address not in self._live or task not in task.worker.tasks:
            return
        if task.ends + self.costs.latency != when:
            return
        run, choice = task.run, task.choice
        leg = choice.first.leg
        self.now += self.costs.take + self.costs.record * len(choice.items)
        task.worker.release(task)
        start = perf_counter()
        run.dispatcher.give_back(choice)
        if not task.failures:
            run.dispatcher.measured(
                leg, task.seconds, chunks=len(choice.items), cost=sum(item.cost for item in choice.items)
            )
        self.policy_seconds += perf_counter() - start
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
                again = item._replace(
                    avoid=item.avoid | {task.choice.worker.name},
                    alone=item.alone or cause is Cause.WORKER_LOST,
                )
                self._at(self.now + wait, "again", (run, again))
            case Enlarge(memory=memory):
                run.dispatcher.add(item._replace(memory=memory))
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
        self._feed()
        while choices := self._choose():
            for chosen in choices:
                self.now += costs.place
                pending.append(chosen)
                if len(pending) == costs.slice:
                    self._submit(pending)
                    pending = []
            if not self._feed():
                break
        self._submit(pending)
        self.most_states = max(self.most_states, self.slots.states)

    def _feed(self) -> bool:
        """Let chunks wait; returns whether more do."""
        start = perf_counter()
        more = [run.feed() for run in self._active]
        self.policy_seconds += perf_counter() - start
        return any(more)

    def _choose(self) -> list[tuple[SimulatedRun, Choice]]:
        active, start = self._active, perf_counter()
        if len(active) == 1:
            chosen = [(active[0], choice) for choice in active[0].dispatcher.choose()]
        else:
            chosen = [(active[number], it) for number, it in share([run.dispatcher for run in active])]
        self.policy_seconds += perf_counter() - start
        return chosen

    def _submit(self, chosen: Sequence[tuple[SimulatedRun, Choice]]) -> None:
        """Tasks set out for their workers, all at once."""
        costs = self.costs
        for run, choice in chosen:
            worker, leg = self._live[choice.worker.address], choice.first.leg
            lengths: list[float] = []
            failures: dict[int, Cause] = {}
            for item in choice.items:
                seconds = run.seconds[leg][item.chunk] / worker.speed
                cause = run.failure(item)
                if cause is not None:
                    seconds *= self.chance.random()
                    failures[item.chunk] = cause
                lengths.append(seconds)
                if cause is Cause.WORKER_LOST:
                    break
            wanted = run.dispatcher.demand(leg, choice.first.memory).resources()
            rows = sum(item.rows for item in choice.items)
            arrives = self.now + costs.latency + rows * costs.row_bytes / costs.bandwidth
            task = Task(run, choice, worker, lengths, failures, wanted, arrives)
            worker.hold(task)
            run.tasks += 1
            run.placed += len(choice.items)
            self._await(task)
            if not choice.long or task.is_recallable:
                self._short.append((self.now, task))
        if self._short and not self._looks:
            self._looks = True
            self._at(self.now + RECALL_AFTER / 4, "look", None)

    def _await(self, task: Task) -> None:
        """The end of a task on its worker comes to the driver."""
        if task.kills:
            self._at(task.ends, "killed", task)
        else:
            self._at(task.ends + self.costs.latency, "done", task)

    # What is asked back

    def _look_for_late(self) -> None:
        """Let nothing more wait behind short tasks that take long; ask back what has not begun of them."""
        late: dict[SimulatedWorker, list[Task]] = {}
        while self._short and self._short[0][0] < self.now - RECALL_AFTER:
            _, task = self._short.popleft()
            if task in task.worker.tasks and task.worker.worker.address in self._live:
                task.choice = task.run.dispatcher.overdue(task.choice)
                if task.is_recallable:
                    late.setdefault(task.worker, []).append(task)
        for worker, tasks in late.items():
            self._at(self.now + self.costs.latency, "recall", (worker, tasks))
        self._looks = bool(self._short)
        if self._looks:
            self._at(self.now + RECALL_AFTER / 4, "look", None)

    def _recall(self, worker: SimulatedWorker, tasks: Sequence[Task], when: float) -> None:
        """A worker is asked for what has not begun of tasks."""
        if worker.worker.address not in self._live:
            return
        ends = {task: task.ends for task in worker.tasks}
        for task, items in worker.recall(tasks, when):
            self._at(when + self.costs.latency, "returned", (task, items, task not in worker.tasks))
        for task in worker.tasks:
            if task.ends != ends[task]:
                self._await(task)

    def _returned(self, task: Task, items: Sequence[Waiting], whole: bool) -> None:
        """Chunks that had not begun wait again, for any slot; with the *whole* task its slot is free."""
        run = task.run
        self.now += self.costs.take
        if whole:
            run.dispatcher.give_back(task.choice)
        run.placed -= len(items)
        run.recalled += len(items)
        for item in items:
            run.dispatcher.add(item)

    def _account(self) -> None:
        """Time has passed; count who had the slots, if all wanted more."""
        seconds, self._accounted = self.now - self._accounted, self.now
        if len(self.runs) > 1 and len(self._active) == len(self.runs) and all(r.hungry for r in self.runs):
            for run in self.runs:
                run.slot_seconds += seconds * run.dispatcher.in_use
