"""Schedules: when a run is made again and again, and what a firing time leads to. Pure: no clock is read.

The dialect is that of Debian's cron, as the package cronsim reads it: five fields, names of months and
weekdays, ``L`` and ``#``. So are its rules for the days on which clocks change. A job at fixed hours and
minutes runs once a day: at the first minute that exists when its own is left out, and the first time when
its own comes twice. A job with a star in its hours or minutes runs by elapsed time: twice in an hour that
comes twice, never in one that is left out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from batchrun.errors import UsageError, near_miss
from batchrun.submission import Submission

__all__ = ["Action", "Decision", "Missed", "Overlap", "Schedule", "decide", "next_after"]

_Choice = TypeVar("_Choice", bound=StrEnum)

MINUTE = 60.0
"""Seconds between two firing times, at least."""
GRACE = 60.0
"""Seconds after which a firing time counts as missed."""
_MOST_COUNTED = 1000
"""Firing times that are counted one by one; of more it is known that there are so many."""
_FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, or L for the last one",
    "month": "1 to 12, or JAN to DEC",
    "day-of-week": "0 to 7, or SUN to SAT",
}
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Missed(StrEnum):
    """What becomes of firing times at which no service was there."""

    ONCE = "once"
    """One run makes up for all of them."""
    SKIP = "skip"
    """They are left out."""


class Overlap(StrEnum):
    """What happens at a firing time when the run before has not ended."""

    SKIP = "skip"
    """No run is made."""
    QUEUE = "queue"
    """A run is made, and waits until the one before has ended, however that ends."""
    ALLOW = "allow"
    """A run is made, and may go on beside the one before."""


class Action(StrEnum):
    """What a schedule does now."""

    WAIT = "wait"
    """It is not due."""
    FIRE = "fire"
    """A run is made."""
    SKIP = "skip"
    """Its firing times have passed without a run."""


@dataclass(frozen=True)
class Schedule:
    """A run that is made again and again."""

    name: str
    """Its name, by which commands know it."""
    cron: str
    """When it fires: five fields, minute, hour, day of the month, month, day of the week."""
    submission: Submission
    """The run that it makes."""
    timezone: str = "UTC"
    """The IANA time zone in which ``cron`` counts."""
    missed: Missed = Missed.ONCE
    """What becomes of firing times at which no service was there."""
    overlap: Overlap = Overlap.SKIP
    """What happens when the run before has not ended."""
    paused: bool = False
    """Whether it is kept from firing."""
    created: float = 0.0
    """When it was made, in seconds since the epoch."""
    next_fire: float | None = None
    """When it is due, in seconds since the epoch; None while it is paused or will never fire again."""
    last_fire: float | None = None
    """The firing time that last led to a run."""
    last_run: str | None = None
    """The id of its newest run."""

    @classmethod
    def parse(
        cls,
        name: str,
        cron: str,
        submission: Submission,
        *,
        now: float,
        timezone: str = "UTC",
        missed: str = "once",
        overlap: str = "skip",
    ) -> Schedule:
        """A new schedule as a user wrote it, due the first time after *now*, in seconds since the epoch.

        ``@daily`` and its like are read as the five fields that they stand for. Raises UsageError, which
        says what to write instead, as ``validate`` does.

        >>> asked = Submission("mine:plan", "/work", "/work/pits.csv")
        >>> Schedule.parse("nightly", "0 2 * * 1-5", asked, now=0.0).next_fire
        7200.0
        """
        wanted = " ".join(cron.split())
        schedule = cls(
            name,
            _ALIASES.get(wanted.lower(), wanted),
            submission,
            timezone,
            _choice(Missed, "missed", missed),
            _choice(Overlap, "overlap", overlap),
            created=now,
        )
        schedule.validate()
        due = next_after(schedule, now)
        if due is None:
            raise UsageError(_never(cron))
        return replace(schedule, next_fire=due)

    def validate(self) -> None:
        """Raises UsageError for a name, a cron expression or a time zone that cannot be used."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a schedule; "
                "use up to 100 letters, digits, '_', '.' and '-'"
            )
        zones = available_timezones()
        if self.timezone not in zones:
            raise UsageError(
                f"there is no time zone {self.timezone!r}.{near_miss(self.timezone, zones)} "
                "Write one like `Europe/Berlin` or `UTC`"
            )
        _check_cron(self.cron)


