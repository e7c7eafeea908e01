"""The terminal: live on a terminal, sparing in a log, silent when asked, and never fooled by brackets."""

from __future__ import annotations

import io
import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from batchrun import Pipeline, RetryPolicy, RunReport, Stage, by_rows, console, run_pipeline
from batchrun.events import (
    AttemptEnded,
    ChunkCut,
    ChunkReported,
    ChunksPlaced,
    ChunksPlanned,
    Event,
    RunEnded,
    RunStarted,
    RunStopping,
    RunWaiting,
    SlotsChanged,
    SlotUse,
)
from batchrun.outcome import Attempt, ErrorRecord, Outcome, RunState
from batchrun.progress import Progress
from batchrun.render.live import progress_block, stopping_line
from batchrun.render.pulse import Pulse
from batchrun.status import TaskStatus
from batchrun.store.live import LiveState, LiveWorker, RunningChunk, WaitingChunks
from tests.stopped_run import stopped_run
from tests.told import chunk_settled, chunks_recalled


def events(rows: int = 1_000, chunks: int = 10, seconds_each: float = 1.0) -> list[Event]:
    """A run from start to end in which the third chunk fails."""
    each = rows // chunks
    happened: list[Event] = [
        RunStarted("r1", 0.0, "delays[bold]", ("delays",), rows, "runs/r1", "two [red]workers"),
        ChunksPlanned("r1", 0.0, chunks=chunks, rows=rows),
        SlotsChanged("r1", 0.0, (SlotUse("threads", 2, 2, 8), SlotUse("HIGHMEM", 1, 1, 3)), 2),
    ]
    for chunk in range(chunks):
        outcome = Outcome.FAILED if chunk == 2 else Outcome.SUCCEEDED
        happened.append(chunk_settled("r1", (chunk + 1) * seconds_each, chunk, outcome, each, seconds_each))
    end = chunks * seconds_each
    return [*happened, RunEnded("r1", end, RunState.PARTIAL, rows, rows - each, each, 0, end)]


def screen(*, terminal: bool, width: int = 80) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        force_interactive=terminal,
        width=width,
        color_system=None,
        highlight=False,
    )


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    """A run in which one row of fifty fails with an error full of markup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("console"))

        def solve(chunk: pd.DataFrame, *, label: str = "[bold]x[/bold]") -> pd.DataFrame:
            if (chunk["value"] == 7).any():
                raise ValueError("row [red]7[/red] is bad")
            return chunk.assign(label=label)

        return run_pipeline(
            Pipeline("scores", split=by_rows(5), stages=[Stage(solve, retry=RetryPolicy(attempts=1))]),
            pd.DataFrame({"value": range(50)}),
            cluster="inline",
            progress=False,
        )


def test_a_log_gets_a_line_at_the_start_one_every_five_seconds_and_one_at_the_end():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown, clock=lambda: 0.0) as progress:
        for event in events(chunks=20, seconds_each=1.0):
            progress(event)
    lines = text_of(shown).splitlines()
    assert lines[0] == "run r1: delays[bold] on two [red]workers, 1,000 rows"
    assert (
        lines[-1] == "run r1: partial after 20.0 s, 1,000 rows in = 950 solved + 50 quarantined + 0 cancelled"
    )
    assert [line.split()[2] for line in lines[1:-1]] == ["25", "50", "75", "100"]
    assert "1 without a result" in lines[1]


def test_a_log_has_no_control_codes():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown) as progress:
        for event in events():
            progress(event)
    assert "\x1b" not in text_of(shown)
    assert "\r" not in text_of(shown)


class Watched(io.StringIO):
    """A log that tells when a line with some words was written."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.seen = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.words in self.getvalue():
            self.seen.set()
        return written


def test_a_log_gets_lines_while_one_long_chunk_lets_nothing_happen():
    watched = Watched("1 running, 10 s elapsed, no chunk has ended yet")
    shown = Console(file=watched, width=80)
    ticks = iter(range(1_000))
    with console.ConsoleProgress(console=shown, clock=lambda: float(next(ticks)), log_every=5.0) as progress:
        progress._pulse.stop()
        progress(events()[0])
        progress(ChunksPlanned("r1", 0.0, chunks=1, rows=1_000))
        progress(ChunksPlaced("r1", 0.0, (0,), ("w-0",)))
        progress._pulse = Pulse(progress._tick, 0.001)
        progress._pulse.start()
        assert watched.seen.wait(30)
    lines = [line for line in watched.getvalue().splitlines() if "elapsed" in line]
    assert [line.split(", ")[-2] for line in lines[:2]] == ["5 s elapsed", "10 s elapsed"]


