"""Input and artifacts in S3: objects are whole, errors come first, and runs are as they are on a disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from s3fs import S3FileSystem

from batchrun import Pipeline, RetryPolicy, Stage, by_group, by_rows
from batchrun.cluster.connect import Connection, start_local
from batchrun.config import Settings, load_settings
from batchrun.data import files
from batchrun.doctor import diagnose
from batchrun.errors import InputError, StoreError
from batchrun.launch import open_report, resume_run, run_pipeline
from batchrun.outcome import RunState
from batchrun.store.runs import RunStore
from tests.s3 import S3Server

CLUSTER = """\
workers: {far: {count: 2, threads: 1, memory: 1GiB}}
dashboard: off
run: {flush_every: 50ms, small_result: 20KiB}
"""


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.bucket()


@pytest.fixture
def settings(bucket: str, tmp_path: Path) -> Settings:
    (tmp_path / "cluster.yaml").write_text(f"{CLUSTER}artifacts: {bucket}/runs\n")
    return load_settings(tmp_path / "cluster.yaml")


def flights(rows: int = 6000) -> pd.DataFrame:
    """Delays of flights, sorted by nothing."""
    chance = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "flight": np.arange(rows),
            "carrier": chance.choice(["AA", "B6", "DL", "UA", "WN"], rows),
            "arr_delay": chance.normal(8, 30, rows).round(),
        }
    )


def store_flights(bucket: str, parts: int = 3) -> str:
    """The flights as Parquet files in a bucket."""
    for number, part in enumerate(np.array_split(np.arange(len(flights())), parts)):
        data = io.BytesIO()
        flights().iloc[part].to_parquet(data, row_group_size=500)
        files.write_bytes(f"{bucket}/input/{number}.parquet", data.getvalue())
    return f"{bucket}/input"


def late(chunk: pd.DataFrame) -> pd.DataFrame:
    return chunk[chunk["arr_delay"] > 15]


def by_carrier(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(parts)).groupby("carrier", as_index=False)["arr_delay"].sum()


class TestObjects:
    def test_come_back_as_they_were_written(self, bucket):
        files.write_bytes(f"{bucket}/a/b.bin", b"bytes")

        assert files.read_bytes(f"{bucket}/a/b.bin") == b"bytes"
        assert files.exists(f"{bucket}/a/b.bin")
        assert not files.exists(f"{bucket}/a/c.bin")
        files.remove(f"{bucket}/a/b.bin")
        assert not files.exists(f"{bucket}/a/b.bin")

    def test_are_not_there_at_all_if_writing_them_fails(self, s3, bucket):
        files.write_bytes(f"{bucket}/kept", b"before")

        def write_half() -> None:
            with files.write_atomically(f"{bucket}/kept") as file:
                file.write(b"half")
                raise ValueError("in the middle")

        with pytest.raises(ValueError, match="in the middle"):
            write_half()
        assert files.read_bytes(f"{bucket}/kept") == b"before"
        assert s3.names(bucket) == [f"{bucket[5:]}/kept"]

    def test_that_go_up_in_parts_are_not_there_before_the_last(self, s3, bucket, monkeypatch):
        parts: list[str] = []
        call = S3FileSystem._call_s3

        async def cut(self: S3FileSystem, method: str, *arguments: object, **options: object) -> object:
            parts.append(method)
            if method == "complete_multipart_upload":
                raise ConnectionResetError("the line was cut")
            return await call(self, method, *arguments, **options)

        monkeypatch.setattr(S3FileSystem, "_call_s3", cut)
        with pytest.raises(StoreError, match=r"large cannot be written: the line was cut"):
            files.write_bytes(f"{bucket}/large", bytes(101 * 2**20))
        monkeypatch.undo()

        assert parts.count("upload_part") > 1
        assert s3.names(bucket) == []

    def test_of_other_processes_are_seen_by_one_that_looked_before(self, s3, bucket):
        files.write_bytes(f"{bucket}/plan/0", b"")
        filesystem, name = files.filesystem(f"{bucket}/plan")
        filesystem.ls(name)
        s3._filesystem().pipe_file(f"{bucket[5:]}/plan/1", b"of another process")

        assert files.exists(f"{bucket}/plan/1")
        assert files.read_bytes(f"{bucket}/plan/1") == b"of another process"
        with files.open_for_reading(f"{bucket}/plan/1") as file:
            assert file.read() == b"of another process"

    def test_of_a_folder_are_removed_with_it(self, s3, bucket):
        for name in ("a/1", "a/b/2", "ab/3"):
            files.write_bytes(f"{bucket}/{name}", b"x")
        files.remove_folder(f"{bucket}/a")
        files.remove_folder(f"{bucket}/a")

        assert s3.names(bucket) == [f"{bucket[5:]}/ab/3"]

    def test_need_no_folder_and_none_is_made_for_them(self, s3, bucket):
        files.make_folder(f"{bucket}/a/b")
        assert s3.names(bucket) == []


def no_bucket(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return replace(settings, artifact_root="s3://no-such-bucket/runs")


def no_server(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    return settings


def no_key(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    S3FileSystem.clear_instance_cache()
    return settings


WRONG: dict[Callable[..., Settings], str] = {
    no_bucket: r"there is no s3://no-such-bucket; make it first, or name another one",
    no_server: r"127\.0\.0\.1:1.*is the server reachable from here\?",
    no_key: r"access is refused \(Unable to locate credentials\); check the credentials",
}


class TestErrorsComeBeforeAnythingRuns:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        yield
        S3FileSystem.clear_instance_cache()

    def refused(self, settings: Settings, message: str) -> None:
        def never(chunk: pd.DataFrame) -> pd.DataFrame:
            raise AssertionError("it runs")

        with pytest.raises(StoreError, match=message):
            run_pipeline(
                never, flights(10), split=by_rows(5), cluster=settings, settings=settings, progress=False
            )
        with RunStore(settings.store_url) as store:
            assert store.list() == []

    @pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
    def test_where_artifacts_cannot_be_written(self, s3, settings, monkeypatch, wrong):
        def not_now(*_: object) -> Connection:
            raise AssertionError("a cluster is started")

        monkeypatch.setattr("batchrun.cluster.connect.open_cluster", not_now)
        with monkeypatch.context() as environment:
            self.refused(wrong(settings, environment), WRONG[wrong])
        S3FileSystem.clear_instance_cache()
        assert "no-such-bucket" not in s3.buckets()

    def test_where_the_key_is_not_known(self, s3, settings):
        with s3.refusing():
            self.refused(settings, "access is refused .*check the credentials, and what they allow")

    def test_where_input_cannot_be_read(self, s3, settings):
        def read(url: str) -> None:
            run_pipeline(late, url, split=by_rows(5), cluster="inline", settings=settings, progress=False)

        with pytest.raises(InputError, match="there is no file s3://no-such-bucket/in"):
            read("s3://no-such-bucket/in")
        with s3.refusing(), pytest.raises((InputError, StoreError), match=r"access is refused|Forbidden"):
            read("s3://no-such-bucket/in")

    def test_and_the_doctor_names_a_bucket_that_is_not_there(self, s3, settings):
        def disk(root: str) -> tuple[bool | None, str]:
            checks = {check.name: check for check in diagnose(replace(settings, artifact_root=root))}
            return checks["disk"].ok, checks["disk"].detail

        assert disk(settings.artifact_root) == (
            True,
            f"{settings.artifact_root} will be made by the first run",
        )
        assert disk("s3://no-such-bucket/runs") == (
            False,
            "s3://no-such-bucket/runs: there is no bucket no-such-bucket",
        )


@pytest.fixture(scope="module")
def connection(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Workers that reach the server too."""
    path = tmp_path_factory.mktemp("far") / "cluster.yaml"
    path.write_text(CLUSTER)
    with start_local(load_settings(path)) as connection:
        yield connection


