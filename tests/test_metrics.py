"""Metrics for Prometheus: what runs told the scheduler, as counters and gauges beside Dask's own."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY, generate_latest

from batchrun.dashboard import metrics
from batchrun.dashboard.board import Board
from batchrun.dashboard.message import RUNNING, ChunkColumns, Message, code_of
from batchrun.dashboard.totals import MOST_PIPELINES, OTHERS, Totals
from batchrun.outcome import Outcome
from batchrun.progress import RunningLine

GRAFANA = Path(__file__).parents[1] / "docs" / "grafana.json"


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    assert metrics.show(board)
    yield board
    metrics.hide(board)


def message(run_id: str = "r", pipeline: str = "delays", **changes: object) -> Message:
    fields = {"at": 100.0, "started": 90.0, "rows_in": 100, "chunks_planned": 10}
    return Message(run_id, pipeline=pipeline, **(fields | changes))


def columns(codes: dict[int, int], seconds: float = 0.0) -> dict[str, bytes]:
    chunks = np.array(sorted(codes), np.int64)
    made = np.array([codes[chunk] for chunk in chunks.tolist()], np.uint8)
    return ChunkColumns(
        chunks, made, np.full(len(chunks), 10, np.int64), np.full(len(chunks), seconds, np.float32)
    ).pack()


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_what_is_settled_is_counted_once_however_often_it_is_told(board: Board):
    done = {"succeeded": 3, "failed": 1}
    told = message(chunks=done, rows={"succeeded": 30}, attempts={"succeeded": 3, "failed": 4})
    for _ in range(3):
        board.take(told.as_dict())
    board.take(message(chunks={"succeeded": 5, "failed": 1}, rows={"succeeded": 50}).as_dict())

    assert value("batchrun_chunks_total", pipeline="delays", outcome="succeeded") == 5
    assert value("batchrun_chunks_total", pipeline="delays", outcome="failed") == 1
    assert value("batchrun_rows_total", pipeline="delays", outcome="succeeded") == 50
    assert value("batchrun_attempts_total", pipeline="delays", outcome="failed") == 4


def test_runs_of_a_pipeline_and_their_sessions_add_up(board: Board):
    for run_id, started in (("a", 1.0), ("a", 2.0), ("b", 3.0)):
        told = message(run_id, started=started, chunks={"succeeded": 2})
        board.take(told.as_dict())
    board.take(message("b", started=3.0, chunks={"succeeded": 4}, state="succeeded", seconds=5.0).as_dict())
    board.take(message("b", started=3.0, chunks={"succeeded": 4}, state="succeeded", seconds=5.0).as_dict())

    assert value("batchrun_chunks_total", pipeline="delays", outcome="succeeded") == 8
    assert value("batchrun_runs_ended_total", pipeline="delays", state="succeeded") == 1
    assert value("batchrun_runs", pipeline="delays") == 1


def test_open_chunks_seconds_and_memory_are_told(board: Board):
    good = code_of(Outcome.SUCCEEDED)
    line = RunningLine(2, "w", 1.0, "solve", None, "", 3 * 2**30, None, None)
    changed = columns({0: good, 1: good}, seconds=2.0)
    board.take(message(chunks={"succeeded": 2}, changed=changed).as_dict())
    board.take(message(chunks={"succeeded": 2}, changed=columns({2: RUNNING}), running=(line,)).as_dict())

    assert value("batchrun_chunk_seconds_total", pipeline="delays") == pytest.approx(4.0)
    assert value("batchrun_chunks_open", pipeline="delays", condition="waiting") == 7
    assert value("batchrun_chunks_open", pipeline="delays", condition="running") == 1
    assert value("batchrun_peak_memory_bytes", pipeline="delays") == 3 * 2**30


def test_slots_of_runs_on_the_same_workers_are_not_added_up_and_what_waits_is(board: Board):
    for run_id, used, waiting in (("a", 2.0, 1.0), ("b", 3.0, 5.0)):
        board.take(message(run_id, slots=(("HIGHMEM", 4.0, used, waiting),)).as_dict())

    assert value("batchrun_slots", tag="HIGHMEM", what="capacity") == 4
    assert value("batchrun_slots", tag="HIGHMEM", what="used") == 3
    assert value("batchrun_slots", tag="HIGHMEM", what="waiting") == 6


def test_a_run_that_ended_holds_nothing(board: Board):
    told = message(slots=(("threads", 4.0, 2.0, 1.0),))
    board.take(told.as_dict())
    board.take(message(state="cancelled", slots=(("threads", 4.0, 2.0, 1.0),)).as_dict())

    assert value("batchrun_runs", pipeline="delays") is None
    assert value("batchrun_slots", tag="threads", what="used") is None


def test_a_board_that_is_hidden_is_told_no_more():
    board = Board()
    metrics.show(board)
    board.take(message(pipeline="gone", chunks={"succeeded": 1}).as_dict())
    assert value("batchrun_chunks_total", pipeline="gone", outcome="succeeded") == 1
    metrics.hide(board)
    assert value("batchrun_chunks_total", pipeline="gone", outcome="succeeded") is None


def test_names_that_are_made_up_run_by_run_are_counted_together():
    totals = Totals()
    for number in range(MOST_PIPELINES + 5):
        totals.take(None, message(pipeline=f"p{number}", chunks={"succeeded": 1}), 0.0)
    assert len(totals.chunks) == MOST_PIPELINES + 1
    assert totals.chunks[OTHERS, "succeeded"] == 5


def test_a_hostile_name_stays_within_its_quotes(board: Board):
    board.take(message(pipeline='a"} 1\nevil_total{x="', chunks={"succeeded": 1}).as_dict())
    lines = generate_latest(REGISTRY).decode().splitlines()
    assert not [line for line in lines if line.startswith("evil")]


def test_the_scheduler_serves_them_beside_its_own():
    from distributed import Client, LocalCluster

    from batchrun.dashboard.plugin import install

    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        url = install(client).replace("/batchrun", "/metrics")
        client.log_event("batchrun", message(pipeline="served", chunks={"succeeded": 7}).as_dict())
        client.run_on_scheduler(lambda: None)
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
    assert 'batchrun_chunks_total{outcome="succeeded",pipeline="served"} 7.0' in text
    assert "dask_scheduler_workers" in text
    assert value("batchrun_chunks_total", pipeline="served", outcome="succeeded") is None


def test_the_dashboard_for_grafana_asks_for_metrics_that_are_there(board: Board):
    board.take(
        message(
            chunks={"succeeded": 1},
            rows={"succeeded": 1},
            attempts={"succeeded": 1},
            changed=columns({0: code_of(Outcome.SUCCEEDED)}, seconds=1.0),
            slots=(("threads", 1.0, 1.0, 0.0),),
            running=(RunningLine(2, "w", 1.0, "solve", None, "", 1, None, None),),
        ).as_dict()
    )
    board.take(message("other", state="succeeded").as_dict())
    served = set(re.findall(r"^(batchrun_\w+)\{", generate_latest(REGISTRY).decode(), re.MULTILINE))
    panels = json.loads(GRAFANA.read_text(encoding="utf-8"))["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"batchrun_\w+", target["expr"])
    }
    assert len(panels) >= 6
    assert asked
    assert asked <= served
