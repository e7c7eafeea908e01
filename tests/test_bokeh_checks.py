"""Bokeh's checks in threads that depend on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bokeh.core.properties import validate, without_property_validation
from bokeh.models import Title

from batchrun.bokeh_checks import checks_on


def is_checked() -> bool:
    """Whether Bokeh refuses what a property cannot hold."""
    try:
        Title(text=7)
    except ValueError:
        return True
    return False


def elsewhere(act: Callable[[], object]) -> object:
    """What *act* returns in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


def test_another_thread_cannot_turn_them_off_and_has_its_own() -> None:
    with checks_on():
        elsewhere(lambda: validate(False))
        try:
            assert is_checked()
            assert not elsewhere(is_checked)
        finally:
            elsewhere(lambda: validate(True))
    assert is_checked()


def test_the_thread_itself_can_turn_them_off_for_a_while() -> None:
    with checks_on():
        with validate(False):
            assert not is_checked()
            with checks_on():
                assert is_checked()
            assert not is_checked()
        assert is_checked()
        assert not without_property_validation(is_checked)()
        assert is_checked()
    assert is_checked()


def test_bokeh_can_be_loaded_and_classes_of_models_be_made_meanwhile() -> None:
    code = """
from batchrun.bokeh_checks import checks_on
with checks_on():
    import bokeh.core.properties, bokeh.model, bokeh.models, bokeh.plotting
    bokeh.plotting.figure(title="A title")
    class Named(bokeh.model.Model):
        name_of_it = bokeh.core.properties.String("it")
    assert Named().name_of_it == "it"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
