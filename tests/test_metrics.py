"""Metrics for Prometheus: what runs told the scheduler, as counters and gauges beside Dask's own."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY, generate_latest

from batchrun.dashboard import metrics
from batchrun.dashboard.board import Board
from batchrun.dashboard.leases import LEASES, Leases, lease_message
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


def told_of_leases(board: Board, *ages: float, service: str = "s1", pipeline: str = "delays") -> None:
    held = {f"r{number}": (pipeline, age) for number, age in enumerate(ages)}
    board.leases.take(lease_message(service, 30.0, held))


def test_the_age_of_a_lease_is_that_of_the_oldest_and_grows_while_its_service_is_silent(board: Board):
    now = [100.0]
    board.leases = Leases(clock=lambda: now[0])
    told_of_leases(board, 2.0, 5.0)
    assert value("batchrun_lease_age_seconds", pipeline="delays") == 5.0
    assert value("batchrun_lease_limit_seconds", pipeline="delays") == 30.0
    now[0] += 40
    assert value("batchrun_lease_age_seconds", pipeline="delays") == 45.0
    told_of_leases(board, 0.5)
    assert value("batchrun_lease_age_seconds", pipeline="delays") == 0.5


def test_a_lease_is_told_of_no_more_once_it_is_given_up_or_forgotten_and_once_where_it_changed_hands(board):
    now = [100.0]
    board.leases = Leases(clock=lambda: now[0])
    told_of_leases(board, 20.0)
    told_of_leases(board, 1.0, service="s2")
    assert value("batchrun_lease_age_seconds", pipeline="delays") == 1.0
    told_of_leases(board, service="s2")
    assert value("batchrun_lease_age_seconds", pipeline="delays") is None
    told_of_leases(board, 0.0)
    now[0] += 299
    assert value("batchrun_lease_age_seconds", pipeline="delays") == 299.0
    now[0] += 2
    assert value("batchrun_lease_age_seconds", pipeline="delays") is None
    assert value("batchrun_lease_limit_seconds", pipeline="delays") is None


def test_pipelines_that_are_made_up_lease_by_lease_are_told_of_together(board: Board):
    for number in range(MOST_PIPELINES + 5):
        told_of_leases(board, float(number), service=f"s{number}", pipeline=f"p{number}")
        board.leases._held[f"s{number}"] = {f"r{number}": board.leases._held[f"s{number}"]["r0"]}
    assert value("batchrun_lease_age_seconds", pipeline=OTHERS) == pytest.approx(MOST_PIPELINES + 4, abs=1)


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
        client.log_event(LEASES, lease_message("s1", 30.0, {"r1": ("served", 3.0)}))
        client.run_on_scheduler(lambda: None)
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
    assert 'batchrun_chunks_total{outcome="succeeded",pipeline="served"} 7.0' in text
    assert "dask_scheduler_workers" in text
    assert re.search(r'batchrun_lease_age_seconds\{pipeline="served"\} [345]\.', text)
    assert value("batchrun_chunks_total", pipeline="served", outcome="succeeded") is None


@pytest.fixture(scope="module")
def grafana() -> dict[str, Any]:
    """The dashboard for Grafana."""
    return json.loads(GRAFANA.read_text(encoding="utf-8"))


def served(board: Board) -> dict[str, set[str]]:
    """The metrics of a board that has everything, each with its labels."""
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
    told_of_leases(board, 1.0)
    samples = re.findall(r"^(batchrun_\w+)\{(.*)\} ", generate_latest(REGISTRY).decode(), re.MULTILINE)
    return {name: set(re.findall(r'(\w+)="', labels)) for name, labels in samples}


def test_the_dashboard_for_grafana_asks_for_metrics_and_labels_that_are_there(board: Board, grafana):
    known, asked = served(board), set()
    queries = [(panel["title"], target["expr"]) for panel in grafana["panels"] for target in panel["targets"]]
    for variable in grafana["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            assert label in known[name]
    for title, query in queries:
        names = re.findall(r"batchrun_\w+", query)
        assert names, title
        for name, matchers in re.findall(r"(batchrun_\w+)(?:\{(.*?)\})?", query):
            assert name in known, title
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= known[name], title
        for labels in re.findall(r" by \(([\w, ]+)\)", query):
            assert set(labels.split(", ")) <= set.union(*(known[name] for name in names)), title
        counters = {name for name in names if name.endswith("_total")}
        assert counters <= set(re.findall(r"(?:rate|increase)\((batchrun_\w+)", query)), title
        assert query.count("(") == query.count(")"), title
        asked |= set(names)
    unused = known.keys() - asked
    assert not unused, "a metric that no panel shows"


def test_the_dashboard_for_grafana_is_laid_out_without_overlaps_and_reads_the_source_that_is_chosen(grafana):
    panels = grafana["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        box = panel["gridPos"]
        assert box["w"] > 0
        assert box["h"] > 0
        assert 0 <= box["x"] <= 24 - box["w"]
        cells = {
            (x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), panel["title"]
        chosen = {"type": "prometheus", "uid": "${datasource}"}
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [
            chosen,
            *([chosen] * len(refs)),
        ]
    variables = {variable["name"]: variable for variable in grafana["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables.keys()
    assert variables["datasource"] == {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Data source",
    }
    assert grafana["schemaVersion"] >= 30
    assert "__inputs" not in grafana