@pytest.mark.cluster
class TestWholeRuns:
    """On a Dask client, so that the workers must prove that they reach the bucket."""

    @pytest.fixture
    def options(self, connection: Connection, settings: Settings) -> dict[str, object]:
        return {"cluster": connection.client, "settings": settings, "progress": False}

    def test_read_their_input_there_and_leave_their_results_there(self, s3, bucket, options):
        pipe = Pipeline("late", split=by_rows(400), stages=[late])
        report = run_pipeline(pipe, store_flights(bucket), **options)

        assert report.state is RunState.SUCCEEDED
        pd.testing.assert_frame_equal(report.results(), late(flights()), check_index_type=False)
        assert report.scan().count_rows() == len(late(flights()))
        assert report.folder.startswith(f"{bucket}/runs/late-")
        names = [name.removeprefix(f"{report.folder[5:]}/") for name in s3.names(report.folder)]
        assert "source.arrow" in names
        assert {name.split("/")[0] for name in names} == {"source.arrow", "plan", "segments"}
        assert not [name for name in s3.names(bucket) if "probe" in name]

    def test_write_large_results_from_their_workers(self, s3, bucket, options):
        def widen(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk.loc[chunk.index.repeat(20)]

        pipe = Pipeline("widen", split=by_rows(2000), stages=[widen])
        report = run_pipeline(pipe, store_flights(bucket), **options)

        assert len([name for name in s3.names(report.folder) if "/results/" in name]) == 3
        assert report.results()["flight"].tolist() == flights()["flight"].repeat(20).tolist()

    def test_bring_groups_together_and_combine(self, bucket, options):
        def total(chunk: pd.DataFrame) -> pd.DataFrame:
            assert chunk["carrier"].nunique() == 1
            return chunk.groupby("carrier", as_index=False)["arr_delay"].sum()

        pipe = Pipeline("totals", split=by_group("carrier"), stages=[total], combine=by_carrier)
        report = run_pipeline(pipe, store_flights(bucket), **options)

        expected = flights().groupby("carrier", as_index=False)["arr_delay"].sum()
        pd.testing.assert_frame_equal(report.results(), expected)
        assert report.attempts["chunk"].nunique() == 5

    def test_take_a_frame_through_stages_with_handoffs(self, s3, options):
        def shift(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk.assign(arr_delay=chunk["arr_delay"] + 1)

        def double(chunk: pd.DataFrame) -> pd.DataFrame:
            return chunk.assign(arr_delay=chunk["arr_delay"] * 2)

        stages = [shift, Stage(double, memory="200MiB")]
        report = run_pipeline(Pipeline("legs", split=by_rows(3000), stages=stages), flights(), **options)

        assert report.results()["arr_delay"].tolist() == ((flights()["arr_delay"] + 1) * 2).tolist()
        assert not [name for name in s3.names(report.folder) if "/handoff/" in name or "/spool/" in name]

    def test_set_rows_apart_and_solve_them_on_a_resume(self, bucket, options, tmp_path):
        flag = tmp_path / "repaired"

        def fragile(chunk: pd.DataFrame, *, flag: str) -> pd.DataFrame:
            import pathlib

            if 4444 in set(chunk["flight"]) and not pathlib.Path(flag).exists():
                raise ValueError("flight 4444 has no plane")
            return chunk

        pipe = Pipeline(
            "fragile", split=by_rows(1000), stages=[Stage(fragile, retry=RetryPolicy(attempts=1))]
        )
        report = run_pipeline(pipe, store_flights(bucket), params={"flag": str(flag)}, **options)
        assert report.state is RunState.PARTIAL
        assert (report.rows_solved, report.rows_quarantined) == (5999, 1)
        assert report.quarantined["flight"].tolist() == [4444]
        html = report.to_html(tmp_path / "fragile.html")
        assert "flight 4444 has no plane" in Path(html).read_text(encoding="utf-8")

        flag.touch()
        report = resume_run(report.run_id, pipeline=pipe, **options)

        assert report.state is RunState.SUCCEEDED
        assert report.results()["flight"].tolist() == list(range(6000))
        again = open_report(report.run_id, cluster=options["settings"])
        assert len(again.results()) == 6000
