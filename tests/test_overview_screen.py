"""The full screen of a store, the lines of a log, and the keys: whatever the size and the names."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from batchrun.cli.keys import names_of
from batchrun.cli.overlooking import Looker
from batchrun.cli.screen import StoreScreen
from batchrun.events import SlotUse
from batchrun.outcome import ErrorRecord, Outcome, RunState
from batchrun.overview import Failure, Overview, Place, RunStanding
from batchrun.render.overview import overview_screen, overview_view, run_screen
from batchrun.render.overview_log import OverviewLog
from batchrun.store.live import LiveState, RunningChunk
from batchrun.store.records import RunRecord
from tests.services import until

NOW = 1_790_000_000.0
HOSTILE = "[bold]x[/bold]\x1b[2J\n\t" + "名" * 40
SIZES = [(80, 24), (40, 10), (200, 60), (20, 5), (80, 400)]


def run(run_id: str, state: RunState = RunState.SUCCEEDED, **fields: object) -> RunStanding:
    known: dict[str, object] = {
        "pipeline": run_id.split("-", maxsplit=1)[0],
        "rows_in": 40,
        "rows_solved": 10,
    }
    known |= {"created": NOW - 100, "started": NOW - 90, "split": "by_rows(4)", "folder": "runs/r"}
    if state.ended:
        known["ended"] = NOW - 5
    standing = {
        name: fields.pop(name) for name in ("driven", "live", "why", "seconds_left") if name in fields
    }
    return RunStanding(RunRecord(run_id, target=None, state=state, **{**known, **fields}), **standing)


def driven(run_id: str = "mine-1", **fields: object) -> RunStanding:
    chunks = tuple(
        RunningChunk(n, "solve", 1, "w-0", NOW - n, 4, share=0.4, message=HOSTILE) for n in range(1, 4)
    )
    known = {"driven": True, "live": LiveState(NOW, chunks), "seconds_left": 200.0, "driver": "host/7/1.0"}
    known |= {"why": "3 chunks run and 8 wait for a free thread", "rows_quarantined": 4}
    return run(run_id, RunState.RUNNING, **{**known, **fields})


def overview(*runs: RunStanding, failures: Sequence[Failure] = (), **fields: object) -> Overview:
    slots = (SlotUse("threads", 4, 3, 8), SlotUse("MEMORY", 2**33, 2**31, 0), SlotUse(HOSTILE, 1, 1, 3))
    known = {"places": (Place("service-1", "host/7/1.0", 1, 2, slots),), "outcomes": {}}
    return Overview(NOW, "sqlite:///store.db", runs, failures=tuple(failures), **{**known, **fields})


def failure(run_id: str = "mine-1", error: str = "seven is bad") -> Failure:
    return Failure(run_id, "ValueError", error, "solve", 3, 12, 7, "Traceback\n  File x\nValueError: seven")


def lines_of(shown: RenderableType, size: tuple[int, int], **console: object) -> list[str]:
    width, height = size
    screen = Console(file=io.StringIO(), width=width, height=height, highlight=False, **console)
    screen.print(shown)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def hostile() -> Overview:
    ended = [run(f"{HOSTILE}-{n}", RunState.PARTIAL, rows_quarantined=2) for n in range(30)]
    return overview(
        driven(f"{HOSTILE}-r", why=HOSTILE * 9, cluster=HOSTILE),
        *ended,
        failures=[failure(f"{HOSTILE}-{n}", HOSTILE) for n in range(9)],
        outcomes={Outcome.FAILED: 3},
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", ["store", "run"])
def test_it_fills_the_screen_and_no_more_whatever_its_size_and_whatever_things_are_called(size, view):
    seen = hostile()
    shown = (
        overview_screen(seen, NOW, size, chosen=seen.runs[20].record.run_id)
        if view == "store"
        else run_screen(seen, seen.runs[0], NOW, size)
    )

    lines = lines_of(shown, size)

    assert len(lines) <= max(size[1], 4)
    assert max(map(cell_len, lines)) <= size[0]
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "\t" not in text
    assert lines[-1].startswith("↑ ↓ choose"[: size[0] - 1] if view == "store" else "Esc back")


def test_eighty_columns_show_how_far_each_run_is_and_why_it_waits():
    lost = run("lost-1", RunState.RUNNING, why="nothing drives it; go on with: batchrun resume lost-1")
    seen = overview(driven(), lost, run("done-1", rows_solved=40), failures=[failure()])

    lines = lines_of(overview_screen(seen, NOW, (80, 30), chosen="mine-1"), (80, 30))
    text = "\n".join(line.rstrip() for line in lines)

    assert "▸ running   mine-1" in text
    assert " 35 %  3 min 20 s left" in text
    assert "    10 of 40 rows solved, 4 quarantined, driven on host\n" in text
    assert "    3 chunks run and 8 wait for a free thread\n" in text
    assert "◦ stopped   lost-1" in text
    assert "go on with: batchrun resume lost-1" in text
    assert "✓ succeeded done-1" in text
    assert "  service-1 on host: 2 workers, 1 run\n" in text
    assert f"    {'threads':<20}  ▇▇▇▇▇▇▁▁  3 of 4 in use, 8 waiting\n" in text
    assert "2 GiB of 8 GiB in use" in text
    assert "  chunk 3 solve on w-0  ▇▁▁▁ 40 %  3 s  " in text
    assert "  ✗ 3 chunks, 12 rows at solve: ValueError: seven is bad" in text


def test_where_not_all_fits_the_run_that_is_chosen_can_be_seen_and_what_is_left_out_is_counted():
    seen = overview(*(driven(f"mine-{n:03}") for n in range(60)), failures=[failure()])

    lines = lines_of(overview_screen(seen, NOW, (80, 24), chosen="mine-040"), (80, 24))

    [chosen] = [at for at, line in enumerate(lines) if line.startswith(">")]
    assert "mine-040" in lines[chosen]
    assert "3 chunks run and 8 wait" in lines[chosen + 2]
    shown = sum("▸ running" in line for line in lines)
    assert f"  … and {60 - shown} more" in [line.rstrip() for line in lines]
    assert {"Slots", "Failures"} <= {line.split("  ")[0] for line in lines}


def test_a_store_without_a_run_says_how_to_start_one():
    text = "\n".join(lines_of(overview_view(overview(places=()), NOW, 80), (80, 24)))
    assert "There is no run yet. Start one: batchrun submit" in text


def test_without_colours_there_are_none():
    shown = lines_of(overview_screen(hostile(), NOW, (80, 24)), (80, 24), force_terminal=True, no_color=True)
    assert "38;" not in "".join(shown)


def test_a_run_that_is_looked_at_shows_its_outcomes_and_the_traceback():
    seen = overview(driven(chunks=10), failures=[failure()], outcomes={Outcome.FAILED: 3})
    text = "\n".join(lines_of(run_screen(seen, seen.runs[0], NOW, (80, 40)), (80, 40)))

    assert "3 of 10 chunks settled   ✗ 3 failed" in text
    assert "Traceback of the first" in text
    assert "ValueError: seven" in text
    assert "  folder   runs/r" in text


# Keys


class Looks:
    """What a screen reads; keeps what it was asked to look at."""

    def __init__(self, *runs: RunStanding) -> None:
        self.overview = overview(*runs)
        self.trouble = ""
        self.chosen: list[str | None] = []

    def choose(self, run_id: str | None) -> None:
        self.chosen.append(run_id)


class Canvas:
    """A terminal whose size a test changes; keeps the lines of each picture."""

    def __init__(self) -> None:
        self.size = (80, 24)
        self.pictures: list[list[str]] = []

    def draw(self, shown: RenderableType) -> None:
        self.pictures.append(lines_of(shown, self.size))


def screen_of(*names: str) -> tuple[StoreScreen, Looks]:
    looks = Looks(*(run(name) for name in names))
    return StoreScreen(looks, lambda _: "", clock=lambda: NOW), looks


def first_line(screen: StoreScreen, begins: str = ">") -> str:
    return next(line for line in lines_of(screen.drawn((80, 24)), (80, 24)) if line.startswith(begins))


def test_keys_move_from_run_to_run_and_look_at_one():
    screen, looks = screen_of("a-1", "b-1", "c-1")
    for key, at in (("down", "b-1"), ("down", "c-1"), ("down", "c-1"), ("up", "b-1")):
        screen.press(key)
        assert at in first_line(screen)

    screen.press("enter")
    assert looks.chosen[-1] == "b-1"
    assert "b-1" in "\n".join(lines_of(screen.drawn((80, 24)), (80, 24)))
    screen.press("down")
    assert looks.chosen[-1] == "b-1"
    screen.press("back")
    assert looks.chosen[-1] is None
    assert "b-1" in first_line(screen)


def test_the_run_that_is_chosen_stays_so_wherever_it_is_listed():
    screen, looks = screen_of("a-1", "b-1", "c-1")
    screen.press("down")
    looks.overview = overview(run("c-1"), run("a-1"), run("b-1"))
    assert "b-1" in first_line(screen)
    looks.overview = overview(run("c-1"), run("a-1"))
    assert "a-1" in first_line(screen)
    looks.overview = overview()
    screen.press("down")
    assert "There is no run" in "\n".join(lines_of(screen.drawn((80, 24)), (80, 24)))


def test_it_is_drawn_anew_when_something_changed_and_ends_with_q():
    canvas, looks = Canvas(), Looks(run("a-1"))
    steps = iter(["", "", "trouble", "", "size", "quit"])

    def wait(_: float) -> str:
        step = next(steps)
        if step == "trouble":
            looks.trouble = "the store is away"
        if step == "size":
            canvas.size = (100, 30)
        return step if step == "quit" else ""

    StoreScreen(looks, wait, clock=lambda: NOW).show(canvas)

    assert [len(picture) for picture in canvas.pictures] == [24, 24, 30]
    assert canvas.pictures[-1][-1].startswith("the store is away")


def test_a_store_that_cannot_be_read_is_said_so_and_is_looked_at_again():
    found = overview(run("b-1"))
    answers: list[Overview | Exception] = [found, RuntimeError("it is away")]

    class Watch:
        def look(self, _: str | None) -> Overview:
            answer = answers.pop()
            if isinstance(answer, Exception):
                raise answer
            return answer

    looker = Looker(Watch(), overview(run("a-1")))
    looker.start()
    try:
        looker.choose("a-1")
        assert until(lambda: looker.trouble) == "it is away"
        looker.choose("b-1")
        until(lambda: looker.overview is found)
        assert until(lambda: not looker.trouble)
    finally:
        looker.stop()
    assert not looker.is_alive()


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("\x1b[A\x1bOB", ["up", "down"]),
        ("\r", ["enter"]),
        ("\x1b", ["back"]),
        ("\x1b[15~xq", ["quit"]),
        ("", []),
    ],
)
def test_keys_have_names_also_when_they_come_together(typed: str, keys: list[str]):
    assert names_of(typed) == keys


# A log


def test_a_log_tells_what_changed_at_once_and_how_far_runs_are_now_and_then():
    log, said = OverviewLog(), []
    for second in range(25):
        share = driven(rows_solved=second, why=f"3 chunks run at {second}", seconds_left=40.0 - second)
        ended = run("mine-1", RunState.PARTIAL, rows_solved=24, rows_quarantined=16)
        seen = overview(ended if second == 24 else share, failures=[failure()] if second >= 12 else [])
        said += log.news(Overview(**{**vars(seen), "at": NOW + second}))

    assert said[0].startswith("run mine-1: running, 10 %, 4 of 40 rows, 40 s left, 3 chunks run at 0")
    slots = "service-1 on host: 2 workers, threads 3/4, 8 waiting; MEMORY 2 GiB/8 GiB"
    assert said[1].startswith(slots)
    assert [line.split(", ")[1] for line in said if "running" in line] == ["10 %", "35 %", "60 %"]
    assert said.count("run mine-1 failed: 3 chunks at solve: ValueError: seven is bad") == 1
    assert said[-1] == "run mine-1: partial, 40 rows in = 24 solved + 16 quarantined + 0 cancelled"
    assert len(said) == 6


def test_a_log_of_a_store_in_which_nothing_happens_says_so_once():
    log = OverviewLog()
    seen = overview(run("done-1", rows_solved=40), places=())
    assert log.news(seen) == [
        "nothing is under way in sqlite:///store.db; the newest one is done-1: succeeded, 40 rows in = 40 "
        "solved + 0 quarantined + 0 cancelled"
    ]
    assert log.news(seen) == []


def test_a_log_cannot_be_steered():
    lines = OverviewLog().news(hostile())
    assert lines
    assert not [line for line in lines if "\x1b" in line or "\n" in line]


def test_the_time_is_that_of_this_machine():
    text = "\n".join(lines_of(overview_screen(overview(), NOW, (80, 24)), (80, 24)))
    assert time.strftime("%H:%M:%S", time.localtime(NOW)) in text


def test_an_error_that_ended_a_run_is_told_without_chunks():
    torn = run("torn-1", RunState.FAILED, error=ErrorRecord("DataError", "no column", ""))
    ended = Failure("torn-1", "DataError", "no column", "", 0, 0, None)
    text = "\n".join(lines_of(overview_view(overview(torn, failures=[ended]), NOW, 80), (80, 24)))
    assert "  ✗ DataError: no column" in text
