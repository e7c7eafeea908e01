"""Makes the tasks of what was chosen: one chunk, or several that ride together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchrun.data.table import Slice, TableRef
from batchrun.dispatch import Choice
from batchrun.executor import Placement
from batchrun.runner.combining import Combining
from batchrun.runner.state import RunnerState, RunningTask
from batchrun.waiting import Waiting
from batchrun.worker.pack import Member, Pack
from batchrun.worker.task import Limits, Task, ship
from batchrun.worker.work import Work

__all__ = ["Placing"]

WIDEST_GAP = 64
"""Chunks of a pack are read in one go unless more than so many times their rows lie between them,"""
LARGEST_GAP = 2**18
"""or more than so many bytes."""


@dataclass
class Placing:
    """Puts chunks into tasks."""

    state: RunnerState
    combining: Combining | None = None
    _serial: int = 0

    def place(self, choice: Choice, *, beside: RunningTask | None = None) -> Placement:
        """Make the task of a choice; it counts as running from now on.

        *beside* is the first try of its chunk, if that goes on.
        """
        task: Work
        if self.combining is not None and choice.first.leg == self.combining.leg:
            task = self.combining.fold(choice, f"batchrun-{self.state.run_id}-combine-{self._token()}")
        else:
            task = self._task(choice, beside) if len(choice.items) == 1 else self._pack(choice)
        self.state.running.place(task, choice, beside=beside)
        return Placement(task, choice.worker.address, self_contained=beside is not None)

    def _task(self, choice: Choice, beside: RunningTask | None) -> Task:
        state, waiting = self.state, choice.first
        chunk, leg = waiting.chunk, waiting.leg
        stages = [state.pipeline.stages[number] for number in state.legs[leg]]
        progress = state.chunks.get(chunk)
        ref = (progress.input if progress else None) or state.source.slice(*state.plan.bounds(chunk))
        shared = state.executor.shares_files
        token = self._token()
        return Task(
            key=f"batchrun-{state.run_id}-{chunk}-{leg}-{token}",
            run_id=state.run_id,
            chunk=chunk,
            leg=leg,
            attempt=state.attempt(waiting) + (beside is not None),
            rows=waiting.rows,
            input=ref if shared else ship(ref),
            demand=state.dispatcher.demand(leg, waiting.memory),
            store_to=self._path(chunk, leg, token) if shared else None,
            inline_limit=self._inline_limit(leg),
            limits=tuple(Limits(stage.name, stage.timeout, stage.stop_after) for stage in stages)
            if stages[0].isolated
            else (),
            grace=state.settings.solution_grace,
            chunks_per_child=state.settings.chunks_per_child,
            fresh=waiting.fresh,
            then=self._then(choice) if shared and not stages[0].isolated else None,
        )

    def _then(self, choice: Choice) -> Slice | None:
        """What the worker may read meanwhile."""
        following = choice.then
        if following is None:
            return None
        return self.state.source.slice(*self.state.plan.bounds(following.chunk))

    def _pack(self, choice: Choice) -> Pack:
        state, first = self.state, choice.first
        shared, token = state.executor.shares_files, self._token()
        members: list[Member] = []
        inputs: list[TableRef] = []
        for ref, offsets, items in self._inputs(choice.items):
            for item, offset in zip(items, offsets, strict=True):
                members.append(Member(item.chunk, state.attempt(item), item.rows, len(inputs), offset))
            inputs.append(ref if shared else ship(ref))
        return Pack(
            key=f"batchrun-{state.run_id}-{first.chunk}+{len(members) - 1}-{first.leg}-{token}",
            run_id=state.run_id,
            leg=first.leg,
            members=tuple(members),
            inputs=tuple(inputs),
            demand=state.dispatcher.demand(first.leg),
            store_to=self._path(first.chunk, first.leg, token) if shared else None,
            inline_limit=self._inline_limit(first.leg),
        )

    def _inputs(
        self, items: Sequence[Waiting]
    ) -> Iterator[tuple[TableRef, Sequence[int | None], Sequence[Waiting]]]:
        """What the chunks of a pack are read from: each input, where in it each chunk begins, the chunks."""
        state = self.state
        if items[0].leg > 0:
            for item in items:
                handed = state.progress(item.chunk).input
                yield handed or state.source.slice(*state.plan.bounds(item.chunk)), [None], [item]
            return
        placed = sorted((*state.plan.bounds(item.chunk), position) for position, item in enumerate(items))
        widest = LARGEST_GAP / max(1.0, state.source.bytes_per_row)
        stretch: list[tuple[int, int, int]] = []
        for place in placed:
            gap = place[0] - stretch[-1][1] if stretch else 0
            if gap > min(widest, WIDEST_GAP * (place[1] - place[0])):
                yield self._stretch(stretch, items)
                stretch = []
            stretch.append(place)
        yield self._stretch(stretch, items)

    def _stretch(
        self, places: Sequence[tuple[int, int, int]], items: Sequence[Waiting]
    ) -> tuple[TableRef, Sequence[int], Sequence[Waiting]]:
        first = places[0][0]
        ref = self.state.source.slice(first, places[-1][1])
        return ref, [start - first for start, _, _ in places], [items[position] for _, _, position in places]

    def _is_last(self, leg: int) -> bool:
        return leg == len(self.state.legs) - 1

    def _inline_limit(self, leg: int) -> int:
        settings = self.state.settings
        return settings.small_result if self._is_last(leg) else settings.small_handoff

    def _path(self, chunk: int, leg: int, token: str) -> str:
        folder = self.state.folder
        return folder.result(chunk, token) if self._is_last(leg) else folder.handoff(chunk, leg, token)

    def _token(self) -> str:
        self._serial += 1
        return f"{self.state.recorder.session}-{self._serial:x}"
