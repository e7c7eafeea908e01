"""A run that is recorded as running is driven by a process that can be found, or by none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from batchrun.outcome import RunState
from batchrun.store.driver import SILENCE, driver_name, driving, is_driven
from batchrun.store.runs import RunRecord

RUNNING = RunRecord("r1", "delays", None, RunState.RUNNING, 0.0, "by_rows(5)", "runs/r1", 10)


@pytest.fixture
def other():
    """Another process, and what a run that it drives is recorded with."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = psutil.Process(process.pid).create_time()
    yield process, replace(RUNNING, driver=f"{socket.gethostname()}/{process.pid}/{born:.2f}")
    process.kill()
    process.communicate()


def test_a_living_process_drives_its_run_however_long_ago_its_heart_beat(other):
    _, record = other
    assert is_driven(record)


def test_a_killed_process_drives_nothing_even_if_its_heart_beat_a_moment_ago(other):
    process, record = other
    process.kill()
    process.wait()
    assert not is_driven(replace(record, heartbeat=time.time()))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no zombies on Windows")
def test_a_killed_process_that_nobody_has_waited_for_drives_nothing(other):
    process, record = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert not is_driven(record)


def test_a_later_process_of_the_same_number_is_not_the_driver(other):
    process, record = other
    record = replace(record, driver=f"{socket.gethostname()}/{process.pid}/1000.00")
    assert not is_driven(replace(record, heartbeat=time.time() - SILENCE))
    assert is_driven(replace(record, heartbeat=time.time()))  # the clock was set


def test_a_driver_on_another_host_is_known_by_its_heartbeat():
    record = replace(RUNNING, driver="elsewhere/1/1.00")
    assert is_driven(replace(record, heartbeat=time.time()))
    assert not is_driven(replace(record, heartbeat=time.time() - SILENCE))
    assert not is_driven(record)


def test_this_process_drives_a_run_only_while_it_says_so():
    record = replace(RUNNING, driver=driver_name(), heartbeat=time.time())
    assert not is_driven(record)
    with driving("r1"):
        assert is_driven(record)
        assert not is_driven(replace(record, run_id="r2"))
    assert not is_driven(record)


def test_a_run_that_has_ended_or_was_never_taken_up_is_not_driven(other):
    _, record = other
    assert not is_driven(replace(record, state=RunState.SUCCEEDED))
    assert not is_driven(replace(record, state=RunState.QUEUED, driver=None))
    assert is_driven(replace(record, state=RunState.QUEUED))
