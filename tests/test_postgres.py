"""A store in PostgreSQL: how people write its address, what errors say, and whole runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from batchrun import Pipeline, RetryPolicy, Stage, by_group, by_rows
from batchrun.config import Settings, load_settings
from batchrun.doctor import diagnose
from batchrun.errors import StoreError
from batchrun.events import ChunksSettled, Event
from batchrun.launch import open_report, resume_run, run_pipeline, submit_pipeline
from batchrun.outcome import RunState
from batchrun.store.runs import RunStore
from tests.postgres import PostgresServer
from tests.writing import record

TABLE = pd.DataFrame({"x": range(24), "pit": list("abcdef") * 4})


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class TestTheAddress:
    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_may_begin_as_people_write_it(self, postgres, scheme):
        url = postgres.url().replace("postgresql", scheme, 1)
        with RunStore(url) as store:
            store.create(record())
            assert store.find("last").run_id == "delays-1"

    def test_of_cluster_yaml_is_taken_as_it_is_written(self, postgres, tmp_path):
        url = postgres.url()
        (tmp_path / "cluster.yaml").write_text(f"store: {url}\n")
        settings = load_settings(tmp_path / "cluster.yaml")

        assert settings.store_url == url
        RunStore(settings.store_url).close()

    def test_without_the_driver_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(
            StoreError, match=r"psycopg cannot be imported.*pip install 'batchrun\[postgres\]'"
        ):
            RunStore("postgresql://me@db.example.org/never-opened-before")

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://me:hush@127.0.0.1:1/runs",
            "postgresql://127.0.0.1:1/runs?user=me&password=hush",
            "postgres://me:hush@127.0.0.1:1/runs?connect_timeout=1&sslpassword=hush",
        ],
    )
    def test_is_shown_without_its_password_and_a_server_that_is_not_there_is_named(self, url):
        with pytest.raises(
            StoreError, match=r"127\.0\.0\.1.*is PostgreSQL running and reachable\?"
        ) as caught:
            RunStore(url)
        assert "hush" not in str(caught.value)


class TestErrors:
    def test_of_a_database_that_is_not_there_say_how_to_make_it(self, postgres):
        with pytest.raises(StoreError, match='"nowhere" does not exist; make the database first'):
            RunStore(postgres.url("nowhere"))

    def test_of_a_user_that_is_not_known_point_at_the_address(self, postgres):
        with pytest.raises(StoreError, match='role "nobody_here" does not exist; check the user'):
            RunStore(postgres.url().replace("//postgres@", "//nobody_here@"))

    def test_of_a_user_that_may_make_no_tables_say_so(self, postgres):
        url = postgres.url(empty=True)
        with RunStore(postgres.url()) as store, store._database.engine.begin() as connection:
            connection.exec_driver_sql("DROP ROLE IF EXISTS guest")
            connection.exec_driver_sql("CREATE ROLE guest LOGIN")
        with pytest.raises(StoreError, match="permission denied for schema public; its user must be allowed"):
            RunStore(url.replace("//postgres@", "//guest@"))

    def test_of_a_server_that_went_away_ask_for_it_and_end_when_it_is_back(self, postgres):
        with RunStore(postgres.url()) as store:
            mine = store.create(record())
            postgres.stop()
            with pytest.raises(StoreError, match=r"is PostgreSQL running and reachable\?"):
                mine.update(rows_solved=1)
            with pytest.raises(StoreError, match=r"is PostgreSQL running and reachable\?"):
                store.find("last")
            postgres.start()

            mine.update(rows_solved=2)
            assert store.find("last").rows_solved == 2

    def test_of_a_server_that_goes_away_in_a_transaction_leave_nothing_half_done(self, postgres):
        with RunStore(postgres.url()) as store:
            mine = store.create(record())

            def lose_it_half_way() -> None:
                with mine.transaction() as (connection, run):
                    connection.exec_driver_sql("UPDATE runs SET rows_solved = 1 WHERE number = %s", (run,))
                    postgres.stop()
                    connection.exec_driver_sql("UPDATE runs SET rows_in = 1 WHERE number = %s", (run,))

            with pytest.raises(StoreError, match=r"is PostgreSQL running and reachable\?"):
                lose_it_half_way()
            postgres.start()

            assert store.find("last") == record()

    def test_a_connection_that_was_cut_while_nobody_used_it_is_replaced(self, postgres):
        with RunStore(postgres.url()) as store:
            store.create(record())
            postgres.stop()
            postgres.start()
            assert store.find("last") == record()

    def test_what_was_committed_survives_a_server_that_is_killed(self, postgres):
        with RunStore(postgres.url()) as store:
            mine = store.create(record())
            for number in range(5):
                mine.update(rows_solved=number)
                postgres.stop()
                postgres.start()
                assert store.find("last").rows_solved == number


def test_the_doctor_finds_a_server_by_its_socket(postgres, tmp_path):
    (tmp_path / "cluster.yaml").write_text(f"store: {postgres.url()}\n")
    settings = load_settings(tmp_path / "cluster.yaml")
    checks = {check.name: check for check in diagnose(settings)}
    assert checks["store"].ok is True

    postgres.stop()
    checks = {check.name: check for check in diagnose(settings)}
    assert checks["store"].ok is False


@pytest.fixture(params=["inline", pytest.param("cluster", marks=pytest.mark.cluster)])
def options(request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path: Path) -> dict[str, object]:
    """Runs in this process or on real workers, recorded in PostgreSQL."""
    if request.param == "inline":
        (tmp_path / "cluster.yaml").write_text(f"store: {postgres.url()}\nartifacts: runs\n")
        settings: Settings = load_settings(tmp_path / "cluster.yaml")
        return {"cluster": "inline", "settings": settings, "progress": False}
    warm: Settings = request.getfixturevalue("cluster")
    settings = replace(warm, store_url=postgres.url(), artifact_root=str(tmp_path / "runs"))
    return {"cluster": settings, "settings": settings, "progress": False}


class TestWholeRuns:
    def test_are_recorded_and_reported(self, options, tmp_path):
        def total(chunk: pd.DataFrame) -> pd.DataFrame:
            if chunk["pit"].iloc[0] == "c":
                raise ValueError("pit c is flooded")
            return chunk.groupby("pit", as_index=False)["x"].sum()

        pipe = Pipeline("pits", split=by_group("pit"), stages=[Stage(total, retry=RetryPolicy(attempts=1))])
        report = run_pipeline(pipe, TABLE, **options)

        assert report.state is RunState.PARTIAL
        assert (report.rows_in, report.rows_solved, report.rows_quarantined, report.rows_cancelled) == (
            24,
            20,
            4,
            0,
        )
        assert report.results()["x"].tolist() == [36, 40, 48, 52, 56]
        assert report.quarantined["x"].tolist() == [2, 8, 14, 20]
        assert report.attempts["outcome"].value_counts().to_dict() == {"succeeded": 5, "failed": 1}
        report.to_html(tmp_path / "pits.html")
        assert "pit c is flooded" in (tmp_path / "pits.html").read_text(encoding="utf-8")

    def test_go_on_where_they_stopped(self, options, tmp_path):
        flag, calls = tmp_path / "repaired", tmp_path / "calls"
        calls.mkdir()

        def fragile(chunk: pd.DataFrame, *, folder: str, flag: str) -> pd.DataFrame:
            import pathlib

            first = int(chunk["x"].iloc[0])
            if first >= 12 and not pathlib.Path(flag).exists():
                raise OSError("the licence server is down")
            with pathlib.Path(folder, str(first)).open("a") as file:
                file.write("x")
            return chunk

        stage = Stage(fragile, retry=RetryPolicy(attempts=1))
        pipe = Pipeline("fragile", split=by_rows(4), stages=[stage])
        params = {"folder": str(calls), "flag": str(flag)}
        report = run_pipeline(pipe, TABLE, params=params, **options)
        assert report.rows_solved == 12

        flag.touch()
        report = resume_run(report.run_id, pipeline=pipe, **options)

        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == list(range(24))
        assert {path.read_text() for path in calls.iterdir()} == {"x"}

    def test_go_on_after_the_server_was_away(self, options, postgres):
        settings = options["settings"]
        settings = replace(settings, run=settings.run.model_copy(update={"store_timeout": 1.0}))
        cluster = options["cluster"] if options["cluster"] == "inline" else settings
        options |= {"settings": settings, "cluster": cluster}

        def twice(chunk: pd.DataFrame) -> pd.DataFrame:
            import time

            time.sleep(0.1)
            return chunk * 2

        def stop_the_server(event: Event) -> None:
            if isinstance(event, ChunksSettled):
                postgres.stop()

        pipe = Pipeline("twice", split=by_rows(2), stages=[twice])
        numbers = TABLE[["x"]]
        with pytest.raises(StoreError, match=r"is PostgreSQL running and reachable\?"):
            run_pipeline(pipe, numbers, observers=[stop_the_server], **options)
        postgres.start()
        with RunStore(options["settings"].store_url) as store:
            before = store.find("last").rows_solved
        assert 0 < before < 24

        report = resume_run("last", pipeline=pipe, **options)

        assert report.state is RunState.SUCCEEDED
        assert report.results()["x"].tolist() == [2 * x for x in range(24)]
        assert report.rows_solved == 24

    def test_are_cancelled_from_elsewhere(self, options):
        def dawdle(chunk: pd.DataFrame) -> pd.DataFrame:
            import time

            time.sleep(0.05)
            return chunk

        many = pd.DataFrame({"x": range(2000)})
        handle = submit_pipeline(dawdle, many, split=by_rows(1), **options)
        with RunStore(options["settings"].store_url) as store:
            until(lambda: store.find(handle.run_id).rows_solved > 0)
            store.request_cancel(handle.run_id)
        report = handle.wait(60)

        assert report.state is RunState.CANCELLED
        assert report.rows_solved + report.rows_cancelled == 2000
        assert len(report.results()) == report.rows_solved > 0
        assert open_report(handle.run_id, cluster=options["settings"]).state is RunState.CANCELLED
