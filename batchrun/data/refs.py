"""Where the results of chunks lie: of one as a value, of a million as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchrun.data.table import Stored
    from batchrun.outcome import Integers

__all__ = ["TO_THE_END", "ResultRef", "ResultRefs"]

TO_THE_END = -1
NOWHERE = -1


@dataclass(frozen=True)
class ResultRef:
    """Where the result of one chunk lies."""

    path: str
    """An Arrow IPC file, by path or URL."""
    first_batch: int
    """The number of its first record batch in the file."""
    batches: int
    """How many record batches; -1 for all that follow."""
    rows: int
    """Rows of the result."""
    nbytes: int
    """Bytes that it takes in memory."""
    first_row: int = 0
    """The number of its first row in those batches, which may hold results of other chunks too."""

    @classmethod
    def of(cls, stored: Stored) -> ResultRef:
        """The place of a result that a worker wrote to a file of its own."""
        return cls(stored.path, 0, TO_THE_END, stored.rows, stored.nbytes)


@dataclass(frozen=True)
class ResultRefs:
    """Where the results of many chunks lie, as columns of equal length; see ResultRef."""

    paths: tuple[str, ...]
    """The files, each once."""
    files: Integers
    """The position in *paths* of each result; -1 for a chunk without one."""
    first_batches: Integers
    batches: Integers
    first_rows: Integers
    rows: Integers
    nbytes: Integers

    @classmethod
    def of(cls, refs: Iterable[ResultRef | None]) -> ResultRefs:
        """The columns of these places; None is a chunk without a result."""
        import numpy as np

        places: dict[str, int] = {}
        rows = [
            (NOWHERE, 0, 0, 0, 0, 0)
            if ref is None
            else (
                places.setdefault(ref.path, len(places)),
                ref.first_batch,
                ref.batches,
                ref.first_row,
                ref.rows,
                ref.nbytes,
            )
            for ref in refs
        ]
        return cls(tuple(places), *np.array(rows, np.int64).reshape(-1, 6).T)

    @classmethod
    def of_pack(cls, path: str, rows: Integers, nbytes: int, *, first_batch: int, batches: int) -> ResultRefs:
        """The places of results that lie one below the other in the same record batches.

        *rows* is how many each has, *nbytes* what all take together.
        """
        import numpy as np

        total = int(rows.sum())
        return cls(
            (path,),
            np.zeros(len(rows), np.int64),
            np.full(len(rows), first_batch, np.int64),
            np.full(len(rows), batches, np.int64),
            np.cumsum(rows) - rows,
            rows,
            nbytes * rows // max(1, total),
        )

    @classmethod
    def nowhere(cls, chunks: int) -> ResultRefs:
        """So many chunks without a result."""
        import numpy as np

        nothing = np.zeros(chunks, np.int64)
        return cls((), nothing + NOWHERE, nothing, nothing, nothing, nothing, nothing)

    @classmethod
    def empty(cls) -> ResultRefs:
        """No places."""
        return cls.nowhere(0)

    @classmethod
    def joined(cls, parts: Sequence[ResultRefs]) -> ResultRefs:
        """The places of all *parts*, in order."""
        import numpy as np

        if len(parts) == 1:
            return parts[0]
        places: dict[str, int] = {}
        files = [
            np.array([*(places.setdefault(path, len(places)) for path in part.paths), NOWHERE])[part.files]
            for part in parts
        ]
        names = ("first_batches", "batches", "first_rows", "rows", "nbytes")
        columns = [[getattr(part, name) for part in parts] for name in names]
        empty = np.zeros(0, np.int64)
        return cls(tuple(places), *(np.concatenate([empty, *column]) for column in (files, *columns)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> ResultRef | None:
        if self.files[position] == NOWHERE:
            return None
        return ResultRef(
            self.paths[self.files[position]],
            int(self.first_batches[position]),
            int(self.batches[position]),
            int(self.rows[position]),
            int(self.nbytes[position]),
            int(self.first_rows[position]),
        )

    def __iter__(self) -> Iterator[ResultRef | None]:
        return (self[position] for position in range(len(self)))

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which chunks have a result."""
        known: npt.NDArray[np.bool_] = self.files != NOWHERE
        return known

    def where(self, mask: npt.NDArray[np.bool_]) -> ResultRefs:
        """Those that *mask* says."""
        return self._picked(mask)

    def take(self, positions: Integers) -> ResultRefs:
        """Those at *positions*, in that order."""
        return self._picked(positions)

    def _picked(self, which: npt.NDArray[np.bool_] | Integers) -> ResultRefs:
        picked = ResultRefs(
            self.paths,
            self.files[which],
            self.first_batches[which],
            self.batches[which],
            self.first_rows[which],
            self.rows[which],
            self.nbytes[which],
        )
        # A few of very many travel to a worker without the names of all other files.
        return picked if len(picked) >= len(self.paths) else picked._trimmed()

    def _trimmed(self) -> ResultRefs:
        """The same, without paths of files that hold none of them."""
        import numpy as np

        used, files = np.unique(self.files[self.known], return_inverse=True)
        positions = np.full(len(self), NOWHERE, np.int64)
        positions[self.known] = files
        return replace(self, paths=tuple(self.paths[file] for file in used.tolist()), files=positions)
