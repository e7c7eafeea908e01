"""Submissions: what a queued run was asked to be."""

from __future__ import annotations

import json

import pytest

from batchrun.errors import UsageError
from batchrun.submission import Submission


def submission(**values) -> Submission:
    return Submission("pipelines.flights:delays", "/work", "/work/flights.parquet", **values)


def test_a_submission_survives_json_with_every_field_set():
    asked = submission(
        params={"late_after": 30, "carriers": ["AA", None]},
        input_from="clean-1",
        max_quarantined="5%",
        priority=-3,
        lock="gpu",
        max_slots=2,
        after=("a-1", "b-2"),
        not_before=12.5,
        unique=True,
    )

    assert Submission.from_json(json.loads(json.dumps(asked.to_json()))) == asked


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object()])
def test_a_parameter_that_json_cannot_hold_is_refused(value):
    with pytest.raises(UsageError, match=r"parameters of .*:delays"):
        submission(params={"x": value}).to_json()


def test_a_field_that_is_unknown_is_named_with_its_near_miss():
    with pytest.raises(UsageError, match=r"'prioriti'.* Did you mean `priority`"):
        Submission.from_json({**submission().to_json(), "prioriti": 1})


def test_a_field_that_is_missing_is_named():
    values = submission().to_json()
    del values["folder"]

    with pytest.raises(UsageError, match="lacks folder"):
        Submission.from_json(values)