@dataclass(frozen=True)
class Decision:
    """What a schedule does now, and why."""

    action: Action
    """What it does."""
    next_fire: float | None = None
    """When it is due next, in seconds since the epoch; None if never again."""
    at: float | None = None
    """The firing time that counts: the latest one that has come."""
    missed: int = 0
    """Firing times before ``at`` that nobody took; at most a thousand are counted."""
    reason: str = ""
    """Why no run is made, or what is special about this one, as a clause."""


def next_after(schedule: Schedule, at: float) -> float | None:
    """The first firing time after *at*, both in seconds since the epoch; None if fifty years have none.

    Raises UsageError if this machine does not know the time zone.
    """
    try:
        zone = ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"this machine does not know the time zone {schedule.timezone!r} of schedule {schedule.name}; "
            "install the Python package tzdata"
        ) from error
    for moment in CronSim(schedule.cron, datetime.fromtimestamp(at, zone)):
        due = moment.timestamp()
        if due > at:  # in an hour that comes twice, the first time may have passed
            return due
    return None


def decide(schedule: Schedule, now: float, running: bool) -> Decision:
    """What a schedule does at *now*, in seconds since the epoch.

    Args:
        schedule: The schedule, with the time at which it is due.
        now: The time.
        running: Whether its newest run has not ended.
    """
    if schedule.paused or schedule.next_fire is None or schedule.next_fire > now:
        return Decision(Action.WAIT, schedule.next_fire)
    following = next_after(schedule, now)
    at = _latest(schedule, schedule.next_fire, now)
    missed = _count(schedule, schedule.next_fire, at)
    if schedule.missed is Missed.SKIP and now - at > GRACE:
        reason = f"it was missed by {now - at:.0f} s, and missed firings are skipped"
        return Decision(Action.SKIP, following, at, missed, reason)
    if running and schedule.overlap is Overlap.SKIP:
        reason = f"the run before, {schedule.last_run}, has not ended"
        return Decision(Action.SKIP, following, at, missed, reason)
    reason = ""
    if missed:
        times = f"{missed} firing{'s' * (missed > 1)} before"
        skips = schedule.missed is Missed.SKIP
        reason = f"{times} were skipped" if skips else f"it makes up for {times}"
    return Decision(Action.FIRE, following, at, missed, reason)


def _latest(schedule: Schedule, first: float, now: float) -> float:
    """The latest firing time from *first*, which is one, to *now*; by bisection, since there may be many."""
    end = now
    while end - first >= MINUTE:  # no firing time is after end
        middle = (first + end) / 2
        found = next_after(schedule, middle)
        if found is not None and found <= now:
            first = found
        else:
            end = middle
    return first


def _count(schedule: Schedule, first: float, last: float) -> int:
    """How many firing times there are from *first*, which is one, until before *last*."""
    count, at = 0, first
    while at < last and count < _MOST_COUNTED:
        count += 1
        at = next_after(schedule, at) or math.inf
    return count


def _check_cron(cron: str) -> None:
    """Raises UsageError, which names the field, unless that is a cron expression that can fire."""
    parts = cron.split()
    if len(parts) != 5 or len(cron) > 100:
        hint = near_miss(cron.lower(), _ALIASES) if cron.startswith("@") else ""
        raise UsageError(
            f"{cron!r} is not a cron expression.{hint} Write five fields: minute, hour, day of the month, "
            "month, day of the week, like '0 2 * * 1-5' for 2:00 on weekdays"
        )
    start = datetime(2000, 1, 1)
    for index, (field, allowed) in enumerate(_FIELDS.items()):
        alone = ["*"] * 5
        alone[index] = parts[index]
        try:
            CronSim(" ".join(alone), start)
        except CronSimError as error:
            raise UsageError(
                f"{cron!r} is not a cron expression: {parts[index]!r} is no {field}; write {allowed}, "
                "'*' for all, '1-5' for a range, '1,15' for several, '*/10' for every tenth"
            ) from error
    try:
        found = next(CronSim(cron, start), None)
    except CronSimError:
        found = None
    if found is None:
        raise UsageError(_never(cron))


def _never(cron: str) -> str:
    return (
        f"{cron!r} never fires: no day is in all its fields; "
        "change the day of the month, the month or the day of the week"
    )


def _choice(kind: type[_Choice], option: str, text: str) -> _Choice:
    try:
        return kind(text)
    except ValueError:
        known = [str(item) for item in kind]
        raise UsageError(
            f"{option} cannot be {text!r}; it is {' or '.join(known)}.{near_miss(text, known)}"
        ) from None
