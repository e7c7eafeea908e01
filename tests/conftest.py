"""What all tests share: a place of their own, and one warm cluster a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrun.config import Settings, load_settings
from tests.chromium import chromium
from tests.postgres import PostgresServer, postgres, postgres_server
from tests.s3 import s3, s3_server

__all__ = ["chromium", "postgres", "postgres_server", "s3", "s3_server"]

CLUSTER = """\
kind: local
workers:
  standard: {count: 2, threads: 1, memory: 1GiB}
  highmem: {count: 1, threads: 1, memory: 2GiB, resources: {HIGHMEM: 1}}
dashboard: 127.0.0.1:0
store: %s
run: {flush_every: 50ms}
"""

# Hundreds of processes are started; each would compile all of batchrun where it may not keep the result.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_shared = ""
"""The cluster that all tests of the process share, as its settings; empty before the first that uses it."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that runs are recorded there and nowhere else."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_archive_is_offered() -> Iterator[None]:
    """No page asks the store of the test before."""
    yield
    if offering := sys.modules.get("batchrun.dashboard.archive"):
        while archive := offering.offered():
            offering.withdraw(archive)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store of each kind that there is, empty and ready to use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path.as_posix()}/deep/store.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two standard workers and one with HIGHMEM, started once and kept warm for all tests of the process."""
    folder = tmp_path_factory.mktemp("cluster")
    global _shared
    (folder / "cluster.yaml").write_text(CLUSTER % (folder / "store").as_posix())
    settings = load_settings(folder / "cluster.yaml")
    _shared = settings.cluster.model_dump_json()
    return settings


@pytest.fixture(scope="module", autouse=True)
def _no_other_cluster_is_left() -> Iterator[None]:
    """Close what a module started and left warm, all but the cluster that all share: it would take time from
    every test that follows."""
    yield
    local = sys.modules.get("batchrun.cluster.local")
    for key in [key for key in local._warm if key[1] != _shared] if local else []:
        local._warm.pop(key).close()


def pytest_report_header() -> str:
    """Say where it runs, since a missing browser fails there and skips elsewhere."""
    return "in CI" if os.environ.get("CI") else "not in CI: tests without their service are skipped"