def test_nothing_is_written_once_the_log_is_stopped():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown, log_every=0.001) as progress:
        progress(events()[0])
    written = text_of(shown)
    assert "batchrun-display" not in {thread.name for thread in threading.enumerate()}
    progress.stop()
    assert text_of(shown) == written


def test_a_log_says_once_what_was_solved_before_and_what_a_request_to_stop_does():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown, clock=lambda: 0.0) as progress:
        progress(events()[0])
        progress(ChunksPlanned("r1", 0.0, chunks=10, rows=1_000, settled=1, settled_rows=100))
        progress(chunks_recalled("r1", 0.0, succeeded={0: 100}))
        progress(ChunksPlaced("r1", 0.0, (1, 2), ("w-0", "w-1")))
        progress(RunStopping("r1", 1.0, running=2, grace=5.0))
    assert "run r1: goes on; 100 of 1,000 rows in 1 chunk were settled before\n" in text_of(shown)
    said = "run r1: stopping: 2 running chunks have up to 5 s to end; a second interrupt stops at once\n"
    assert text_of(shown).count(said) == 1


def test_the_live_block_moves_by_the_clock_alone_and_says_what_a_request_to_stop_does():
    shown = screen(terminal=True)
    now = [5.0]
    progress = console.ConsoleProgress(console=shown, clock=lambda: now[0])
    for event in [*events()[:4], ChunksPlaced("r1", 1.0, (1, 2), ("w-0", "w-1"))]:
        progress(event)
    shown.print(progress._draw())
    assert "5 s elapsed, 5 s left" in text_of(shown)
    assert "2 chunks running" in text_of(shown)
    now[0] = 7.0
    progress(RunStopping("r1", 7.0, running=2, grace=5.0))
    shown.print(progress._draw())
    assert "7 s elapsed, stopping" in text_of(shown)
    said = "stopping: 2 running chunks have up to 5 s to end; Ctrl-C again stops at once"
    assert said in text_of(shown)


def reported(chunk: int, at: float, message: str = "", **more: float) -> ChunkReported:
    return ChunkReported("r1", at, chunk, "highmem-0", TaskStatus("k", "solve", at, message=message, **more))  # type: ignore[arg-type]


def test_the_live_block_shows_running_chunks_with_what_they_say_in_eighty_columns():
    shown = screen(terminal=True)
    progress = console.ConsoleProgress(console=shown, clock=lambda: 720.0)
    for event in [*events()[:3], ChunksPlaced("r1", 0.0, tuple(range(17, 27)), ("highmem-0",) * 10)]:
        progress(event)
    progress(
        reported(17, 720, "[red]node\x1b[31m 9", done=0.4, objective=1_000, bound=968, memory=1_503_238_553)
    )
    shown.print(progress._draw())
    lines = [line.rstrip() for line in text_of(shown).splitlines() if line.startswith("chunk ")]
    assert lines[0] == 'chunk 17 solve on highmem-0  ▇▁▁▁ 40 %  gap 3.2 %  1.4 GiB  12 min  "[red]node …'
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80


def test_the_live_block_shows_a_pack_that_takes_long_as_one_line():
    shown = screen(terminal=True)
    progress = console.ConsoleProgress(console=shown, clock=lambda: 60.0)
    workers = ("standard-0",) * 1_200
    for event in [*events()[:3], ChunksPlaced("r1", 0.0, tuple(range(1_200)), workers, (1_000, 200))]:
        progress(event)
    shown.print(progress._draw())
    lines = [line.rstrip() for line in text_of(shown).splitlines() if line.startswith("chunk ")]
    assert lines == [
        "chunk 0 and 999 more on standard-0      1 min",
        "chunk 1,000 and 199 more on standard-0  1 min",
    ]
    assert "1,200 chunks running" in text_of(shown)


def test_a_log_tells_a_new_message_of_a_chunk_at_most_every_ten_seconds():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown, clock=lambda: 0.0, log_every=1e9) as progress:
        progress(events()[0])
        progress(ChunksPlaced("r1", 0.0, (17,), ("highmem-0",)))
        for at in range(25):
            progress(reported(17, float(at), f"step [b]{at}[/b]", done=at / 25))
        progress(reported(17, 40.0, "step [b]20[/b]"))
    said = [line for line in text_of(shown).splitlines() if "chunk 17" in line]
    assert said == [
        'run r1: chunk 17 solve on highmem-0: 0 %, 0 s, "step [b]0[/b]"',
        'run r1: chunk 17 solve on highmem-0: 40 %, 10 s, "step [b]10[/b]"',
        'run r1: chunk 17 solve on highmem-0: 80 %, 20 s, "step [b]20[/b]"',
    ]


