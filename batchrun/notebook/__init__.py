"""The notebook: live progress in one output cell with a button that stops the run, and how a report shows
itself.

What is shown is HTML with inline styles that takes its colours from the page, so that it reads on light and
dark; it loads nothing and runs no script. The button is the only widget, and a saved notebook does without.
"""

from __future__ import annotations

from batchrun.notebook.kernel import in_notebook
from batchrun.notebook.live import NotebookProgress
from batchrun.notebook.report import report_html
from batchrun.notebook.running import progress_html, progress_text

__all__ = ["NotebookProgress", "in_notebook", "progress_html", "progress_text", "report_html"]
