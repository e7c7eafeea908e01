"""Why a chunk or a run stands where it stands: one exact sentence for each case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from batchrun.admission import Candidate
from batchrun.errors import UsageError
from batchrun.outcome import ErrorRecord, RunState, relative_gap
from batchrun.store.live import DelayedChunk, LiveState, LiveWorker, RunningChunk, WaitingChunks
from batchrun.store.queue import QueueEntry
from batchrun.store.records import RunRecord
from batchrun.store.turns import Turns
from batchrun.why import QueueFacts, RunFacts, explain

NOW = 100_000.0
GIB = 2**30
MIN = 60.0
SEEN = {"solve": (58, 12 * MIN, 70 * MIN)}

CLUSTER_LOST = ErrorRecord("batchrun.errors.ClusterError", "no worker came back")

STANDARD = LiveWorker("standard-0", 1, GIB, {})
HIGHMEM = LiveWorker("highmem-0", 1, 2 * GIB, {"HIGHMEM": 1})
SECOND_HIGHMEM = LiveWorker("highmem-1", 1, 2 * GIB, {"HIGHMEM": 1})


def solve_stage(**more: Any) -> dict[str, Any]:
    return {"name": "solve", "memory": 0, "resources": {"HIGHMEM": 1}, "leg": 0, **more}


def record(state: RunState = RunState.RUNNING, **more: Any) -> RunRecord:
    begun: dict[str, Any] = {
        "created": NOW - 7200,
        "started": NOW - 3600,
        "heartbeat": NOW - 2,
        "stages": [solve_stage()],
        "rows_in": 120,
    }
    if state.ended:
        begun["ended"] = NOW - 1800
    fields = {"target": None, "split": "by_rows(4)", "folder": "", **begun, **more}
    return RunRecord(run_id="pits-1", pipeline="pits", state=state, **fields)


def chunks(outcomes: dict[int, str], *, total: int = 30, **columns: dict[int, Any]) -> pd.DataFrame:
    """A table of *total* chunks of four rows, pending but for *outcomes*."""
    frame = pd.DataFrame({"chunk": range(total), "start": [4 * n for n in range(total)]})
    frame["rows"] = [columns.get("rows", {}).get(n, 4) for n in range(total)]
    frame["outcome"] = [outcomes.get(n, "pending") for n in range(total)]
    frame["rows_out"] = [4 if outcome == "succeeded" else 0 for outcome in frame["outcome"]]
    for name in ("seconds", "objective", "bound"):
        frame[name] = [columns.get(name, {}).get(n, float("nan")) for n in range(total)]
    parents = columns.get("parent", {})
    frame["parent"] = pd.Series([parents.get(n) for n in range(total)], dtype="Int64")
    return frame


def attempt(chunk: int, number: int = 1, outcome: str = "succeeded", **more: Any) -> dict[str, Any]:
    row = {
        "chunk": chunk,
        "stage": "solve",
        "attempt": number,
        "worker": "highmem-0",
        "outcome": outcome,
        "started": NOW - 3000,
        "seconds": 90.0,
        "peak_memory": None,
        "error_type": None,
        "error": None,
        "signature": more.get("error_type"),
        "cause": None,
        "decision": "",
        "next_step": "",
        "objective": None,
        "bound": None,
    }
    return {**row, **more}


def bad_row(chunk: int, number: int = 1, message: str = "seven is bad.", **more: Any) -> dict[str, Any]:
    error = {"error_type": "ValueError", "error": message, "cause": "error", **more}
    return attempt(chunk, number, "failed", **error)


def out_of_memory(chunk: int, number: int = 1, **more: Any) -> dict[str, Any]:
    error = {"error_type": "OutOfMemory", "error": "the stage used 1.3 GiB, its memory is 1 GiB"}
    return attempt(chunk, number, "out_of_memory", cause="memory", **error, **more)


def attempts(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(attempt(0)))
    texts = ("outcome", "error_type", "error", "signature", "cause", "next_step")
    return frame.astype({**dict.fromkeys(texts, "str"), "peak_memory": "Int64"})


def live(
    *running: RunningChunk,
    workers: Sequence[LiveWorker] = (HIGHMEM, STANDARD),
    waiting: int = 1,
    delayed: Sequence[DelayedChunk] = (),
    **more: Any,
) -> LiveState:
    group = WaitingChunks("solve", "HIGHMEM: 1", 0, {"HIGHMEM": 1}, waiting)
    return LiveState(
        at=NOW,
        running=running,
        delayed=tuple(delayed),
        waiting=(group,) if waiting else (),
        workers=tuple(workers),
        **more,
    )


def busy(chunk: int, minutes: float, worker: str = "highmem-0", **more: Any) -> RunningChunk:
    return RunningChunk(
        chunk=chunk,
        stage=more.pop("stage", "solve"),
        attempt=more.pop("attempt", 1),
        worker=worker,
        started=NOW - minutes * MIN,
        rows=4,
        **more,
    )


def facts(**known: Any) -> RunFacts:
    state = known.get("record", record()).state
    given = {
        "record": record(),
        "driven": not state.ended,
        "now": NOW,
        "chunks": chunks({}),
        "attempts": attempts(),
        "live": None,
        "longest": {},
        **known,
    }
    table = given["chunks"]
    pairs = zip(table["objective"], table["bound"], strict=True)
    gaps = [gap for pair in pairs if (gap := relative_gap(*pair)) is not None]
    counted = {"outcomes": table["outcome"].value_counts().to_dict(), "worst_gap": max(gaps, default=None)}
    return RunFacts(**{"total": len(table), **counted, **given})


WAITS = {
    "for the one worker that has what it needs": (
        {"live": live(busy(17, 42)), "longest": SEEN},
        "chunk 23 waits for HIGHMEM: 1; one worker has it, highmem-0, busy with chunk 17 for 42 min (longest "
        "seen for `solve`: 1 h 10 min)",
    ),
    "as others do, for one that says how far it is": (
        {"live": live(busy(17, 42, share=0.4), waiting=12)},
        "chunk 23 waits for HIGHMEM: 1, as do 11 other chunks; one worker has it, highmem-0, busy with chunk "
        "17 for 42 min, 40 % done",
    ),
    "as one other does": (
        {"live": live(busy(17, 42), waiting=2)},
        "chunk 23 waits for HIGHMEM: 1, as does 1 other chunk; one worker has it, highmem-0, busy with chunk "
        "17 for 42 min",
    ),
    "for one of several workers": (
        {"live": live(busy(17, 2), busy(18, 5, "highmem-1"), workers=(HIGHMEM, SECOND_HIGHMEM, STANDARD))},
        "chunk 23 waits for HIGHMEM: 1; 2 workers have it, all busy, highmem-1 the longest: with chunk 18 "
        "for 5 min",
    ),
    "for a worker with several threads": (
        {"live": live(busy(1, 3), busy(2, 9), workers=(LiveWorker("highmem-0", 2, GIB, {"HIGHMEM": 2}),))},
        "chunk 23 waits for HIGHMEM: 1; one worker has it, highmem-0, busy with 2 chunks, the longest "
        "chunk 2 for 9 min",
    ),
    "for its turn on a worker that has room": (
        {"live": live()},
        "chunk 23 waits for HIGHMEM: 1; highmem-0 has room for it, so it starts when its turn comes",
    ),
    "for what no worker has": (
        {"live": live(workers=(STANDARD,))},
        "chunk 23 waits for HIGHMEM: 1; no worker has it: there is 1 × standard (1 thread, MEMORY: 1 GiB); "
        "start one that has it, or stop the run",
    ),
    "where no worker is left": (
        {"live": live(workers=())},
        "chunk 23 waits for HIGHMEM: 1; no worker is there; start one",
    ),
    "for a thread where it asks for nothing more": (
        {
            "record": record(stages=[solve_stage(resources={})]),
            "live": live(busy(3, 1), busy(4, 2, "standard-0"), waiting=0),
        },
        "chunk 23 waits for a free thread; 2 workers can run it, all busy, standard-0 the longest: with "
        "chunk 4 for 2 min",
    ),
    "for its second leg": (
        {
            "record": record(stages=[solve_stage(name="cut", resources={}), solve_stage(leg=1)]),
            "attempts": attempts(attempt(23, stage="cut")),
            "live": live(busy(17, 42)),
        },
        "chunk 23 waits for HIGHMEM: 1 to run `solve`; one worker has it, highmem-0, busy with chunk 17 for "
        "42 min",
    ),
    "for a worker that is not kept for a later stage": (
        {
            "record": record(stages=[solve_stage(name="cut", resources={}), solve_stage(leg=1)]),
            "live": LiveState(
                NOW,
                running=(busy(17, 42, "standard-0", stage="cut"),),
                waiting=(WaitingChunks("cut", "one thread", 0, {}, 1, kept_for=("solve",)),),
                workers=(HIGHMEM, STANDARD),
            ),
        },
        "chunk 23 waits for a free thread to run `cut`; highmem-0 has room, but is kept for `solve`, which "
        "has more work for it than others have; one worker can run it, standard-0, busy with chunk 17 for 42 "
        "min",
    ),
    "for more memory after it ran out of it": (
        {
            "attempts": attempts(out_of_memory(23)),
            "live": LiveState(
                NOW,
                running=(busy(17, 42),),
                waiting=(
                    WaitingChunks("solve", "MEMORY: 1 GiB", GIB, {}, 5),
                    WaitingChunks("solve", "MEMORY: 2 GiB", 2 * GIB, {}, 1),
                ),
                workers=(HIGHMEM, STANDARD),
            ),
        },
        "chunk 23 waits for MEMORY: 2 GiB for try 2, as try 1 ran out of memory (the stage used 1.3 GiB, its "
        "memory is 1 GiB); one worker has it, highmem-0, busy with chunk 17 for 42 min",
    ),
    "before its next try": (
        {
            "attempts": attempts(bad_row(23), bad_row(23, 2)),
            "live": live(delayed=[DelayedChunk(23, "solve", NOW + 12, "it failed")]),
        },
        "chunk 23 waits 12.0 s before try 3, because try 2 failed with ValueError: seven is bad",
    ),
    "before its next try for a reason that is not recorded yet": (
        {"live": live(delayed=[DelayedChunk(23, "solve", NOW + 12, "it failed")])},
        "chunk 23 waits 12.0 s before its next try, because it failed",
    ),
    "in a run that nothing drives": (
        {"driven": False, "record": record(heartbeat=NOW - 180)},
        "chunk 23 waits, because nothing drives the run: its driver was last at work 3 min ago; `batchrun "
        "resume pits-1` goes on",
    ),
    "in a run that has told nothing yet": (
        {},
        "chunk 23 is not settled; the run has not told yet what runs where, so ask again in a few seconds",
    ),
    "in a run that is stopping": (
        {"live": live(busy(17, 42), stopping=True)},
        "chunk 23 will not be started, because the run is stopping and only lets 1 running chunk end",
    ),
}

RUNS = {
    "twice": (
        {"live": live(busy(23, 0.1, "standard-0", attempt=2), busy(23, 30))},
        "chunk 23 runs `solve` on highmem-0 for 30 min, try 1; it was started a second time 6.0 s ago on "
        "standard-0, try 2, and the first of the two to give a result counts",
    ),
    "and says nothing": (
        {"live": live(busy(23, 1.5))},
        "chunk 23 runs `solve` on highmem-0 for 1 min 30 s, try 1",
    ),
    "and says how it is doing": (
        {
            "record": record(stages=[solve_stage(memory=2 * GIB)]),
            "longest": SEEN,
            "live": live(
                busy(
                    23,
                    10,
                    share=0.4,
                    message="step 40",
                    objective=1000.0,
                    bound=930.0,
                    memory=int(1.4 * GIB),
                    log="begin\nnode 7\n",
                )
            ),
        },
        "chunk 23 runs `solve` on highmem-0 for 10 min, try 1: 40 % done (“step 40”), objective 1,000, bound "
        "930, gap 7 %, 1.4 GiB of 2 GiB; it logged last “node 7”; the longest seen took 1 h 10 min",
    ),
    "slowly": (
        {"live": live(busy(23, 42)), "longest": SEEN},
        "chunk 23 runs `solve` on highmem-0 for 42 min, try 1; slow: of 58 seen half took less than 12 min, "
        "the longest 1 h 10 min",
    ),
    "longer than all seen": (
        {"live": live(busy(23, 90)), "longest": SEEN},
        "chunk 23 runs `solve` on highmem-0 for 1 h 30 min, try 1; slower than all 58 seen, the longest of "
        "which took 1 h 10 min",
    ),
    "longer than the only one seen": (
        {"live": live(busy(23, 90)), "longest": {"solve": (1, 60.0, 60.0)}},
        "chunk 23 runs `solve` on highmem-0 for 1 h 30 min, try 1; slower than the one seen, which took 1 "
        "min",
    ),
    "again": (
        {"live": live(busy(23, 1, attempt=2)), "attempts": attempts(out_of_memory(23))},
        "chunk 23 runs `solve` on highmem-0 for 1 min, try 2, after try 1 ran out of memory (the stage used "
        "1.3 GiB, its memory is 1 GiB)",
    ),
    "in more memory than its stage asks for": (
        {
            "record": record(stages=[solve_stage(memory=GIB)]),
            "live": live(busy(23, 1, memory=int(1.5 * GIB), message="two\nlines")),
        },
        "chunk 23 runs `solve` on highmem-0 for 1 min, try 1: it says “two”, 1.5 GiB",
    ),
}

ENDED = {
    "succeeded": (
        {
            "chunks": chunks({23: "succeeded"}, seconds={23: 90.0}),
            "attempts": attempts(attempt(23)),
        },
        "chunk 23 (4 rows) succeeded in 1 min 30 s on highmem-0: 4 rows came of it",
    ),
    "succeeded at a later try": (
        {
            "chunks": chunks({23: "succeeded"}, seconds={23: 90.0}),
            "attempts": attempts(
                bad_row(23, next_step="tried again in 250 ms"),
                attempt(23, 2, "worker_lost", error_type="WorkerLost", error="it was killed"),
                attempt(23, 3),
            ),
        },
        "chunk 23 (4 rows) succeeded in 1 min 30 s on highmem-0 at try 3, after try 1 failed with "
        "ValueError: seven is bad → tried again in 250 ms, try 2 lost its worker highmem-0 (it was "
        "killed): 4 rows came of it",
    ),
    "given up for the same error each time": (
        {
            "chunks": chunks({23: "failed"}),
            "attempts": attempts(
                bad_row(23), bad_row(23, 2), bad_row(23, 3, next_step="its rows are set apart")
            ),
        },
        "chunk 23 (4 rows) was given up at `solve`: all 3 tries failed with ValueError: seven is bad; its "
        "rows are set apart",
    ),
    "given up after one try, without a next step on record": (
        {"chunks": chunks({23: "failed"}), "attempts": attempts(bad_row(23))},
        "chunk 23 (4 rows) was given up at `solve`: try 1 failed with ValueError: seven is bad; its rows are "
        "set apart",
    ),
    "given up after many ends": (
        {
            "chunks": chunks({23: "failed"}),
            "attempts": attempts(*(bad_row(23, n, f"bad {n}", next_step="again") for n in range(1, 7))),
        },
        "chunk 23 (4 rows) was given up at `solve`: try 1 failed with ValueError: bad 1 → again, try 2 "
        "failed with ValueError: bad 2 → again, 3 tries more, try 6 failed with ValueError: bad 6; again",
    ),
    "given up because its process died": (
        {
            "chunks": chunks({23: "failed"}),
            "attempts": attempts(
                bad_row(
                    23,
                    error_type="ProcessDied",
                    message="the stage's process was ended by SIGSEGV (segmentation fault)",
                )
            ),
        },
        "chunk 23 (4 rows) was given up at `solve`: try 1 failed (the stage's process was ended by SIGSEGV "
        "(segmentation fault)); its rows are set apart",
    ),
    "succeeded at the faster of two tries": (
        {
            "chunks": chunks({23: "succeeded"}, seconds={23: 90.0}),
            "attempts": attempts(
                attempt(23, 1, "cancelled", cause="cancel", next_step="another try of it was faster"),
                attempt(23, 2, worker="standard-0"),
            ),
        },
        "chunk 23 (4 rows) succeeded in 1 min 30 s on standard-0 at try 2, after try 1 was cancelled "
        "(another try of it was faster): 4 rows came of it",
    ),
    "given up because it could not be sent": (
        {
            "chunks": chunks({23: "failed"}),
            "attempts": attempts(bad_row(23, cause="infrastructure", error_type="OSError", message="full")),
        },
        "chunk 23 (4 rows) was given up at `solve`: try 1 could not be sent, started or brought back "
        "(OSError: full); its rows are set apart",
    ),
    "given up for memory": (
        {
            "chunks": chunks({23: "out_of_memory"}),
            "attempts": attempts(
                out_of_memory(23, next_step="its rows are set apart: no worker has more memory")
            ),
        },
        "chunk 23 (4 rows) was given up at `solve`: try 1 ran out of memory (the stage used 1.3 GiB, its "
        "memory is 1 GiB); its rows are set apart: no worker has more memory",
    ),
    "given up for time": (
        {
            "chunks": chunks({23: "timed_out"}),
            "attempts": attempts(attempt(23, 1, "timed_out", cause="timeout")),
        },
        "chunk 23 (4 rows) was given up at `solve`: try 1 ran out of time (it was stopped after 1 min 30 s); "
        "its rows are set apart",
    ),
    "given up with its workers": (
        {
            "chunks": chunks({23: "worker_lost"}),
            "attempts": attempts(
                *(attempt(23, n, "worker_lost", cause="worker_lost", error="killed") for n in (1, 2))
            ),
        },
        "chunk 23 (4 rows) was given up at `solve`: both tries lost their worker highmem-0 (killed); its "
        "rows are set apart",
    ),
    "stopped with a solution": (
        {
            "chunks": chunks({23: "stopped_with_solution"}),
            "attempts": attempts(
                attempt(
                    23,
                    1,
                    "stopped_with_solution",
                    cause="deadline",
                    objective=1234.0,
                    bound=1200.0,
                    seconds=1800,
                )
            ),
        },
        "chunk 23 (4 rows) stopped with a solution at `solve` after 30 min, because its `stop_after` was "
        "over: objective 1,234, bound 1,200, gap 2.8 %",
    ),
    "stopped with a solution for memory": (
        {
            "chunks": chunks({23: "stopped_with_solution"}),
            "attempts": attempts(
                attempt(
                    23, 1, "stopped_with_solution", cause="memory", error_type="OutOfMemory", error="1.3 GiB"
                )
            ),
        },
        "chunk 23 (4 rows) stopped with a solution at `solve` after 1 min 30 s, because it passed its memory "
        "(1.3 GiB)",
    ),
    "cancelled while it ran": (
        {
            "chunks": chunks({23: "cancelled"}),
            "attempts": attempts(attempt(23, 1, "cancelled", cause="cancel")),
        },
        "chunk 23 (4 rows) was cancelled after 1 min 30 s at `solve` on highmem-0: somebody asked for it; "
        "`batchrun resume pits-1` computes it",
    ),
    "cancelled while it ran, by force": (
        {
            "record": record(RunState.PARTIAL),
            "chunks": chunks({23: "cancelled"}),
            "attempts": attempts(
                attempt(23, 1, "cancelled", error_type="Cancelled", error="the stage did not return")
            ),
        },
        "chunk 23 (4 rows) was cancelled after 1 min 30 s at `solve` on highmem-0: somebody asked for it "
        "(the stage did not return); `batchrun resume pits-1` computes it",
    ),
    "cancelled before its turn, in a run that goes on": (
        {"chunks": chunks({23: "cancelled"}), "live": live()},
        "chunk 23 (4 rows) was cancelled before it was started: somebody asked for it; `batchrun resume "
        "pits-1` computes it",
    ),
    "left between two stages": (
        {
            "record": record(RunState.CANCELLED),
            "chunks": chunks({23: "cancelled"}),
            "attempts": attempts(attempt(23, stage="cut")),
        },
        "chunk 23 (4 rows) did not get past `cut`, because the run was cancelled before; `batchrun resume "
        "pits-1` computes it",
    ),
    "never started": (
        {"record": record(RunState.CANCELLED), "chunks": chunks({23: "cancelled"})},
        "chunk 23 (4 rows) was not started, because the run was cancelled before; `batchrun resume pits-1` "
        "computes it",
    ),
    "left without a try that passed, by a run that failed": (
        {
            "record": record(RunState.FAILED, error=CLUSTER_LOST),
            "chunks": chunks({23: "cancelled"}),
            "attempts": attempts(bad_row(23)),
        },
        "chunk 23 (4 rows) is not solved: try 1 failed with ValueError: seven is bad, and the run failed "
        "before, because no worker came back; `batchrun resume pits-1` computes it",
    ),
    "cut": (
        {
            "chunks": chunks(
                {7: "cut", 23: "cut", 24: "succeeded", 25: "cut", 26: "failed", 27: "succeeded"},
                total=28,
                parent={24: 23, 25: 23, 26: 25, 27: 25},
                rows={24: 2, 25: 2, 26: 1, 27: 1},
            ),
            "attempts": attempts(bad_row(23)),
        },
        "chunk 23 (4 rows) was cut into chunks 24 and 25, because try 1 failed with ValueError: seven is "
        "bad at `solve`: 24 succeeded, 25 was cut again; of 4 rows 3 are solved and 1 quarantined",
    ),
}


@pytest.mark.parametrize(("known", "sentence"), WAITS.values(), ids=WAITS)
def test_a_chunk_waits(known: dict[str, Any], sentence: str):
    assert explain(facts(**known), 23) == sentence


@pytest.mark.parametrize(("known", "sentence"), RUNS.values(), ids=RUNS)
def test_a_chunk_runs(known: dict[str, Any], sentence: str):
    assert explain(facts(**known), 23) == sentence


@pytest.mark.parametrize(("known", "sentence"), ENDED.values(), ids=ENDED)
def test_a_chunk_has_ended(known: dict[str, Any], sentence: str):
    assert explain(facts(**known), 23) == sentence


WHOLE = {
    "queued": (
        {"record": record(RunState.QUEUED, started=None, created=NOW - 30)},
        "run pits-1 is queued for 30.0 s: its cluster and its input are being made ready",
    ),
    "running": (
        {
            "chunks": chunks({0: "succeeded", 1: "failed", 2: "failed"}),
            "attempts": attempts(bad_row(1), bad_row(2)),
            "live": live(
                busy(17, 42, share=0.4),
                busy(18, 3, "standard-0"),
                waiting=22,
                delayed=[DelayedChunk(9, "solve", NOW + 5, "")],
            ),
            "longest": SEEN,
        },
        "run pits-1 runs with 3 of 30 chunks settled; 2 chunks run, 22 wait for HIGHMEM: 1 and 1 waits "
        "before the next try; the longest is chunk 17, at `solve` on highmem-0 for 42 min, 40 % done "
        "(longest seen: 1 h 10 min); 2 chunks were given up at `solve`: ValueError: seven is bad",
    ),
    "running without a worker that could go on": (
        {"live": live(workers=(STANDARD,), waiting=30)},
        "run pits-1 runs with 0 of 30 chunks settled; 0 chunks run and 30 wait for HIGHMEM: 1, which no "
        "worker has",
    ),
    "running, cut chunks not counted": (
        {"chunks": chunks({0: "cut", 1: "succeeded"}, total=3), "live": live(busy(2, 1), waiting=0)},
        "run pits-1 runs with 1 of 2 chunks settled; 1 chunk runs; it is chunk 2, at `solve` on highmem-0 "
        "for 1 min",
    ),
    "stopping": (
        {"live": live(busy(17, 1), stopping=True)},
        "run pits-1 is stopping, because somebody asked for it, and lets 1 running chunk end: 0 of 30 chunks "
        "settled",
    ),
    "abandoned": (
        {"driven": False, "record": record(heartbeat=NOW - 180)},
        "run pits-1 stands still with 0 of 30 chunks settled, because nothing drives the run: its driver was "
        "last at work 3 min ago; `batchrun resume pits-1` goes on",
    ),
    "succeeded": (
        {
            "record": record(RunState.SUCCEEDED, rows_solved=120),
            "chunks": chunks(
                {0: "stopped_with_solution", 1: "succeeded"},
                total=2,
                objective={0: 1000.0},
                bound={0: 960.0},
            ),
        },
        "run pits-1 succeeded in 30 min: all 120 rows are solved; 1 chunk stopped with a solution, with a "
        "gap of 4 % at worst",
    ),
    "partly done": (
        {
            "record": record(RunState.PARTIAL, rows_solved=108, rows_quarantined=12),
            "chunks": chunks({0: "failed", 1: "failed", 2: "timed_out"}, total=3),
            "attempts": attempts(
                attempt(2, 1, "timed_out", error_type="TimedOut", error="too slow"), bad_row(0), bad_row(1)
            ),
        },
        "run pits-1 ended in part after 30 min: of 120 rows 108 are solved and 12 quarantined; 3 chunks were "
        "given up, most often at `solve`: ValueError: seven is bad; `batchrun resume pits-1` goes on",
    ),
    "failed": (
        {
            "record": record(
                RunState.FAILED, rows_cancelled=120, error=ErrorRecord("KeyError", "'pit'\nsecond line")
            )
        },
        "run pits-1 failed after 30 min, because of KeyError: 'pit': of 120 rows 120 are "
        "cancelled; `batchrun resume pits-1` goes on",
    ),
    "cancelled": (
        {"record": record(RunState.CANCELLED, rows_solved=100, rows_cancelled=20)},
        "run pits-1 was cancelled after 30 min, because somebody stopped it: of 120 rows 100 are solved "
        "and 20 cancelled; `batchrun resume pits-1` goes on",
    ),
}


@pytest.mark.parametrize(("known", "sentence"), WHOLE.values(), ids=WHOLE)
def test_a_run_as_a_whole_is(known: dict[str, Any], sentence: str):
    assert explain(facts(**known)) == sentence


def waiting_run(run_id: str, **known: Any) -> Candidate:
    return Candidate(run_id, **{"queued": NOW - 180, **known})


def turns(*others: Candidate, up: bool = True, **own: Any) -> Turns:
    """The queue with pits-1 and others."""
    services = {"service-1": "host-a"} if up else {}
    return Turns(NOW, (waiting_run("pits-1", **own), *others), services)


def entry(**known: Any) -> QueueEntry:
    return QueueEntry(queued=NOW - 180, prepared=True, **known)


NO_SERVICE = "no service is up; start one with `batchrun up`"
EARLIER = [waiting_run(f"r{number}", queued=NOW - 400) for number in range(3)]


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        (turns(), "is queued for 3 min and is the next that a service takes"),
        (
            turns(waiting_run("r1", held=True)),
            "is queued for 3 min and is the next that a service takes, which has 1 run now",
        ),
        (turns(*EARLIER), "is queued for 3 min and waits for its turn: 3 runs are before it"),
        (turns(*EARLIER[:1]), "is queued for 3 min and waits for its turn: 1 run is before it"),
        (
            turns(*EARLIER, up=False),
            f"is queued for 3 min and waits for its turn: 3 runs are before it; {NO_SERVICE}",
        ),
        (turns(up=False), f"is queued for 3 min and waits for a service; {NO_SERVICE}"),
        (
            turns(waiting_run("r1", lock="gurobi", held=True), lock="gurobi"),
            "is queued for 3 min and waits for the lock gurobi, which run r1 has",
        ),
        (
            turns(not_before=NOW + 180),
            "is queued for 3 min and waits until its time has come, in 3 min",
        ),
        (
            turns(after={"r1": RunState.RUNNING}),
            "is queued for 3 min and waits for run r1 to end",
        ),
        (
            turns(after={"r1": RunState.FAILED}),
            "is queued for 3 min and will never begin, because run r1, which it was to follow, has ended "
            "failed",
        ),
    ],
)
def test_a_queued_run_waits_for_its_turn(queue: Turns, said: str):
    waits = facts(
        record=record(RunState.QUEUED),
        driven=False,
        queue=QueueFacts(entry(), queue),
        chunks=chunks({}, total=0),
    )

    assert explain(waits) == f"run pits-1 {said}"


def test_a_queued_run_that_a_service_has_taken_has_not_begun():
    taken = QueueFacts(entry(owner="service-1", lease_until=NOW + 5), turns(held=True))
    waits = facts(record=record(RunState.QUEUED), driven=False, queue=taken, chunks=chunks({}, total=0))

    assert explain(waits) == ("run pits-1 is queued for 3 min: a service on host-a has it, and has not begun")


def test_a_run_that_lost_its_service_waits_for_another_with_what_it_has():
    lost = QueueFacts(entry(owner="gone", lease_until=NOW - 5), turns(up=False, under_way=True))
    waits = facts(driven=False, queue=lost, chunks=chunks({0: "succeeded"}))

    assert explain(waits) == (
        f"run pits-1 lost its service, and waits for a service; {NO_SERVICE}; so far it has 1 of 30 chunks "
        "settled"
    )
    assert explain(waits, 23) == (
        f"chunk 23 waits, because the run lost its service, and waits for a service; {NO_SERVICE}"
    )


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "run pits-1 has no chunk 30; its chunks are 0 to 29 so far"),
        ({"record": record(RunState.PARTIAL)}, "run pits-1 has no chunk 30; its chunks are 0 to 29"),
        ({"chunks": chunks({}, total=1)}, "run pits-1 has no chunk 30; its only chunk is 0 so far"),
        ({"chunks": chunks({}, total=0)}, "run pits-1 has no chunk 30; none was cut so far"),
    ],
)
def test_a_chunk_that_is_not_there_is_wrong_usage(known: dict[str, Any], said: str):
    with pytest.raises(UsageError) as error:
        explain(facts(**known), 30)

    assert str(error.value) == said


def test_what_was_tried_before_a_resume_does_not_move_a_chunk_on():
    two_legs = [solve_stage(name="cut", resources={"GPU": 1}), solve_stage(leg=1)]
    before = attempt(23, stage="cut", started=NOW - 7000)

    told = explain(facts(record=record(stages=two_legs), attempts=attempts(before), live=live()), 23)

    assert told.startswith("chunk 23 waits for GPU: 1 to run `cut`")


def test_what_users_say_cannot_steer_a_terminal_or_break_the_line():
    said = "red\x1b[31m\x07 alert\r\nsecond line"

    told = explain(facts(chunks=chunks({23: "failed"}), attempts=attempts(bad_row(23, message=said))), 23)

    assert "ValueError: red[31m alert; " in told
    assert all(letter.isprintable() for letter in told)


def test_a_long_error_is_clipped():
    long = explain(
        facts(chunks=chunks({23: "failed"}), attempts=attempts(bad_row(23, message="x" * 9999))), 23
    )

    assert len(long) < 400
