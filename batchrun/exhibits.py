"""Exhibits: the figures and tables that a pipeline adds to the report of its runs.

They are made once, where a run ends, and kept beside its results. So every face shows the same ones, on any
machine that reaches the store, and none of them runs code of the pipeline.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from batchrun.bokeh_checks import checks_on
from batchrun.data import files
from batchrun.data.table import decode, encode, to_frame, to_table
from batchrun.errors import PipelineError, ResultError, StoreError
from batchrun.outcome import ErrorRecord

if TYPE_CHECKING:
    import pyarrow as pa
    from bokeh.models import LayoutDOM

__all__ = ["Exhibit", "Exhibits"]

FORMAT = 1
"""Of the file; what a later version wrote is refused."""


@dataclass(frozen=True)
class Exhibit:
    """One figure or one table."""

    title: str
    """What stands above it."""
    document: Mapping[str, Any] | None = None
    """The figure, as the JSON of a Bokeh document; None for a table."""
    table: pa.Table | None = None
    """The table; None for a figure."""

    @classmethod
    def of(cls, title: object, content: object, owner: str) -> Exhibit:
        """The exhibit of a Bokeh figure or layout, or of a pandas, polars or Arrow frame.

        Raises PipelineError for a title that is no text, and for anything else; *owner* names who gave it.
        """
        if not isinstance(title, str) or not title.strip():
            raise PipelineError(f"{owner} gave the title {title!r}; titles are texts, like 'Delays by month'")
        from bokeh.models import LayoutDOM

        if isinstance(content, LayoutDOM):
            return cls(title, document=_document(content))
        try:
            if content is None:
                raise ResultError("nothing")
            return cls(title, table=to_table(content, owner=f"`{title}` of {owner}"))
        except ResultError as error:
            raise PipelineError(
                f"{owner} gave {type(content).__name__} for `{title}`; give a Bokeh figure or layout, or a "
                f"frame ({error})"
            ) from error

    @property
    @checks_on()
    def content(self) -> Any:
        """The figure as a Bokeh model of its own, or the table as a pandas frame; made anew each time."""
        if self.table is not None:
            return to_frame(self.table, "pandas")
        from bokeh.document import Document

        document = Document.from_json(dict(self.document or {}))
        [root] = document.roots
        document.remove_root(root)
        return root


@dataclass(frozen=True, eq=False)
class Exhibits(Mapping[str, Any]):
    """The exhibits of a run by their titles, in the order that the pipeline gave: figures as Bokeh models,
    tables as pandas frames."""

    entries: tuple[Exhibit, ...] = ()
    """All of them."""
    error: ErrorRecord | None = None
    """Why there are none, where the pipeline's function failed."""

    def __getitem__(self, title: str) -> Any:
        for entry in self.entries:
            if entry.title == title:
                return entry.content
        raise KeyError(title)

    def __iter__(self) -> Iterator[str]:
        return (entry.title for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<Exhibits: {', '.join(self) or 'none'}{f'; {self.error}' if self.error else ''}>"

    @classmethod
    def made(cls, function: Callable[[], object], owner: str) -> Self:
        """What *function* gives; an error in it is kept in place of the exhibits, and raised by nobody."""
        try:
            with checks_on():
                return cls._of(function(), owner)
        except Exception as error:
            return cls(error=ErrorRecord.of(error))

    @classmethod
    def _of(cls, given: object, owner: str) -> Self:
        if not isinstance(given, Mapping):
            raise PipelineError(
                f"{owner} returned {type(given).__name__}; return a dictionary of titles and figures or "
                "frames, like {'Delays by month': figure}"
            )
        return cls(tuple(Exhibit.of(title, content, owner) for title, content in given.items()))

    def write(self, path: str) -> None:
        """Write them to a file, whole or not at all. Raises StoreError if that cannot be done."""
        entries = [
            {"title": entry.title, "figure": entry.document}
            if entry.table is None
            else {"title": entry.title, "table": b64encode(encode(entry.table)).decode()}
            for entry in self.entries
        ]
        error = asdict(self.error) if self.error else None
        content = {"format": FORMAT, "error": error, "exhibits": entries}
        files.write_bytes(path, json.dumps(content).encode())

    @classmethod
    def read(cls, path: str) -> Self:
        """Those in a file; none if there is no such file.

        Raises StoreError if it cannot be read, or was written by a later version.
        """
        if not files.exists(path):
            return cls()
        content = json.loads(files.read_bytes(path))
        if content["format"] > FORMAT:
            raise StoreError(f"{path} was written by a later version of batchrun; update this one to read it")
        error = content["error"]
        return cls(
            tuple(
                Exhibit(entry["title"], entry["figure"])
                if "figure" in entry
                else Exhibit(entry["title"], table=decode(b64decode(entry["table"])))
                for entry in content["exhibits"]
            ),
            ErrorRecord(**{**error, "classes": tuple(error["classes"])}) if error else None,
        )


def _document(model: LayoutDOM) -> Mapping[str, Any]:
    """The JSON of a Bokeh document that holds *model* and nothing else."""
    from bokeh.document import Document
    from bokeh.embed import json_item

    if model.document is None:
        # Else Bokeh looks for a current document, which may be that of a page of this process.
        Document().add_root(model)
    document: Mapping[str, Any] = json_item(model)["doc"]
    return document
