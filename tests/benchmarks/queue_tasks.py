"""One function, as each task queue wants it; their workers import this module.

Where the queues are comes from the environment, as it does in real deployments.
"""

from __future__ import annotations

import os

from celery import Celery
from huey import SqliteHuey

REDIS = os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0")
SQLITE = os.environ.get("BENCHMARK_SQLITE", ":memory:")

huey = SqliteHuey("benchmark", filename=SQLITE)
celery = Celery("benchmark", broker=REDIS, backend=REDIS)
celery.conf.worker_prefetch_multiplier = 64
celery.conf.broker_connection_retry_on_startup = True


def double_in_rq(number: int) -> int:
    """Twice the number."""
    return number * 2


@huey.task()
def double_in_huey(number: int) -> int:
    """Twice the number."""
    return number * 2


@celery.task
def double_in_celery(number: int) -> int:
    """Twice the number."""
    return number * 2
