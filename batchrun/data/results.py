"""Results of a run: all of them read back in input order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from batchrun.data.files import filesystem, is_local, local_path
from batchrun.data.opened import ArrowFile
from batchrun.data.refs import TO_THE_END, ResultRefs
from batchrun.data.schema import conform
from batchrun.data.table import Labels, is_unnamed_index, to_frame, with_labels
from batchrun.data.windows import opened, read_windows

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as ds

    from batchrun.outcome import Integers
    from batchrun.signature import FrameKind

__all__ = ["ResultSet"]


class ResultSet:
    """The results of a run.

    Args:
        order: A number for each chunk, by which they are put in order, such as its first row.
        refs: Where the result of each lies; chunks without one are left out.
    """

    def __init__(self, order: Sequence[int] | Integers, refs: ResultRefs) -> None:
        import numpy as np

        positions = np.argsort(np.asarray(order, np.int64), kind="stable")
        refs = refs.take(positions)
        self._refs = refs.where(refs.known)

    def __len__(self) -> int:
        return len(self._refs)

    @property
    def rows(self) -> int:
        """Rows of all results together."""
        return int(self._refs.rows.sum())

    def parts(self, kind: FrameKind) -> Iterator[Any]:
        """The result of each chunk as a frame, in order; those without a column are left out."""
        for window in read_windows(self._refs):
            if window.table.num_columns or window.table.num_rows:
                yield from window.frames(kind)

    def to_table(self) -> pa.Table:
        """All results as one Arrow table, in order.

        Columns come in order of first appearance; one that a chunk lacks is filled with nulls there, and
        numbers of different types widen. Raises ResultError if a column is text in one chunk and a number
        in another.
        """
        from batchrun.data.joining import join_tables

        windows = list(read_windows(self._refs))
        filled = [window for window in windows if window.table.num_rows]
        if not any(window.restarts for window in filled):
            return join_tables(window.whole for window in windows)
        if all(window.labels is not None for window in filled):
            # Labels that begin anew are numbered through.
            return with_labels(join_tables(window.table for window in windows), Labels(0))
        return join_tables(table for window in windows for table in window.tables())

    def to_pandas(self) -> pd.DataFrame:
        """All results as one pandas frame, in chunk order, with the index that the stages gave.

        Plain row numbers that begin anew in every chunk are numbered through.
        """
        frame: pd.DataFrame = to_frame(self.to_table(), "pandas")
        return frame

    def scan(self) -> ds.Dataset:
        """All results as a lazy pyarrow dataset, for more than fits in memory.

        Files come in the order of their first chunk, and the rows of a file in chunk order: chunks that were
        written together stand together, so the whole is in input order only as far as chunks ended in it.
        A pandas index is a column if it has a name, and is left out if it has none. Columns and types are
        settled as in ``to_table``.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        from batchrun.data.joining import common_schema

        by_path = _by_path(self._refs)
        files = {path: opened(path) for path in by_path}
        schema = _plain_schema(common_schema([file.schema for file in files.values() if file.schema.names]))
        whole: list[str] = []
        datasets: list[ds.Dataset] = []
        for path, refs in by_path.items():
            if files[path].schema.names and _covers(refs, files[path]):
                whole.append(path)
            elif files[path].schema.names:
                # A chunk was done again: what the file holds of its first time does not count.
                tables = [conform(window.table, schema, fill=True) for window in read_windows(refs)]
                datasets.append(ds.dataset(tables))
        if whole:
            datasets.insert(0, _file_dataset(whole, schema))
        if not datasets:
            return ds.dataset(pa.schema(schema).empty_table())
        return datasets[0] if len(datasets) == 1 else ds.dataset(datasets)


def _by_path(refs: ResultRefs) -> dict[str, ResultRefs]:
    """The places in each file, files in the order of their first chunk."""
    import numpy as np

    order = np.argsort(refs.files, kind="stable")
    files, starts = np.unique(refs.files[order], return_index=True)
    groups = [refs.take(positions) for positions in np.split(order, starts[1:])] if len(files) else []
    ranks = [int(order[start]) for start in starts]
    ordered = sorted(zip(ranks, files.tolist(), groups, strict=True), key=lambda group: group[0])
    return {refs.paths[file]: group for _, file, group in ordered}


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns that a dataset shows."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(field.name, field.type) for field in schema if not is_unnamed_index(field.name)]
    )


def _covers(refs: ResultRefs, file: ArrowFile) -> bool:
    """Whether these results are all that a file holds."""
    import numpy as np

    blocks: Integers = np.unique(np.stack([refs.first_batches, refs.batches]), axis=1)[1]
    if len(refs) == 1 and blocks[0] == TO_THE_END:
        return True
    if len(blocks) == len(refs):
        return file.blocks == int(blocks.sum())
    held = sum(int(file.batch(number).num_rows) for number in range(file.blocks))
    return held == int(refs.rows.sum())


def _file_dataset(paths: Sequence[str], schema: pa.Schema) -> ds.Dataset:
    import pyarrow.dataset as ds
    import pyarrow.fs

    if is_local(paths[0]):
        return ds.FileSystemDataset.from_paths(
            [local_path(path) for path in paths],
            schema=schema,
            format=ds.IpcFileFormat(),
            filesystem=pyarrow.fs.LocalFileSystem(use_mmap=True),
        )
    fs, _ = filesystem(paths[0])
    return ds.FileSystemDataset.from_paths(
        [filesystem(path)[1] for path in paths],
        schema=schema,
        format=ds.IpcFileFormat(),
        filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
    )
