"""Schedules in the terminal: when they fire, and what they made last."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batchrun.schedule import Schedule

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["next_firing", "schedules_table"]


def next_firing(schedule: Schedule) -> str:
    """When a schedule fires next, by the clock of its time zone.

    >>> from batchrun.submission import Submission
    >>> asked = Submission("mine:plan", "/work", "/work/pits.csv")
    >>> next_firing(Schedule.parse("nightly", "0 2 * * *", asked, now=0.0, timezone="Europe/Berlin"))
    'fires next at Thu 1970-01-01 02:00 CET'
    """
    if schedule.paused:
        return f"is paused; go on with: batchrun schedule resume {schedule.name}"
    if schedule.next_fire is None:
        return "never fires again"
    return f"fires next at {_shown(schedule, schedule.next_fire)}"


def schedules_table(schedules: Iterable[Schedule]) -> RenderableType:
    """One line a schedule, in the order given."""
    from rich.text import Text

    from batchrun.render.terminal import table_of

    table = table_of("schedule", "when", "next", "last run")
    for schedule in schedules:
        if schedule.paused:
            due = Text("paused", style="yellow")
        else:
            due = Text("never" if schedule.next_fire is None else _shown(schedule, schedule.next_fire))
        zone = "" if schedule.timezone == "UTC" else f" {schedule.timezone}"
        table.add_row(
            Text(schedule.name), Text(schedule.cron + zone), due, Text(schedule.last_run or "none yet")
        )
    if not table.row_count:
        example = 'batchrun schedule add NAME "0 2 * * *" MODULE:NAME --input FILE'
        return Text(f"There is no schedule yet. Add one: {example}")
    return table


def _shown(schedule: Schedule, seconds: float) -> str:
    try:
        zone: tzinfo = ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # it was added on a machine that knows more zones
        zone = UTC
    return datetime.fromtimestamp(seconds, zone).strftime("%a %Y-%m-%d %H:%M %Z")