def test_a_log_stays_readable_when_hundreds_of_chunks_talk():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown, clock=lambda: 0.0, log_every=1e9) as progress:
        progress(events()[0])
        for at in range(20):
            for chunk in range(300):
                progress(reported(chunk, float(at), f"at {at}"))
    assert sum("chunk" in line for line in text_of(shown).splitlines()) == 10


def failed(chunk: int, error: ErrorRecord | None, outcome: Outcome = Outcome.FAILED) -> AttemptEnded:
    return AttemptEnded("r1", 1.0, Attempt(chunk, "solve", 1, "w-0", outcome, 0.0, 0.5, 4, error=error))


def test_the_live_block_shows_what_failed_by_its_cause_the_latest_first():
    shown = screen(terminal=True)
    progress = console.ConsoleProgress(console=shown, clock=lambda: 5.0)
    bad = ErrorRecord("ValueError", "[red]pit[/red] 7\x1b[2J is bad " + "x" * 200, "", signature="a")
    for event in [*events()[:3], failed(0, bad), failed(1, bad), failed(2, None, Outcome.TIMED_OUT)]:
        progress(event)
    for number in range(3):
        progress(failed(3, ErrorRecord("KeyError", str(number), "", signature=f"k{number}")))
    progress(failed(4, bad))
    progress(failed(5, None, Outcome.CANCELLED))
    shown.print(progress._draw())

    lines = [line.rstrip() for line in text_of(shown).splitlines() if line.startswith(("✗ ", "… "))]
    assert lines[0].startswith("✗ 3 × ValueError at solve: [red]pit[/red] 7 [2J is bad xxx")
    assert len(lines[0]) == 80
    assert lines[1:] == [
        "✗ 1 × KeyError at solve: 2",
        "✗ 1 × KeyError at solve: 1",
        "… and 2 other causes; batchrun show r1 has them",
    ]


def test_solves_that_were_stopped_are_counted_apart_with_their_worst_gap():
    shown = screen(terminal=False)
    stopped = Outcome.STOPPED_WITH_SOLUTION
    with console.ConsoleProgress(console=shown, clock=lambda: 0.0) as progress:
        progress(events()[0])
        progress(ChunkCut("r1", 1.0, 3, (10, 11), (50, 50)))
        for chunk, gap in ((0, 0.041), (1, 0.01), (2, None)):
            progress(chunk_settled("r1", 2.0, chunk, stopped, 10, gap=gap))
        drawn = screen(terminal=False, width=120)
        drawn.print(progress._draw())
        progress(RunEnded("r1", 10.0, RunState.SUCCEEDED, 1_000, 1_000, 0, 0, 10.0))
    assert "◐ 3 stopped with a solution, worst gap 4.1 %   ✂ 1 cut" in text_of(drawn)
    assert text_of(shown).rstrip().endswith("0 cancelled; 3 stopped with a solution, worst gap 4.1 %")


def test_quiet_writes_nothing():
    shown = screen(terminal=True)
    with console.ConsoleProgress(console=shown, quiet=True) as progress:
        for event in events():
            progress(event)
    assert text_of(shown) == ""


def test_the_live_block_shows_rows_rate_estimate_failures_and_slots_in_eighty_columns():
    shown = screen(terminal=True)
    with console.ConsoleProgress(console=shown, clock=lambda: 5.0) as progress:
        for event in events()[:8]:
            progress(event)
        shown.print(progress._draw())
    block = text_of(shown)
    assert "500 of 1,000 rows   100 rows/s   5 of 10 chunks" in block
    assert "50 %  5 s elapsed, 5 s left" in block
    assert "2 workers   0 chunks running   threads 2/2, 8 waiting" in block
    assert "1 failed" in block
    assert "HIGHMEM 1/1, 3 waiting" in block
    assert "delays[bold]" in block
    assert max(len(line) for line in block.splitlines() if "\x1b" not in line) <= 80


def test_the_number_of_chunks_is_marked_while_the_plan_is_not_finished():
    shown = screen(terminal=True)
    progress = console.ConsoleProgress(console=shown, clock=lambda: 1.0)
    progress(events()[0])
    progress(ChunksPlanned("r1", 0.0, chunks=3, rows=300))
    shown.print(progress._draw())
    assert "0 of 3 chunks so far" in text_of(shown)


