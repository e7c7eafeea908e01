"""Task queues: what it costs to hand over a trivial task, have another process run it and read its result."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tests.benchmarks.arena import Arena
from tests.benchmarks.chunks import by_batchrun, by_dask, double
from tests.benchmarks.contest import Figure, Record, race

TASKS = "tests.benchmarks.queue_tasks"
ROOT = Path(__file__).resolve().parents[2]
IN_A_CHUNK = 50
A_DAY = 86_400


def queued_tasks(arena: Arena, size: int, rounds: int) -> Record:
    """Trivial tasks whose results are kept: batchrun's chunks in its store, beside Huey on SQLite and Celery
    and RQ on a Redis that keeps nothing on disk. Each has two worker processes, started beforehand; the time
    is from the first task handed over to the last result read."""
    record = Record(
        "queued_tasks", {"tasks": size, "workers": 2, "rounds": rounds}, work=Figure(size, "tasks")
    )
    numbers, client = pd.DataFrame({"x": range(size)}), arena.client
    with ExitStack() as stack:
        places = {"BENCHMARK_SQLITE": str(arena.folder / "huey.db")}
        redis = shutil.which("redis-server") is not None
        if redis:
            port = stack.enter_context(_redis(arena.folder))
            places["BENCHMARK_REDIS"] = f"redis://127.0.0.1:{port}/0"
        else:
            record.notes.append("There was no `redis-server` on this machine: Celery and RQ are left out.")
        stack.enter_context(_environment(places))
        contestants: dict[str, Callable[[], pd.DataFrame]] = {
            "batchrun": lambda: by_batchrun(double, numbers, client),
            "dask, map and gather": lambda: by_dask(size, client),
            "Huey on SQLite": stack.enter_context(_huey(size)),
        }
        if redis:
            contestants |= stack.enter_context(_celery(size)) | stack.enter_context(_rq(size))
        race(record, contestants, rounds)
    return record


@contextmanager
def _huey(size: int) -> Iterator[Callable[[], pd.DataFrame]]:
    from tests.benchmarks.queue_tasks import double_in_huey

    def run() -> pd.DataFrame:
        results = [double_in_huey(number) for number in range(size)]
        return _frame(result.get(blocking=True, backoff=1, max_delay=0.005) for result in results)

    command = ["huey.bin.huey_consumer", f"{TASKS}.huey", "--workers", "2", "--worker-type", "process"]
    polling = ["--delay", "0.005", "--max-delay", "0.02", "--no-periodic"]
    with _process([sys.executable, "-m", *command, *polling]):
        double_in_huey(0).get(blocking=True, backoff=1, max_delay=0.2)
        yield run


@contextmanager
def _celery(size: int) -> Iterator[dict[str, Callable[[], pd.DataFrame]]]:
    from celery import group

    from tests.benchmarks.queue_tasks import double_in_celery

    def one_by_one() -> pd.DataFrame:
        return _frame(group(double_in_celery.s(number) for number in range(size))().get())

    def in_chunks() -> pd.DataFrame:
        lists = double_in_celery.chunks(((number,) for number in range(size)), IN_A_CHUNK)().get()
        return _frame(number for numbers in lists for number in numbers)

    command = ["celery", "--app", f"{TASKS}:celery", "worker", "--concurrency", "2", "--loglevel", "ERROR"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with _process([sys.executable, "-m", *command, *quiet]):
        yield {"Celery on Redis": one_by_one, f"Celery on Redis, {IN_A_CHUNK} calls a task": in_chunks}


@contextmanager
def _rq(size: int) -> Iterator[dict[str, Callable[[], pd.DataFrame]]]:
    from redis import Redis
    from rq import Queue

    from tests.benchmarks.queue_tasks import REDIS, double_in_rq

    connection = Redis.from_url(REDIS)
    queue = Queue("benchmark", connection=connection)
    finished = queue.finished_job_registry

    def run() -> pd.DataFrame:
        wanted = finished.count + size
        calls = [Queue.prepare_data(double_in_rq, (number,), result_ttl=A_DAY) for number in range(size)]
        jobs = queue.enqueue_many(calls)
        while finished.count < wanted:
            time.sleep(0.005)
        return _frame(job.return_value() for job in jobs)

    command = [sys.executable, "-m", "rq.cli", "worker", "--url", REDIS, "--quiet"]
    without_forks = ["--worker-class", "rq.worker.SimpleWorker", "benchmark"]
    with _process([*command, *without_forks]), _process([*command, *without_forks]):
        yield {"RQ on Redis": run}
    connection.close()


def _frame(numbers: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": list(numbers)})


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    """A Redis on a free port that keeps nothing on disk."""
    from redis import Redis

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _process([*command, "--dir", str(folder)]), Redis(port=port) as connection:
        _await_redis(connection)
        yield port


def _await_redis(connection: Any, seconds: float = 10.0) -> None:
    from redis.exceptions import ConnectionError as NotThere

    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.ping()
            return
        except NotThere:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _process(command: list[str]) -> Iterator[None]:
    """A program that runs meanwhile."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that are set meanwhile, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
