"""Chunks that ride together: each is called, recorded and judged as it would be alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchrun import ChunkContext, Pipeline, by_rows
from batchrun.data.load import load
from batchrun.data.opening import open_source
from batchrun.data.source import Source
from batchrun.data.table import Stored, decode, each_labels_of, labels_of, to_frame, with_labels
from batchrun.dispatch import Choice
from batchrun.outcome import Outcome
from batchrun.resources import Demand, Worker
from batchrun.runner.state import RunningTasks
from batchrun.waiting import Waiting
from batchrun.worker import pack as packs
from batchrun.worker.merge import cut, merge
from batchrun.worker.pack import Member, Pack, PackResult, run_pack
from batchrun.worker.program import pickle_program
from batchrun.worker.running import recall
from batchrun.worker.task import run_task

PLACES = [(0, 3), (3, 2), (5, 0), (5, 4), (9, 1)]
"""First row and rows of the chunks of most packs here."""


def program_of(*stages: Callable[..., Any]) -> bytes:
    pipeline = Pipeline("ride", split=by_rows(1), stages=list(stages))
    return pickle_program(pipeline, pipeline.bind({}), "r1")


def pack_of(source: Source, places: list[tuple[int, int]] | None = None, **more: Any) -> Pack:
    places = places or PLACES
    members = tuple(Member(n, 1, rows, 0, first) for n, (first, rows) in enumerate(places))
    return Pack(more.pop("key", "k"), "r1", 0, members, (source.slice(0, source.rows),), Demand(), **more)


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": range(10),
            "value": [0.5, np.nan] * 5,
            "name": ["a", "b", None, "d", "e"] * 2,
            "when": pd.date_range("2013-01-01", periods=10, freq="h"),
            "kind": pd.Categorical(["x", "y"] * 5),
        }
    )


@pytest.fixture
def source(frame: pd.DataFrame, tmp_path: Path) -> Source:
    def never(*_: object) -> Source:
        raise AssertionError("rows are where they are")

    return open_source(frame, columns=None, split=by_rows(10), spool=str(tmp_path / "spool"), regroup=never)


def results_of(result: PackResult) -> dict[int, pd.DataFrame]:
    """The result of each plain chunk, as a pandas frame with its labels."""
    frames = {}
    for piece in result.pieces:
        table = load(piece.output)
        each, first = each_labels_of(table.schema), 0
        plain = table.replace_schema_metadata(
            {k: v for k, v in (table.schema.metadata or {}).items() if k != b"batchrun.labels.each"} or None
        )
        for position in piece.positions:
            rows = int(result.solved[-1].rows_out[position])
            part = plain.slice(first, rows)
            own = each or (labels_of(table.schema) and labels_of(table.schema).after(first))
            frames[int(result.solved[-1].chunks[position])] = to_frame(with_labels(part, own), "pandas")
            first += rows
        assert first == table.num_rows
    return frames


# What a stage gives, alone and in company


def same(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk


def numbered_anew(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.reset_index(drop=True).assign(twice=chunk["number"].to_numpy() * 2)


def filtered(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk[chunk["number"] % 2 == 0]


def grouped(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.groupby("name", dropna=False)[["number"]].sum()


def changed_in_place(chunk: pd.DataFrame) -> pd.DataFrame:
    chunk["number"] = -1
    chunk.loc[:, "value"] = 7.0
    return chunk


def objects(chunk: pd.DataFrame) -> pd.DataFrame:
    first = int(chunk["number"].min()) if len(chunk) else 0
    return pd.DataFrame({"mixed": pd.Series(["text"] if first % 2 else [first], dtype=object)})


def other_columns(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk[["number"]] if len(chunk) > 2 else chunk[["value", "number"]]


def other_types(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk[["number"]].astype("float64" if len(chunk) > 2 else "int64")


def other_categories(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.assign(kind=chunk["kind"].cat.remove_unused_categories())


def named_index(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk.set_index("when")


def with_polars(chunk: pl.DataFrame) -> pl.DataFrame:
    # What categories polars keeps depends on what it saw before.
    return chunk.drop("kind").with_columns(twice=pl.col("number") * 2).filter(pl.col("number") != 4)


def with_arrow(chunk: pa.Table) -> pa.Table:
    return chunk.append_column("one", pa.array([1] * chunk.num_rows, pa.int8()))


STAGES = [
    same,
    numbered_anew,
    filtered,
    grouped,
    changed_in_place,
    objects,
    other_columns,
    other_types,
    other_categories,
    named_index,
    with_polars,
    with_arrow,
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("places", [PLACES, [(7, 2), (0, 1), (3, 1)]], ids=["neighbours", "apart"])
def test_a_chunk_gives_in_a_pack_what_it_gives_alone(stage, places, source):
    program, pack = program_of(stage), pack_of(source, places)

    together = results_of(run_pack(program, pack, worker="w"))

    assert sorted(together) == list(range(len(places)))
    for number, (first, rows) in enumerate(places):
        task = pack.task(number)
        alone = run_task(
            program,
            type(task)(**{**task.__dict__, "key": "alone", "input": source.slice(first, first + rows)}),
            worker="w",
        )
        expected = to_frame(decode(alone.output.data), "pandas")
        pd.testing.assert_frame_equal(together[number], expected, check_index_type=False)


def test_results_of_one_make_travel_as_one_table(source):
    result = run_pack(program_of(numbered_anew), pack_of(source), worker="w")

    (piece,) = result.pieces
    assert piece.positions == (0, 1, 2, 3, 4)
    assert len(decode(piece.output.data).to_batches()) == 1


def test_a_large_result_of_a_pack_is_written_where_it_was_made(source, tmp_path):
    path = str(tmp_path / "result.arrow")

    result = run_pack(program_of(same), pack_of(source, store_to=path, inline_limit=10), worker="w")

    (piece,) = result.pieces
    assert isinstance(piece.output, Stored)
    assert Path(piece.output.path).parent == tmp_path
    assert results_of(result)[3]["number"].tolist() == [5, 6, 7, 8]


# What happens to one is not held against another


def picky(chunk: pd.DataFrame, ctx: ChunkContext) -> Any:
    match ctx.chunk:
        case 0:
            raise ValueError("a bad row")
        case 1:
            raise SystemExit(3)
        case 2:
            return None
        case 3:
            ctx.log.info("something to tell")
            return chunk
        case 4:
            return chunk["number"]
        case 5:
            raise MemoryError
        case 6:
            ctx.incumbent(chunk, objective=1.0)
            ctx.stopped_early()
            return chunk
    return chunk


def test_chunks_with_something_to_tell_come_back_as_if_they_were_alone(source):
    places = [(n, 1) for n in range(9)]

    result = run_pack(program_of(picky), pack_of(source, places), worker="w")

    assert result.solved[0].chunks.tolist() == [7, 8]
    assert result.left == ()
    told = {other.attempts[0].chunk: other for other in result.others}
    assert {chunk: other.attempts[0].outcome for chunk, other in told.items()} == {
        0: Outcome.FAILED,
        1: Outcome.FAILED,
        2: Outcome.SUCCEEDED,
        3: Outcome.SUCCEEDED,
        4: Outcome.FAILED,
        5: Outcome.OUT_OF_MEMORY,
        6: Outcome.STOPPED_WITH_SOLUTION,
    }
    assert "a bad row" in told[0].error.message
    assert told[2].ended
    assert "something to tell" in told[3].attempts[0].log
    assert ".to_frame()" in told[4].error.message
    assert told[6].attempts[0].best.objective == 1.0
    assert decode(told[3].output.data)["number"].to_pylist() == [3]


def test_the_attempts_of_plain_chunks_are_columns_for_each_stage(source):
    def first(chunk: pd.DataFrame) -> pd.DataFrame:
        return chunk.head(1)

    result = run_pack(program_of(first, same), pack_of(source), worker="w-1")

    assert [attempts.stage for attempts in result.solved] == ["first", "same"]
    one, two = result.solved
    assert one.rows_in.tolist() == [3, 2, 0, 4, 1]
    assert one.rows_out.tolist() == two.rows_in.tolist() == two.rows_out.tolist() == [1, 1, 0, 1, 1]
    assert one.worker == "w-1"
    assert (one.seconds > 0).all()
    assert (np.diff(one.started) >= 0).all()


def test_frames_for_the_next_leg_stay_one_for_each_chunk(source):
    isolated = Pipeline("legs", split=by_rows(1), stages=[same, numbered_anew])
    isolated = isolated.with_stages([isolated.stages[0], isolated.stages[1].with_memory(2**28)])
    program = pickle_program(isolated, isolated.bind({}), "r1")

    result = run_pack(program, pack_of(source), worker="w")

    assert [piece.positions for piece in result.pieces] == [(0,), (1,), (2,), (3,), (4,)]
    assert decode(result.pieces[1].output.data)["number"].to_pylist() == [3, 4]


def test_rows_that_cannot_be_read_are_held_against_no_chunk_before_it_was_tried_alone(source, tmp_path):
    pack = pack_of(source)
    for path in source.files:
        Path(path).unlink()

    result = run_pack(program_of(same), pack, worker="w")

    assert (result.left, result.apart, result.others) == ((0, 1, 2, 3, 4), True, ())


def test_code_that_cannot_be_loaded_fails_one_chunk_and_leaves_the_others(source):
    result = run_pack(b"no program", pack_of(source), worker="w")

    assert [other.attempts[0].chunk for other in result.others] == [0]
    assert result.left == (1, 2, 3, 4)


# How a pack ends early


def test_a_pack_that_takes_long_leaves_what_has_not_begun(source, monkeypatch):
    monkeypatch.setattr(packs, "LONGEST", 0.0)

    result = run_pack(program_of(same), pack_of(source), worker="w")

    assert result.solved[0].chunks.tolist() == [0]
    assert result.left == (1, 2, 3, 4)


gate, entered = threading.Event(), threading.Event()


def waits(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    import tests.test_pack as here

    if ctx.chunk == 1:
        here.entered.set()
        here.gate.wait(30)
    return chunk


def test_what_has_not_begun_can_be_taken_back(source):
    import tests.test_pack as here

    program = program_of(waits)
    results: list[PackResult] = []
    runs = threading.Thread(
        target=lambda: results.append(run_pack(program, pack_of(source, key="recalled"), worker="w"))
    )
    runs.start()
    assert here.entered.wait(30)

    assert recall(["recalled", "not here yet"]) == {"recalled": 2, "not here yet": 0}

    here.gate.set()
    runs.join(30)
    assert results[0].solved[0].chunks.tolist() == [0, 1]
    assert results[0].left == (2, 3, 4)
    assert recall(["recalled"]) == {}
    late = run_pack(program, pack_of(source, key="not here yet"), worker="w")
    assert (late.solved, late.left) == ((), (0, 1, 2, 3, 4))


def test_a_pack_that_runs_has_its_chunks_in_the_order_in_which_they_are_called(source):
    waiting = tuple(Waiting(chunk, 0, 2) for chunk in (3, 0, 4, 1, 2))
    choice = Choice(waiting, Worker("tcp://w", "w", threads=1, memory=0))

    running = RunningTasks().place(pack_of(source), choice)

    assert [item.chunk for item in running.items] == [0, 1, 2, 3, 4]
    assert running.first.chunk == 3


# Cutting and merging


def test_a_table_with_few_wanted_rows_is_made_smaller_before_it_is_converted(source):
    frames = cut(load(source.slice(0, 10)), [(9, 1), (2, 1)], "pandas")

    assert [frame["number"].tolist() for frame in frames] == [[9], [2]]
    assert [frame.index.tolist() for frame in frames] == [[9], [2]]


def test_frames_of_one_make_are_put_together_and_others_are_not():
    frames = [pd.DataFrame({"x": [n]}) for n in range(3)] + [
        pd.DataFrame({"y": [1.0]}),
        pl.DataFrame({"x": [1]}),
    ]

    merged = merge(frames, owner="the test")

    assert [positions for positions, _ in merged] == [[0, 1, 2], [3], [4]]


def test_merging_many_small_frames_takes_less_time_than_converting_each():
    frames = [pd.DataFrame({"x": [n], "y": [0.5]}) for n in range(300)]
    merge(frames[:2], owner="the test")
    began = time.process_time()
    merge(frames, owner="the test")
    together = time.process_time() - began
    began = time.process_time()
    for frame in frames:
        merge([frame], owner="the test")

    assert together < time.process_time() - began
