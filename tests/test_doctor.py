"""The doctor sees what would go wrong, says what to do, and changes nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from batchrun.cluster.local import start_local
from batchrun.config import Settings, load_settings, settings_for_address
from batchrun.doctor import Check, diagnose
from batchrun.resources import format_bytes


def settings_of(folder: Path, text: str) -> Settings:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load_settings(path)


def checks(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in diagnose(settings)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_healthy_machine_passes_and_nothing_is_written_or_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrun.doctor.leftovers", dict)  # those of other tests, at this moment
    settings = settings_of(tmp_path, "workers: {one: {count: 1, memory: 100MiB, resources: {GPU: 1}}}")
    family = psutil.Process().children(recursive=True)
    found = checks(settings)
    assert {name for name, check in found.items() if check.ok is not True} <= {"disk"}
    assert "tags GPU" in found["cluster"].detail
    assert os.listdir(tmp_path) == ["cluster.yaml"]
    assert psutil.Process().children(recursive=True) == family


def test_workers_that_need_more_memory_than_there_is_are_seen(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    together = checks(settings_of(tmp_path, f"workers: {{a: {{count: 2, memory: {total * 3 // 4}}}}}"))[
        "memory"
    ]
    assert together.ok is None
    assert format_bytes(total) in together.detail
    alone = checks(settings_of(tmp_path, f"workers: {{a: {{count: 1, memory: {total * 2}}}}}"))["memory"]
    assert alone.ok is False
    assert "lower its `memory`" in alone.advice


def test_more_threads_than_cores_are_seen(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    found = checks(settings_of(tmp_path, f"workers: {{a: {{count: {cores + 1}, memory: 1MiB}}}}"))["cores"]
    assert found.ok is None
    assert "lower `count` or `threads`" in found.advice


def test_a_scheduler_that_does_not_answer_is_a_failed_check_with_advice(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, f"kind: connect\naddress: tcp://127.0.0.1:{free_port()}\ntimeout: 500ms\n"
    )
    found = checks(settings)["cluster"]
    assert found.ok is False
    assert "Is `dask scheduler` running there" in found.advice


@pytest.mark.cluster
def test_a_scheduler_that_answers_is_described_with_its_tags(tmp_path: Path) -> None:
    local = "workers: {a: {count: 1, memory: 300MiB, resources: {GPU: 2}}}\ndashboard: off\n"
    with start_local(settings_of(tmp_path, local)) as connection:
        found = checks(settings_for_address(connection.client.scheduler.address, tmp_path / "cluster.yaml"))
    assert found["cluster"].ok
    assert "1 × a (1 thread, MEMORY: 300 MiB, GPU: 2)" in found["cluster"].detail
    assert found["tags"].detail == "GPU"
    assert found["cluster versions"].ok


def test_a_store_that_is_no_database_is_seen(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("dear diary")
    found = checks(settings_of(tmp_path, "store: ."))["store"]
    assert found.ok is False
    assert "is not an SQLite database" in found.detail


def test_a_store_in_a_folder_that_cannot_be_made_is_seen(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    found = checks(settings_of(tmp_path, "store: taken/deeper"))
    assert found["store"].ok is False
    assert found["disk"].ok is False


def test_a_database_server_that_is_down_is_seen_without_its_password(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f"store: postgresql://me:hush@127.0.0.1:{free_port()}/runs")
    found = checks(settings)["store"]
    assert found.ok is False
    assert "hush" not in repr(diagnose(settings))


def test_an_artifact_root_that_no_file_system_knows_is_seen(tmp_path: Path) -> None:
    found = checks(settings_of(tmp_path, "artifacts: nosuch://bucket/runs"))["disk"]
    assert found.ok is False
    assert "nosuch" in found.detail