def test_the_live_block_is_gone_and_the_cursor_back_after_an_error():
    shown = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=80)

    def interrupted() -> None:
        with console.ConsoleProgress(console=shown) as progress:
            progress(events()[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert text_of(shown).rindex("\x1b[?25h") > text_of(shown).rindex("\x1b[?25l")


def test_the_summary_states_the_law_of_conservation_and_the_failures(report: RunReport):
    shown = screen(terminal=False)
    console.print_summary(report, [Path("out/scores.html")], console=shown)
    summary = text_of(shown)
    assert "50 rows in = 49 solved + 1 quarantined + 0 cancelled" in summary
    assert "12 chunks: 11 succeeded, 1 failed; 2 others were cut into parts" in summary
    assert "ValueError: row [red]7[/red] is bad (1 chunk, 1 row)" in summary
    assert "out/scores.html" in summary.replace("\\", "/")
    assert max(len(line) for line in summary.splitlines()) <= 80


def test_the_details_show_parameters_as_they_are_and_the_stages(report: RunReport):
    shown = screen(terminal=False)
    console.print_details(report, console=shown)
    assert "label = '[bold]x[/bold]'" in text_of(shown)
    assert "solve  one thread" in text_of(shown)


def test_the_summary_counts_stopped_solves_and_names_the_most_memory(tmp_path: Path):
    shown = screen(terminal=False)
    console.print_summary(stopped_run(tmp_path), console=shown)
    summary = text_of(shown)
    assert "8 stopped with a solution, worst gap 20 %" in summary
    assert "peak memory 2.3 GiB" in " ".join(summary.split())
    assert max(len(line) for line in summary.splitlines()) <= 80


def test_the_details_say_what_to_ask_for_next_time_within_80_columns(tmp_path: Path):
    shown = screen(terminal=False)
    console.print_details(stopped_run(tmp_path), console=shown)
    printed = text_of(shown)
    assert "next time solve: 4 of 44 attempts passed 2 GiB" in " ".join(printed.split())
    assert max(len(line) for line in printed.splitlines()) <= 80


def test_the_details_of_a_run_that_goes_on_show_what_runs_and_what_waits(tmp_path: Path):
    shown = screen(terminal=False, width=100)
    live = LiveState(
        at=1.0,
        running=tuple(
            RunningChunk(chunk, "solve", 1, "highmem-0", 1.0, 5, share=0.5, message="[i]x[/i]")
            for chunk in range(25)
        ),
        waiting=(WaitingChunks("solve", "HIGHMEM: 1", 0, {"HIGHMEM": 1}, 3),),
        workers=(LiveWorker("highmem-0", 1, 2**30, {"HIGHMEM": 1}),),
    )
    console.print_details(stopped_run(tmp_path, live=live), console=shown)
    printed = text_of(shown)
    assert "25 chunks running on 1 worker; 3 wait for HIGHMEM: 1 at solve" in printed
    assert printed.count("▇▇▁▁ 50 %") == 20
    assert "[i]x[/i]" in printed
    assert "… and 5 more" in printed


@dataclass(frozen=True)
class Run:
    run_id: str
    state: RunState
    rows_in: int = 336_776
    rows_solved: int = 336_000
    created: float = 1_790_000_000.0


def test_runs_are_listed_in_eighty_columns_with_their_ids_whole():
    shown = screen(terminal=False)
    runs = [Run(f"mine_schedule-20261124-193412-{n:04x}", state) for n, state in enumerate(RunState)]
    console.print_runs(runs, console=shown)
    listed = text_of(shown)
    for run in runs:
        assert run.run_id in listed
        assert run.state.value in listed
    assert max(len(line) for line in listed.splitlines()) <= 80


def test_a_run_whose_driver_is_gone_is_listed_as_stopped_with_how_to_go_on():
    shown = screen(terminal=False)
    runs = [Run(f"mine_schedule-20261124-193412-{n:04x}", RunState.RUNNING) for n in range(2)]
    console.print_runs(runs, abandoned={runs[1].run_id}, console=shown)
    listed = text_of(shown)
    shown_as = {line.split()[0]: line.split()[1:3] for line in listed.splitlines() if " of " in line}
    assert [shown_as[run.run_id] for run in runs] == [["▸", "running"], ["◦", "stopped"]]
    assert "running, but its driver is gone:\n" in listed
    assert f"batchrun resume {runs[1].run_id}\n" in listed
    assert f"batchrun resume {runs[0].run_id}" not in listed
    assert max(len(line) for line in listed.splitlines()) <= 80


def test_an_empty_list_of_runs_says_how_to_start_one():
    shown = screen(terminal=False)
    console.print_runs([], console=shown)
    assert "batchrun submit" in text_of(shown)


def test_settings_and_checks_show_brackets_as_they_are():
    shown = screen(terminal=False)

    @dataclass(frozen=True)
    class Check:
        name: str
        ok: bool | None
        detail: str
        advice: str = ""

    console.print_settings([("store.url", "sqlite:///[x]", "cluster.yaml:3")], console=shown)
    console.print_checks(
        [
            Check("store", True, "writable [y]"),
            Check("cluster", False, "no answer", "start it"),
            Check("disk", None, "nearly full", "make room"),
        ],
        console=shown,
    )
    printed = text_of(shown)
    assert "sqlite:///[x]" in printed
    assert "writable [y]" in printed
    assert "→ start it" in printed
    assert [line[0] for line in printed.splitlines() if line[:1] in "✓✗!"] == ["✓", "✗", "!"]


def test_json_is_one_document_on_standard_output_and_has_no_nan(capsys: pytest.CaptureFixture[str]):
    console.print_json(
        {"state": RunState.PARTIAL, "rows": np.int64(3), "gap": math.nan, "path": Path("a"), "parts": (1, 2)}
    )
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "state": "partial",
        "rows": 3,
        "gap": None,
        "path": "a",
        "parts": [1, 2],
    }
    assert captured.err == ""


def test_errors_go_to_standard_error_whole_and_unwrapped(capsys: pytest.CaptureFixture[str]):
    message = "there is no column [arr_dely] in flights.parquet. " + "word " * 40
    console.print_error(message)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == f"error: {message}".strip()


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print_error("red", console=shown)
    assert "38;" not in text_of(shown)
    assert "\x1b[31" not in text_of(shown)


def test_progress_in_a_log_stays_lines_where_colours_are_forced(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console.ConsoleProgress() as progress:
        for event in events():
            progress(event)
    said = capsys.readouterr().err
    assert said.startswith("run r1: delays[bold] on two [red]workers, 1,000 rows\n")
    assert "\x1b" not in said


def test_what_people_should_know_about_a_run_is_said_when_it_starts():
    shown = screen(terminal=False)
    with console.ConsoleProgress(console=shown) as progress:
        progress(
            RunStarted(
                "r1", 0.0, "p", ("solve",), 10, "", "here", notes=("stage `solve` starts with 2 GiB [bold]",)
            )
        )

    assert "run r1: stage `solve` starts with 2 GiB [bold]" in text_of(shown)


def waits(at: float, reason: str) -> RunWaiting:
    return RunWaiting("r1", at, "delays", 1_000, reason)


def test_a_log_says_at_once_what_a_run_waits_for_and_later_only_what_changed():
    out = io.StringIO()
    shown = Console(file=out, force_terminal=False, width=40)
    with console.ConsoleProgress(console=shown, clock=lambda: 0.0) as progress:
        for at in range(0, 100, 2):
            progress(waits(float(at), f"run r1 waits until its time has come, in {100 - at} s"))
        progress(RunStarted("r1", 100.0, "delays", ("delays",), 1_000, "", "this process"))
        progress(waits(101.0, "run r1 lost its service"))

    said = out.getvalue().splitlines()
    assert said == [
        "run r1 waits until its time has come, in 100 s",
        "run r1 waits until its time has come, in 40 s",
        "run r1: delays on this process, 1,000 rows",
        "run r1 lost its service",
    ]


def test_a_terminal_shows_what_a_run_waits_for_instead_of_a_bar():
    progress = Progress()
    progress.tell(waits(0.0, "run r1 is queued for 3 s and waits for [bold]its[/bold] turn"))

    shown = Console(file=io.StringIO(), width=200)
    shown.print(progress_block(progress, 5.0))

    said = shown.file.getvalue()
    assert "delays  r1" in said
    assert "run r1 is queued for 3 s and waits for [bold]its[/bold] turn" in said
    assert "elapsed" not in said


def test_who_only_watches_is_promised_nothing_of_an_interrupt():
    progress = Progress()
    progress.tell(RunStarted("r1", 0.0, "delays", ("delays",), 1_000, "", "this process"))
    progress.tell(ChunksPlaced("r1", 0.0, (0,), ("w-0",)))
    progress.tell(RunStopping("r1", 1.0, running=1, grace=5.0, interruptible=False))

    assert stopping_line(progress, 1.0) == "run r1: stopping: 1 running chunk has up to 5 s to end"
