"""Combines the results of a run on workers while it goes on, where its ``combine`` may be applied in parts.

The input is laid out in ranges of ``FAN_IN`` chunks. When all rows of a range are settled, the results of its
chunks are combined on a worker; when as many neighbouring ranges are, what they gave; and so on, up to one
frame. Order is kept: what is combined are always neighbours. So no process ever holds more than a few
results, and the client none.

What a fold makes is not recorded. Results of chunks are, and a run that goes on combines them again.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from batchrun.data import files
from batchrun.data.table import Inline, Stored
from batchrun.dispatch import Choice
from batchrun.outcome import ErrorRecord
from batchrun.runner.state import RunnerState
from batchrun.store.records import SettledChunks
from batchrun.waiting import Waiting
from batchrun.worker.fold import Fold, FoldResult

if TYPE_CHECKING:
    from batchrun.data.refs import ResultRefs
    from batchrun.outcome import Integers

__all__ = ["Combining"]

logger = logging.getLogger("batchrun")

FAN_IN = 64
"""How many results are combined at a time."""
MOST_LOST = 3
"""A fold that is lost so often is left to the client."""

Node = tuple[int, int]
"""A place in the tree: its level, from 1, and its number in input order."""


@dataclass
class Combining:
    """The tree of folds of one run."""

    state: RunnerState
    error: ErrorRecord | None = None
    """What ``combine`` raised."""
    result: str | None = None
    """The file of the combined result, once all is combined."""
    _edges: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    _rows: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _parts: dict[int, list[SettledChunks]] = field(default_factory=lambda: defaultdict(list))
    _outputs: dict[Node, Inline | Stored | None] = field(default_factory=dict)
    _nodes: list[Node] = field(default_factory=list)
    _numbers: dict[Node, int] = field(default_factory=dict)
    _inputs: dict[int, tuple[ResultRefs | Inline | Stored, ...]] = field(default_factory=dict)
    _lost: int = 0
    _given_up: bool = False

    @property
    def leg(self) -> int:
        """The leg that folds wait for: the one after all stages."""
        return len(self.state.legs)

    @property
    def busy(self) -> bool:
        """Whether something is still to be combined."""
        return not (self._given_up or self.error or self.result or self._nothing)

    def settled(self, chunks: SettledChunks) -> None:
        """These chunks have their outcomes, and their results are durable."""
        if self._given_up or self.error or not len(chunks):
            return
        self._edges = self.state.plan.every(FAN_IN)
        starts, stops = self.state.plan.bounds_of(chunks.chunks)
        numbers = np.searchsorted(self._edges, starts, side="right") - 1
        for number in np.unique(numbers).tolist():
            these = numbers == number
            self._rows[number] += int((stops - starts)[these].sum())
            self._parts[number].append(chunks.where(these & chunks.solved))
            self._try_first(number)
        self._try_last()

    def fold(self, choice: Choice, key: str) -> Fold:
        """The task of a fold that was chosen."""
        number = -choice.first.chunk - 1
        is_last = self._is_top(self._nodes[number])
        folder = self.state.folder
        return Fold(
            key=key,
            number=number,
            parts=self._inputs[number],
            store_to=folder.combined if is_last else files.join(folder.folds, f"{key}.arrow"),
            inline_limit=-1 if is_last else self.state.settings.small_handoff,
        )

    def done(self, waiting: Waiting, result: FoldResult) -> None:
        """A fold came back."""
        number = -waiting.chunk - 1
        self._inputs.pop(number, None)
        if result.output is None:
            self.error = result.error
        else:
            self._put(self._nodes[number], result.output)
            self._try_last()

    def lost(self, waiting: Waiting) -> None:
        """A fold will not come back; it is tried again, and in the end all is left to the client."""
        self._lost += 1
        if self._lost <= MOST_LOST:
            self.state.dispatcher.add(waiting)
        else:
            self._given_up = True
            logger.warning("combining on workers was given up; the results are combined here at the end")

    @property
    def _nothing(self) -> bool:
        """Whether no chunk at all has a result."""
        top = self._top
        return top is not None and top in self._outputs and self._outputs[top] is None

    @property
    def _top(self) -> Node | None:
        """The node of all; None while there may still be more chunks."""
        if not self.state.plan.complete:
            return None
        level, nodes = 1, max(1, len(self._edges))
        while nodes > 1:
            level, nodes = level + 1, -(-nodes // FAN_IN)
        return level, 0

    def _is_top(self, node: Node) -> bool:
        return node == self._top

    def _try_first(self, number: int) -> None:
        """Combine the chunks of a range if all of its rows are settled."""
        ends = number + 1 < len(self._edges)
        if not (ends or self.state.plan.complete):
            return
        end = int(self._edges[number + 1]) if ends else self.state.plan.rows
        if (1, number) in self._numbers or self._rows[number] < end - int(self._edges[number]):
            return
        chunks = SettledChunks.joined(self._parts.pop(number, []))
        starts, _ = self.state.plan.bounds_of(chunks.chunks)
        parts = chunks.take(np.argsort(starts, kind="stable")).results
        self._start((1, number), (parts,) if len(parts) else ())

    def _try_last(self) -> None:
        """What becomes complete only because the plan is."""
        if self.state.plan.complete and len(self._edges):
            self._try_first(len(self._edges) - 1)

    def _start(self, node: Node, parts: tuple[ResultRefs | Inline | Stored, ...]) -> None:
        """Let a fold wait for a slot."""
        number = self._numbers[node] = len(self._nodes)
        self._nodes.append(node)
        if not parts:
            self._put(node, None)
            return
        self._inputs[number] = parts
        self.state.dispatcher.add(Waiting(-number - 1, self.leg, 0, apart=True))

    def _put(self, node: Node, output: Inline | Stored | None) -> None:
        """A node has its result; combine its neighbours with it if they have theirs."""
        self._outputs[node] = output
        if self._is_top(node):
            self.result = output.path if isinstance(output, Stored) else None
            return
        level, number = node
        parent = (level + 1, number // FAN_IN)
        first, last = parent[1] * FAN_IN, (parent[1] + 1) * FAN_IN
        if not self.state.plan.complete and last > self._count(level):
            return
        children = [(level, child) for child in range(first, min(last, self._count(level)))]
        if parent in self._numbers or not all(child in self._outputs for child in children):
            return
        outputs = [self._outputs.pop(child) for child in children]
        self._start(parent, tuple(output for output in outputs if output is not None))

    def _count(self, level: int) -> int:
        """Nodes of a level, as far as the input is planned."""
        count = len(self._edges)
        for _ in range(level - 1):
            count = -(-count // FAN_IN)
        return count
