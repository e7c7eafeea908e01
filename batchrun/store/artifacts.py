"""Where the tables of one run lie."""

from __future__ import annotations

from dataclasses import dataclass

from batchrun.data import files

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """The names of all files of a run, below a folder or URL.

    ::

        source.arrow             the planned input
        spool/                   the input, where it was a frame or CSV, or had to be laid out anew
        plan/000000.arrow        first and last row of each chunk, one file a wave; -FENCE of a later driver
        segments/SESSION/        small results, many chunks a file
        results/                 large results, one chunk a file
        handoff/                 frames between legs
        folds/                   results that are combined in part, while the run goes on
        quarantine/SESSION/      rows of chunks that were given up, many chunks a file
        combined.arrow           what ``combine`` gave
        exhibits.json            figures and tables that the pipeline adds to the report
        report.html report.xlsx  if asked for
    """

    path: str
    """The folder of the run."""
    take: str = ""
    """Tells the planned input from that of other tries to plan it, whose processes may still write."""

    @property
    def source(self) -> str:
        """The planned input."""
        return files.join(self.path, f"source{self.take}.arrow")

    @property
    def spool(self) -> str:
        """Folder of spooled input."""
        return files.join(self.path, f"spool{self.take}")

    @property
    def plans(self) -> str:
        """Folder of the chunks."""
        return files.join(self.path, "plan")

    def segments(self, session: str) -> str:
        """Folder of the small results of one session."""
        return files.join(self.path, "segments", session)

    @property
    def handoffs(self) -> str:
        """Folder of frames between legs."""
        return files.join(self.path, "handoff")

    @property
    def folds(self) -> str:
        """Folder of results that are combined in part."""
        return files.join(self.path, "folds")

    @property
    def combined(self) -> str:
        """The combined result."""
        return files.join(self.path, "combined.arrow")

    @property
    def exhibits(self) -> str:
        """Figures and tables that the pipeline adds to the report."""
        return files.join(self.path, "exhibits.json")

    def plan(self, wave: int, fence: int = 0) -> str:
        """The chunks of one wave, as they were cut by the driver with this fence."""
        name = f"{wave:06d}-{fence:06d}" if fence > 1 else f"{wave:06d}"
        return files.join(self.plans, f"{name}.arrow")

    def result(self, chunk: int, token: str) -> str:
        """A large result; every try has a *token* of its own, so that a late one overwrites nothing."""
        return files.join(self.path, "results", f"{chunk:09d}-{token}.arrow")

    def handoff(self, chunk: int, leg: int, token: str) -> str:
        """The frame that a leg hands to the next one."""
        return files.join(self.handoffs, f"{chunk:09d}-{leg}-{token}.arrow")

    def quarantine(self, session: str) -> str:
        """Folder of the input rows of chunks that one session gave up."""
        return files.join(self.path, "quarantine", session)

    def old_quarantine(self, chunk: int) -> str:
        """The input rows of a chunk that was given up, where the first version of batchrun put them."""
        return files.join(self.path, "quarantine", f"{chunk:09d}.arrow")

    def report(self, suffix: str) -> str:
        """A report file beside the tables, by default."""
        return files.join(self.path, f"report.{suffix}")
