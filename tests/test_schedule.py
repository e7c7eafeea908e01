"""Schedules: firing times on every kind of day, and what a firing time leads to."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.errors import UsageError
from batchrun.schedule import Action, Missed, Overlap, Schedule, decide, next_after
from batchrun.submission import Submission

ASKED = Submission("pipelines.flights:delays", "/work", "/work/flights.parquet")


def schedule(cron: str, zone: str = "Europe/Berlin", **values) -> Schedule:
    return replace(Schedule.parse("nightly", cron, ASKED, now=0.0, timezone=zone), **values)


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def firings(plan: Schedule, since: float, until: float) -> list[float]:
    found = []
    while (since := next_after(plan, since) or until) < until:
        found.append(since)
    return found


def local(times: list[float], zone: str = "Europe/Berlin") -> list[str]:
    return [datetime.fromtimestamp(time, ZoneInfo(zone)).strftime("%m-%d %H:%M %Z") for time in times]


class TestDaysOnWhichClocksChange:
    def test_a_job_at_a_minute_that_is_left_out_fires_once_when_the_clock_has_jumped(self):
        found = firings(schedule("30 2 * * *"), at("2026-03-28 12:00"), at("2026-03-31"))

        assert local(found) == ["03-29 03:00 CEST", "03-30 02:30 CEST"]

    def test_a_job_at_a_minute_that_comes_twice_fires_the_first_time_only(self):
        found = firings(schedule("30 2 * * *"), at("2026-10-24 12:00"), at("2026-10-27"))

        assert local(found) == ["10-25 02:30 CEST", "10-26 02:30 CET"]

    @pytest.mark.parametrize("minute", [0, 15, 30, 45, 59])
    def test_it_does_not_fire_again_whenever_in_the_second_hour_one_asks(self, minute):
        asked = at(f"2026-10-25 02:{minute:02d}", fold=1)

        assert local([next_after(schedule("30 2 * * *"), asked)]) == ["10-26 02:30 CET"]

    def test_jobs_that_fall_together_when_the_clock_jumps_fire_once(self):
        found = firings(schedule("0,30 2,3 * * *"), at("2026-03-29 00:00"), at("2026-03-30"))

        assert local(found) == ["03-29 03:00 CEST", "03-29 03:30 CEST"]

    def test_an_hourly_job_fires_every_hour_that_passes(self):
        found = firings(schedule("15 * * * *"), at("2026-10-25 00:00"), at("2026-10-26"))
        assert len(found) == 25
        assert {later - sooner for sooner, later in itertools.pairwise(found)} == {3600.0}

        found = firings(schedule("15 * * * *"), at("2026-03-29 00:00"), at("2026-03-30"))
        assert len(found) == 23

    def test_a_change_of_half_an_hour_is_one_too(self):
        zone = "Australia/Lord_Howe"
        plan = schedule("45 1 * * *", zone)

        found = firings(plan, at("2026-04-04 12:00", zone), at("2026-04-06 00:00", zone))

        assert local(found, zone) == ["04-05 01:45 +11"]


class TestOtherDays:
    def test_leap_days_are_found_also_across_a_century_without_one(self):
        found = firings(schedule("0 0 29 2 *", "UTC"), at("2095-01-01", "UTC"), at("2109-01-01", "UTC"))

        assert [datetime.fromtimestamp(time, UTC).year for time in found] == [2096, 2104, 2108]

    def test_the_year_ends(self):
        plan = schedule("59 23 31 12 *")

        assert local([next_after(plan, at("2026-12-31 23:59"))]) == ["12-31 23:59 CET"]
        assert next_after(plan, at("2026-12-31 23:59")) == at("2027-12-31 23:59")

    def test_the_last_day_of_a_month_is_l(self):
        found = firings(schedule("0 6 L * *", "UTC"), at("2028-01-15", "UTC"), at("2028-04-15", "UTC"))

        assert local(found, "UTC") == ["01-31 06:00 UTC", "02-29 06:00 UTC", "03-31 06:00 UTC"]

    def test_a_firing_time_itself_is_not_after_itself_but_is_after_a_moment_before(self):
        plan = schedule("0 2 * * *", "UTC")

        assert next_after(plan, 7200.0) == 7200.0 + 86400
        assert next_after(plan, 7199.999) == 7200.0


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/St_Johns", "Pacific/Auckland"]
HALF_YEARS = [datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 9, 20, tzinfo=UTC)]
"""Begins of stretches in which all clocks of ZONES that ever change do."""
DAYS = 60


def field(low: int, high: int) -> st.SearchStrategy[str]:
    values = st.lists(st.integers(low, high), min_size=1, max_size=3, unique=True)
    ranges = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    return st.one_of(
        st.just("*"),
        st.integers(2, 20).map("*/{}".format),
        values.map(lambda some: ",".join(map(str, some))),
        ranges.map(lambda ends: f"{ends[0]}-{ends[1]}"),
    )


sparse = st.one_of(
    st.integers(5, 20).map("*/{}".format),
    st.lists(st.integers(0, 59), min_size=1, max_size=3).map(lambda some: ",".join(map(str, some))),
)
"""Minutes, few of an hour: those that are many cost a test seconds and find nothing more."""
crons = st.tuples(sparse, field(0, 23), field(1, 28), st.just("*"), field(0, 6)).map(" ".join)


def members(text: str, low: int, high: int) -> set[int]:
    """The numbers that a field of ``crons`` names."""
    if text.startswith("*"):
        return set(range(low, high + 1, int(text[2:] or 1)))
    if "-" in text:
        first, last = map(int, text.split("-"))
        return set(range(first, last + 1))
    return {int(one) for one in text.split(",")}


@functools.cache
def minutes_of(zone: str, start: datetime) -> list[tuple[float, datetime]]:
    """Each minute of DAYS days from *start*, and what a clock on the wall shows then."""
    moments = [start + timedelta(minutes=number) for number in range(DAYS * 24 * 60)]
    walls = [moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0) for moment in moments]
    return [(moment.timestamp(), wall) for moment, wall in zip(moments, walls, strict=True)]


def scan(cron: str, zone: str, start: datetime) -> list[float]:
    """Firing times of DAYS days from *start*, found by looking at each minute."""
    minute, hour, day, _, weekday = cron.split()
    minutes, hours = members(minute, 0, 59), members(hour, 0, 23)
    days, weekdays = members(day, 1, 31), members(weekday, 0, 6)
    either = not (day.startswith("*") or weekday.startswith("*"))
    fixed = not (minute.startswith("*") or hour.startswith("*"))

    def wanted(wall: datetime) -> bool:
        if wall.minute not in minutes or wall.hour not in hours:
            return False
        by_date = wall.day in days, wall.isoweekday() % 7 in weekdays
        return any(by_date) if either else all(by_date)

    found = []
    shown = datetime.min
    for time, wall in minutes_of(zone, start):
        due = wanted(wall)
        if fixed:
            due = due and wall > shown  # a clock that went back shows it for the second time
            left_out = wall - timedelta(minutes=1)
            while datetime.min < shown < left_out:
                due = due or wanted(left_out)
                left_out -= timedelta(minutes=1)
            shown = max(shown, wall)
        if due:
            found.append(time)
    return found


@settings(max_examples=25, deadline=None)
@given(crons, st.sampled_from(ZONES), st.sampled_from(HALF_YEARS))
@example("30 2 * * *", "Europe/Berlin", HALF_YEARS[0])
@example("30 2 * * *", "Europe/Berlin", HALF_YEARS[1])
@example("*/20 1-3 * * *", "Europe/Berlin", HALF_YEARS[1])
@example("* 2 * * *", "Europe/Berlin", HALF_YEARS[0])
@example("10-20 2 * * *", "Europe/Berlin", HALF_YEARS[1])
@example("5 */2 * * 0", "America/New_York", HALF_YEARS[1])
def test_firing_times_are_those_that_a_look_at_every_minute_finds(cron, zone, start):
    until = (start + timedelta(days=DAYS)).timestamp()
    plan = Schedule("nightly", cron, ASKED, zone)

    assert firings(plan, start.timestamp() - 1, until) == scan(cron, zone, start)


@settings(max_examples=60, deadline=None)
@given(crons, st.sampled_from(ZONES), st.floats(1.7e9, 1.9e9), st.floats(0, 1))
def test_the_next_firing_time_is_later_and_the_same_from_every_moment_before_it(cron, zone, moment, share):
    plan = Schedule("nightly", cron, ASKED, zone)

    due = next_after(plan, moment)

    assert due > moment
    between = min(moment + share * (due - moment), due - 1e-3)
    if between > moment:
        assert next_after(plan, between) == due


class TestWhatUsersWrite:
    @pytest.mark.parametrize(
        ("cron", "told"),
        [
            ("61 2 * * *", "'61' is no minute; write 0 to 59"),
            ("0 24 * * *", "'24' is no hour; write 0 to 23"),
            ("0 0 0 * *", "'0' is no day-of-month; write 1 to 31"),
            ("0 0 * 13 *", "'13' is no month; write 1 to 12, or JAN"),
            ("0 0 * * MOO", "'MOO' is no day-of-week; write 0 to 7, or SUN"),
            ("0 0 * * 5-1", "'5-1' is no day-of-week"),
            ("*/0 * * * *", "'*/0' is no minute"),
            ("0 2 * *", "Write five fields"),
            ("0 0 2 * * *", "Write five fields"),
            ("", "Write five fields"),
            ("@dayly", "Did you mean `@daily`?"),
            ("@reboot", "Write five fields"),
            ("0 0 30 2 *", "never fires"),
            ("0 0 31 4,6 *", "never fires"),
            ("* * */20 * 1L", "never fires"),
            ("0 0 * * " + "1," * 60 + "1", "Write five fields"),
        ],
    )
    def test_a_cron_expression_that_cannot_be_is_refused_with_what_to_write(self, cron, told):
        with pytest.raises(UsageError) as refused:
            Schedule.parse("nightly", cron, ASKED, now=0.0)

        assert told in str(refused.value)

    @given(st.text(max_size=30) | crons.map(lambda cron: cron.replace("1", "L").replace("-", "#")))
    @settings(deadline=None)
    def test_whatever_is_written_is_a_schedule_or_refused(self, cron):
        try:
            plan = Schedule.parse("nightly", cron, ASKED, now=1e9)
        except UsageError:
            return
        assert plan.next_fire > 1e9

    @pytest.mark.parametrize("zone", ["Europe/Berlim", "europe/berlin"])
    def test_a_time_zone_that_is_unknown_is_told_with_its_near_miss(self, zone):
        with pytest.raises(UsageError, match=r"Did you mean `Europe/Berlin`\?"):
            Schedule.parse("nightly", "0 2 * * *", ASKED, now=0.0, timezone=zone)

    @pytest.mark.parametrize("zone", ["", "/etc/passwd", "../etc/passwd", "Europe", "\0"])
    def test_what_is_no_time_zone_at_all_is_refused(self, zone):
        with pytest.raises(UsageError, match="there is no time zone"):
            Schedule.parse("nightly", "0 2 * * *", ASKED, now=0.0, timezone=zone)

    @pytest.mark.parametrize("name", ["", "two words", "-n", "a/b", "ä", "n" * 101])
    def test_a_name_that_a_shell_or_a_table_would_stumble_over_is_refused(self, name):
        with pytest.raises(UsageError, match="cannot be the name of a schedule"):
            Schedule.parse(name, "0 2 * * *", ASKED, now=0.0)

    def test_an_unknown_policy_is_told_with_those_that_there_are(self):
        with pytest.raises(UsageError, match=r"overlap cannot be 'qeue'; it is .*Did you mean `queue`\?"):
            Schedule.parse("nightly", "0 2 * * *", ASKED, now=0.0, overlap="qeue")

    def test_short_names_stand_for_their_five_fields(self):
        assert Schedule.parse("nightly", "@Daily", ASKED, now=0.0).cron == "0 0 * * *"

    def test_a_zone_that_another_machine_does_not_know_is_an_error_that_says_so(self):
        with pytest.raises(UsageError, match="tzdata"):
            next_after(Schedule("nightly", "0 2 * * *", ASKED, "Mars/Olympus"), 0.0)


DAY = 86400.0


class TestDecide:
    """A schedule at 2:00 UTC, due on the first day."""

    due = 7200.0
    plan = schedule("0 2 * * *", "UTC", last_run="delays-1")

    def test_before_its_time_it_waits(self):
        assert decide(self.plan, self.due - 0.001, running=False).action is Action.WAIT

    def test_while_it_is_paused_it_waits(self):
        assert decide(replace(self.plan, paused=True), self.due, running=False).action is Action.WAIT

    def test_one_that_will_never_fire_again_waits(self):
        assert decide(replace(self.plan, next_fire=None), self.due, running=False).action is Action.WAIT

    @pytest.mark.parametrize("missed", Missed)
    @pytest.mark.parametrize("late", [0.0, 60.0])
    def test_at_its_time_it_fires_and_is_due_a_day_later(self, missed, late):
        decision = decide(replace(self.plan, missed=missed), self.due + late, running=False)

        assert (decision.action, decision.at, decision.next_fire) == (Action.FIRE, self.due, self.due + DAY)
        assert (decision.missed, decision.reason) == (0, "")

    def test_one_run_makes_up_for_all_that_were_missed_and_is_that_of_the_latest(self):
        decision = decide(self.plan, self.due + 3 * DAY + 5000, running=False)

        assert (decision.action, decision.at) == (Action.FIRE, self.due + 3 * DAY)
        assert decision.next_fire == self.due + 4 * DAY
        assert (decision.missed, decision.reason) == (3, "it makes up for 3 firings before")

    def test_missed_firings_are_left_out_if_that_is_wanted(self):
        plan = replace(self.plan, missed=Missed.SKIP)

        decision = decide(plan, self.due + 3 * DAY + 61, running=False)

        assert (decision.action, decision.next_fire) == (Action.SKIP, self.due + 4 * DAY)
        assert "missed by 61 s" in decision.reason

    def test_but_the_one_that_is_due_just_now_is_not_missed(self):
        plan = replace(self.plan, missed=Missed.SKIP)

        decision = decide(plan, self.due + 3 * DAY + 10, running=False)

        assert (decision.action, decision.at) == (Action.FIRE, self.due + 3 * DAY)
        assert decision.reason == "3 firings before were skipped"

    @pytest.mark.parametrize(
        ("overlap", "action"),
        [(Overlap.SKIP, Action.SKIP), (Overlap.QUEUE, Action.FIRE), (Overlap.ALLOW, Action.FIRE)],
    )
    def test_while_the_run_before_goes_on_the_overlap_decides(self, overlap, action):
        decision = decide(replace(self.plan, overlap=overlap), self.due, running=True)

        assert decision.action is action
        assert decision.next_fire == self.due + DAY
        assert ("delays-1" in decision.reason) == (action is Action.SKIP)

    def test_a_year_of_minutes_is_decided_at_once(self):
        decision = decide(schedule("* * * * *", "UTC"), 365 * DAY, running=False)

        assert (decision.at, decision.next_fire) == (365 * DAY, 365 * DAY + 60)
        assert decision.missed == 1000

    def test_so_is_half_a_year_of_minutes_that_was_over_half_a_year_ago(self):
        plan = schedule("* * * 1-6 *", "UTC")
        end = at("1970-06-30 23:59", "UTC")

        decision = decide(plan, at("1970-12-31 12:00", "UTC"), running=False)

        assert (decision.at, decision.next_fire) == (end, at("1971-01-01", "UTC"))

    @settings(max_examples=40, deadline=None)
    @given(crons, st.floats(0, 100 * DAY), st.sampled_from(Missed), st.booleans())
    def test_the_latest_firing_time_counts_and_the_next_is_the_first_after_now(
        self, cron, late, missed, busy
    ):
        plan = Schedule("nightly", cron, ASKED, "Europe/Berlin", missed=missed)
        plan = replace(plan, next_fire=next_after(plan, 1.79e9))
        now = plan.next_fire + late

        decision = decide(plan, now, running=busy)

        assert plan.next_fire <= decision.at <= now < decision.next_fire
        assert next_after(plan, decision.at) == next_after(plan, now) == decision.next_fire
