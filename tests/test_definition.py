"""Pipelines and stages: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import datetime
import enum
import json
from typing import TYPE_CHECKING, Literal

import pandas as pd
import pytest

from batchrun import ChunkContext, Pipeline, Stage, by_group, by_rows, load_pipeline, pipeline
from batchrun.definition import as_pipeline
from batchrun.errors import ParameterError, PipelineError, PipelineNotFoundError
from batchrun.resources import Demand

if TYPE_CHECKING:
    import polars as pl


def plain(chunk):
    return chunk


def small(chunk, *, rate: float = 0.1, mode: Literal["fast", "exact"] = "fast"):
    return chunk


class Colour(enum.Enum):
    RED = "red"


def test_a_stage_reads_sizes_and_tags_as_people_write_them():
    stage = Stage(plain, memory="6GiB", resources={"HIGHMEM": 1})

    assert stage.demand == Demand(6 * 2**30, {"HIGHMEM": 1.0})
    assert str(stage.demand) == "HIGHMEM: 1, MEMORY: 6 GiB"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "lots"}, "not a size"),
        ({"memory": "-1GiB"}, "above zero"),
        ({"resources": {"MEMORY": 5}}, "memory='6GiB'"),
        ({"resources": {"GPU": 0}}, "above zero"),
        ({"resources": {"GPU": "one"}}, "above zero"),
        ({"columns": "x"}, r"\['x'\]"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused(options, said):
    with pytest.raises(PipelineError, match=said):
        Stage(plain, **options)


def test_a_function_must_take_a_frame_and_nothing_else_by_position():
    with pytest.raises(PipelineError, match="takes no frame"):
        Stage(lambda: None)
    with pytest.raises(PipelineError, match="`rate`; put a"):
        Stage(lambda chunk, rate: chunk)


def test_the_frame_type_is_read_from_the_annotation_even_if_it_cannot_be_imported():
    def of_polars(chunk: pl.DataFrame):
        return chunk

    assert Stage(of_polars).signature.kind == "polars"
    assert Stage(plain).signature.kind == "pandas"


def test_the_context_goes_where_it_is_annotated():
    def asks(chunk, *, who: ChunkContext, rate: int = 1):
        return chunk

    signature = Stage(asks).signature
    assert signature.context == "who"
    assert list(signature.parameters) == ["rate"]


def test_stages_of_equal_needs_form_one_leg():
    stages = [plain, small, Stage(plain, memory="1GiB"), Stage(small, memory="1GiB"), plain]

    made = Pipeline("p", split=by_rows(1), stages=stages)

    assert made.legs == ((0, 1), (2, 3), (4,))
    assert [stage.name for stage in made.stages] == ["plain", "small", "plain-2", "small-2", "plain-3"]


def test_parameters_are_validated_and_recorded_as_json():
    def stage(chunk, *, day: datetime.date, colour: Colour = Colour.RED, share: float = 0.5):
        return chunk

    bound = Pipeline("p", split=by_rows(1), stages=[stage]).bind({"day": "2026-02-03", "share": 1})

    assert bound.stages == ({"day": datetime.date(2026, 2, 3), "colour": Colour.RED, "share": 1.0},)
    assert bound.record == {"day": "2026-02-03", "colour": "red", "share": 1.0}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"rat": 1}, "Did you mean `rate`"),
        ({"rate": "high"}, "`rate` of pipeline `p` cannot be 'high'"),
        ({"mode": "faster"}, "mode"),
        ({"rate": float("nan")}, "rate"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(params, said):
    with pytest.raises(ParameterError, match=said):
        Pipeline("p", split=by_rows(1), stages=[small]).bind(params)


def test_a_default_that_json_does_not_know_survives_being_recorded():
    nothing = object()

    def stage(chunk, *, sort=nothing, table: pd.DataFrame = None):
        return chunk

    made = Pipeline("p", split=by_rows(1), stages=[stage])
    first = made.bind({})
    json.dumps(first.record)

    assert made.bind(first.record).stages == ({"sort": nothing, "table": None},)


def test_a_parameter_without_a_default_must_be_given():
    def stage(chunk, *, rate: float):
        return chunk

    with pytest.raises(ParameterError, match="needs the parameter `rate`"):
        Pipeline("p", split=by_rows(1), stages=[stage]).bind({})


@pytest.mark.parametrize("name", ["ctx", "context"])
def test_a_context_that_nobody_said_is_one_is_asked_about(name):
    stage = {}
    exec(f"def stage(chunk, *, {name}):\n    return chunk", stage)

    with pytest.raises(ParameterError, match=f"needs the parameter `{name}`.*annotate it ChunkContext"):
        Pipeline("p", split=by_rows(1), stages=[stage["stage"]]).bind({})


def test_a_parameter_that_json_cannot_hold_is_refused():
    def stage(chunk, *, table: pd.DataFrame = None):
        return chunk

    with pytest.raises(ParameterError, match="JSON"):
        Pipeline("p", split=by_rows(1), stages=[stage]).bind({"table": pd.DataFrame()})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a b"}, "cannot name"),
        ({"split": 5}, "use by_rows"),
        ({"stages": []}, "no stage"),
        ({"stages": ["solve"]}, "needs a function"),
        ({"combine": "sum"}, "must be a function"),
    ],
)
def test_a_pipeline_that_makes_no_sense_is_refused(options, said):
    with pytest.raises(PipelineError, match=said):
        Pipeline(**{"name": "p", "split": by_rows(1), "stages": [plain], **options})


@pytest.mark.parametrize(
    "make",
    [
        lambda: by_rows(0),
        lambda: by_rows("many"),
        lambda: by_rows(True),
        lambda: by_group(),
        lambda: by_group("a", max_rows=0),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(make):
    with pytest.raises(PipelineError):
        make()


def test_a_pipeline_is_a_function_of_a_frame_too():
    @pipeline(split=by_rows(2), columns=["x"])
    def doubled(chunk: pd.DataFrame, ctx: ChunkContext, *, factor: int = 2) -> pd.DataFrame:
        """Twice as much."""
        return chunk * factor

    assert doubled(pd.DataFrame({"x": [1, 2]}), factor=5)["x"].tolist() == [5, 10]
    assert doubled.__doc__ == "Twice as much."
    assert repr(doubled) == "Pipeline('doubled', split=by_rows(2), stages=[doubled])"


def test_the_input_columns_are_those_declared_and_those_of_the_groups():
    made = Pipeline("p", split=by_group("pit"), stages=[plain], columns=["ore"])

    assert made.input_columns() == ("ore", "pit")
    assert Pipeline("p", split=by_rows(1), stages=[plain]).input_columns() is None


def test_a_plain_function_needs_a_split_and_a_pipeline_keeps_its_own_combine():
    with pytest.raises(PipelineError, match="split=by_rows"):
        as_pipeline(plain)
    made = as_pipeline(plain, split=by_rows(3))
    assert as_pipeline(made) is made
    assert as_pipeline(made, split=by_rows(9)).split == by_rows(9)
    with pytest.raises(PipelineError, match="own combine"):
        as_pipeline(made, combine=plain)


class TestLoading:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "orebody.py").write_text(
            "from batchrun import by_rows, pipeline\n"
            "@pipeline(split=by_rows(1))\ndef mine(chunk):\n    return chunk\n"
            "def helper(chunk):\n    return chunk\n"
        )
        (tmp_path / "torn.py").write_text("import no_such_solver\n")
        (tmp_path / "wrong.py").write_text("1 / 0\n")
        monkeypatch.syspath_prepend(tmp_path)

    def test_finds_a_pipeline_by_module_and_name_or_by_module_alone(self):
        assert load_pipeline("orebody:mine") is load_pipeline("orebody")
        assert load_pipeline("orebody").target == "orebody:mine"

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            ("orebody:mien", "Did you mean `mine`"),
            ("orebodi:mine", "no module `orebodi`. Did you mean `orebody`"),
            ("orebody:helper", "plain function"),
            ("torn:mine", "needs `no_such_solver`"),
            ("wrong:mine", "ZeroDivisionError"),
            ("orebody.py:mine", "no module|names no pipeline"),
            ("mine/ore", "names no pipeline"),
        ],
    )
    def test_says_what_is_wrong_with_a_name(self, target, said):
        with pytest.raises(PipelineNotFoundError, match=said):
            load_pipeline(target)


def double(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk * 2


class TestLimits:
    @pytest.mark.parametrize(
        ("options", "isolated"),
        [
            ({}, False),
            ({"memory": "1GiB"}, True),
            ({"memory": "auto"}, True),
            ({"timeout": "2h"}, True),
            ({"stop_after": 90}, True),
            ({"isolate": True}, True),
            ({"memory": "1GiB", "isolate": False}, False),
            ({"resources": {"HIGHMEM": 1}}, False),
        ],
    )
    def test_of_memory_or_time_put_a_stage_into_a_process_of_its_own(self, options, isolated):
        assert Stage(double, **options).isolated is isolated

    def test_are_read_as_people_write_them(self):
        stage = Stage(double, timeout="2h", stop_after="90min")

        assert (stage.timeout, stage.stop_after) == (7200.0, 5400.0)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"timeout": "1min", "stop_after": "1min"}, "before it is asked to stop"),
            ({"timeout": 0}, "no time at all"),
            ({"timeout": "soon"}, "is not a time"),
            ({"timeout": "1h", "isolate": False}, "leave isolate out"),
            ({"memory": "auto", "isolate": False}, "leave isolate out"),
        ],
    )
    def test_that_cannot_be_kept_are_refused(self, options, said):
        with pytest.raises(PipelineError, match=said):
            Stage(double, **options)

    def test_split_legs_where_the_process_changes(self):
        pipe = Pipeline(
            "p",
            split=by_rows(1),
            stages=[double, Stage(double, timeout="1h"), Stage(double, isolate=True), Stage(double)],
        )

        assert pipe.legs == ((0,), (1, 2), (3,))

    def test_survive_a_second_stage_of_the_same_name(self):
        pipe = Pipeline("p", split=by_rows(1), stages=[Stage(double), Stage(double, timeout="1h")])

        assert (pipe.stages[1].name, pipe.stages[1].timeout) == ("double-2", 3600.0)
