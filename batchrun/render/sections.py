"""Parts of a full screen, and which lines of each are shown where not all fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["Section", "fit", "join", "line_of", "lines_of", "share_out"]


@dataclass(frozen=True)
class Section:
    """A part of the screen."""

    title: str
    """What stands above it; nothing if that is empty."""
    items: Sequence[Sequence[Text]]
    """What it shows: each item is one or more lines that belong together."""
    weight: int = 1
    """How much of the room it may have where there is too little, beside the others."""
    keep: int | None = None
    """The item that must be seen; the first ones are if that is None."""
    more: int = 0
    """How many more items there are that were not laid out, since they cannot be seen."""

    @property
    def lines(self) -> int:
        """How many lines it would take, with its title."""
        return sum(map(len, self.items)) + self.more + bool(self.title)


def line_of(text: Text) -> Text:
    """A text that is cut where the screen ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def join(lines: Sequence[Text], height: int | None = None) -> Group:
    """Lines one below the other; with a *height* the last one is at the bottom of it."""
    from rich.console import Group
    from rich.text import Text

    *above, last = lines
    missing = 0 if height is None else max(0, height - len(lines))
    return Group(*above, *(Text() for _ in range(missing)), last)


def lines_of(sections: Sequence[Section]) -> int:
    """How many lines they would take together."""
    shown = [section.lines for section in sections if section.items]
    return sum(shown) + max(0, len(shown) - 1)


def fit(sections: Sequence[Section], room: int | None) -> list[Text]:
    """The lines of the sections that are not empty, with one between each two.

    Args:
        sections: The sections, in their order.
        room: How many lines there may be; None for all.
    """
    from rich.text import Text

    shown = [section for section in sections if section.items]
    while True:
        wanted = [section.lines for section in shown]
        free = sum(wanted) if room is None else room - max(0, len(shown) - 1)
        given = share_out(wanted, [section.weight for section in shown], free)
        bare = [at for at, lines in enumerate(given) if lines < 1 + bool(shown[at].title)]
        if not bare:
            break
        del shown[bare[-1]]  # a title alone says nothing; others can use its line
    lines: list[Text] = []
    for section, most in zip(shown, given, strict=True):
        lines += [*([Text()] if lines else []), *_cut_to(section, most)]
    return lines


def share_out(wanted: Sequence[int], weights: Sequence[int], room: int) -> list[int]:
    """How many lines each gets: what it wants where that fits, else its share of what there is.

    >>> share_out([3, 10], [1, 1], 20), share_out([3, 10, 10], [1, 1, 2], 15)
    ([3, 10], [3, 4, 8])
    """
    given = [0] * len(wanted)
    for _ in range(max(0, min(room, sum(wanted)))):
        # One line at a time, to whoever has least for its weight and still wants one.
        hungry = [at for at in range(len(wanted)) if given[at] < wanted[at]]
        given[min(hungry, key=lambda at: (given[at] / weights[at], at))] += 1
    return given


def _cut_to(section: Section, most: int) -> list[Text]:
    """The section in so many lines; what is left out is counted beside the title, or at the end."""
    from rich.text import Text

    title = [line_of(Text(section.title, style="bold"))] if section.title else []
    if section.lines <= most:
        return [*title, *(line for item in section.items for line in item)]
    room = most - 1
    first, last = _window(section, room)
    lines = [line for item in section.items[first:last] for line in item]
    left = section.more + len(section.items) - (last - first)
    if not lines and room > 0:  # not even one item fits whole
        lines, left = list(section.items[section.keep or 0][:room]), left - 1
    if title:
        return [title[0].append(f"  and {left:,} more", "not bold dim") if left else title[0], *lines]
    return [*lines, line_of(Text(f"  … and {left:,} more", style="dim"))] if left else lines


def _window(section: Section, room: int) -> tuple[int, int]:
    """The first and the last item that fit, the one that must be seen among them."""
    first, last, used = 0, 0, 0
    for at, item in enumerate(section.items):
        used, last = used + len(item), at + 1
        while used > room and first < last:
            if section.keep is None or at > section.keep:
                return first, at
            used, first = used - len(section.items[first]), first + 1
    return first, last
