"""A sheet in which every text is only a text."""

from __future__ import annotations

from collections.abc import Sequence

from xlsxwriter.utility import _preserve_whitespace
from xlsxwriter.worksheet import Worksheet

__all__ = ["PlainSheet"]


class PlainSheet(Worksheet):  # type: ignore[misc]  # XlsxWriter has no types for what it is derived from
    """A worksheet of XlsxWriter that takes no text for markup of its own.

    Where memory is to stay constant, XlsxWriter writes a text from ``<r>`` to ``</r>`` as it is, since its
    rich texts are kept so. What a user's cell holds could then put cells and formulas into the file.
    """

    def _xml_rich_inline_string(self, string: str, attributes: Sequence[tuple[str, object]] = ()) -> None:
        self._xml_inline_string(string, _preserve_whitespace(string), attributes)
