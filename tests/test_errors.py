"""Errors say what to do, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from batchrun import errors
from batchrun.errors import BatchrunError, near_miss


def every_error(root: type[BatchrunError] = BatchrunError) -> list[type[BatchrunError]]:
    return [root, *(found for child in root.__subclasses__() for found in every_error(child))]


@pytest.mark.parametrize("kind", every_error())
def test_an_error_survives_pickling_with_its_message(kind):
    error = pickle.loads(pickle.dumps(kind("column `x` is missing; it has `y`")))

    assert type(error) is kind
    assert str(error) == "column `x` is missing; it has `y`"


def test_every_error_of_the_tree_is_exported_and_drawn_in_the_module_docstring():
    for kind in every_error():
        assert kind.__name__ in errors.__all__
        assert kind.__name__ in errors.__doc__


def test_a_near_miss_is_suggested_and_a_far_one_is_not():
    assert near_miss("arr_dely", ["carrier", "arr_delay"]) == " Did you mean `arr_delay`?"
    assert near_miss("weather", ["carrier", "arr_delay"]) == ""
