"""Runs are removed whole or not at all, and never one that somebody still needs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from batchrun import ChunkContext, RunState, by_rows, run_pipeline
from batchrun.config import Settings, load_settings
from batchrun.data import files
from batchrun.errors import RunNotFoundError, StoreError, UsageError
from batchrun.pruning import PruneRules, choose, plan_pruning, prune
from batchrun.store import schema
from batchrun.store.queue import QueueEntry
from batchrun.store.records import RunRecord, StoredRun
from batchrun.store.runs import RunStore

TABLE = pd.DataFrame({"x": range(20)})
DAY = 86_400.0
ALL = PruneRules(keep=0)
TABLES = [table for table in schema.metadata.sorted_tables if table is not schema.runs]


def work(chunk: pd.DataFrame, ctx: ChunkContext) -> pd.DataFrame:
    ctx.log.warning("a line")
    if 7 in set(chunk["x"]):
        raise ValueError("seven is bad")
    return chunk


@pytest.fixture
def where(here: Path) -> Settings:
    return load_settings()


def a_run(settings: Settings, *, age: float = 0.0) -> RunRecord:
    """A real run with a row that failed, and when it ended that many seconds ago."""
    report = run_pipeline(work, TABLE, split=by_rows(5), cluster="inline", settings=settings, progress=False)
    if age:
        with RunStore(settings.store_url) as store, store._database.write() as connection:
            ended = {"ended": time.time() - age, "created": time.time() - age}
            runs = schema.runs
            connection.execute(runs.update().where(runs.c.run_id == report.run_id).values(**ended))
    return report.record


def queued(run_id: str, settings: Settings, **entry) -> None:
    record = RunRecord(
        run_id,
        "work",
        None,
        RunState.QUEUED,
        time.time(),
        "by_rows(5)",
        files.join(settings.artifact_root, run_id),
        20,
    )
    with RunStore(settings.store_url) as store:
        store.queue.submit(record, QueueEntry(queued=time.time(), prepared=False, **entry), b"program")


def rows_left(settings: Settings) -> dict[str, int]:
    with RunStore(settings.store_url) as store, store._database.begin() as connection:
        return {
            table.name: found
            for table in schema.metadata.sorted_tables
            if (found := connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())
        }


class TestARun:
    def test_goes_with_all_its_rows_and_its_folder(self, where):
        record = a_run(where)
        assert {"runs", "attempts", "chunks", "files", "logs"} <= set(rows_left(where))
        plan = plan_pruning(where, ALL)

        done = prune(where, plan)

        assert done.runs == [record.run_id]
        assert done.nbytes == plan.nbytes > 0
        assert rows_left(where) == {"events": 1}
        with RunStore(where.store_url) as store:
            [told] = store.events.read()
        assert (told.kind, told.data) == ("run_removed", {"removed": record.run_id})
        assert os.listdir(where.artifact_root) == []

    def test_is_only_looked_at_by_a_plan(self, where):
        record = a_run(where)

        plan = plan_pruning(where, ALL)

        assert [run.run_id for run in plan.runs] == [record.run_id]
        assert plan.sizes[record.run_id] == files.measure(record.folder)[0]
        assert Path(record.folder).is_dir()

    def test_leaves_the_others_as_they_are(self, where):
        old, new = a_run(where, age=2 * DAY), a_run(where)
        before = rows_left(where)

        prune(where, plan_pruning(where, PruneRules(older_than=DAY)))

        after = rows_left(where)
        after["events"] -= 1  # which tells of the one that went
        assert {name: 2 * number for name, number in after.items()} == before
        with RunStore(where.store_url) as store:
            assert store.find("last") == new
            with pytest.raises(RunNotFoundError):
                store.find(old.run_id)
        assert os.listdir(where.artifact_root) == [new.run_id]

    @pytest.mark.parametrize("needs", [{"after": ("RUN",)}, {"input_from": "RUN"}])
    def test_that_a_queued_run_needs_stays(self, where, needs):
        record = a_run(where)
        named = {key: (record.run_id,) if key == "after" else record.run_id for key in needs}
        queued("waits", where, **named)

        plan = plan_pruning(where, ALL)

        assert plan.runs == []

    @pytest.mark.parametrize("use", ["queued", "claimed", "needed", "running"])
    def test_that_is_put_to_use_after_it_was_chosen_stays_whole(self, where, use):
        record = a_run(where)
        plan = plan_pruning(where, ALL)
        runs, queue = schema.runs, schema.queue
        with RunStore(where.store_url) as store, store._database.write() as connection:
            mine = runs.c.run_id == record.run_id
            number = connection.execute(sa.select(runs.c.number).where(mine)).scalar_one()
            if use in ("queued", "running"):
                connection.execute(runs.update().where(mine).values(state=use))
            if use == "claimed":
                entry = {"queued": 1.0, "after": [], "prepared": True, "priority": 0, "owner": "service-1"}
                connection.execute(queue.insert().values(run=number, **entry))
        if use == "needed":
            queued("waits", where, after=(record.run_id,))
        before = rows_left(where)

        done = prune(where, plan)

        assert (done.runs, done.spared) == ([], [record.run_id])
        assert rows_left(where) == before
        assert Path(record.folder, "source.arrow").exists()
        assert os.listdir(where.artifact_root) == [record.run_id]

    def test_of_a_remote_root_goes_with_its_folder(self, where):
        remote = replace(where, artifact_root="memory://prune/runs")
        record = a_run(remote)
        assert plan_pruning(remote, ALL).nbytes > 0

        prune(remote, plan_pruning(remote, ALL))

        assert not files.exists(record.folder)
        assert files.names("memory://prune/runs") == []

    def test_whose_folder_is_not_its_own_loses_no_file(self, where, here):
        (here / "mine").mkdir()
        (here / "mine" / "thesis.txt").write_text("ten years")
        with RunStore(where.store_url) as store:
            folder = str(here / "mine")
            store.create(RunRecord("r1", "work", None, RunState.FAILED, 1.0, "by_rows(1)", folder, 1))

        done = prune(where, plan_pruning(where, ALL))

        assert done.runs == ["r1"]
        assert (here / "mine" / "thesis.txt").exists()


class TestAfterACrash:
    def test_between_database_and_folder_the_next_call_removes_the_folder(self, where, monkeypatch):
        record = a_run(where)

        def full(path: str) -> None:
            raise StoreError(f"{path} cannot be removed")

        with monkeypatch.context() as broken:
            broken.setattr("batchrun.pruning.files.remove_folder", full)
            with pytest.raises(StoreError):
                prune(where, plan_pruning(where, ALL))
        assert Path(record.folder).is_dir()
        plan = plan_pruning(where, PruneRules())
        assert [leftover.path for leftover in plan.leftovers] == [record.folder]

        prune(where, plan)

        assert os.listdir(where.artifact_root) == []

    def test_before_the_database_the_run_is_whole(self, where, monkeypatch):
        record = a_run(where)
        with monkeypatch.context() as broken:
            broken.setattr("batchrun.store.removal.RunRemoval.remove", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                prune(where, plan_pruning(where, ALL))

        assert not plan_pruning(where, PruneRules())
        assert Path(record.folder, "source.arrow").exists()
        assert prune(where, plan_pruning(where, ALL)).runs == [record.run_id]


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then))


class TestAFolderThatNoRunNames:
    @pytest.fixture
    def root(self, where) -> Iterator[Path]:
        root = Path(where.artifact_root)
        root.mkdir(parents=True)
        return root

    @pytest.mark.parametrize(
        ("name", "old", "inside", "goes"),
        [
            pytest.param(
                "run-20260101-101010-4f2a81c6", 4000, "spool/a", True, id="of a run that never began"
            ),
            pytest.param("run-20260101-101010-4f2a81c6", 60, "spool/a", False, id="that is being written"),
            pytest.param(
                "run-20260101-101010-4f2a81c6", 4000, "plan/0", False, id="of a run of another store"
            ),
            pytest.param("thesis", 4000, "spool/a", False, id="that is somebody else's"),
        ],
    )
    def test_goes_only_if_it_is_left_over(self, where, root, name, old, inside, goes):
        path = root / name / inside
        path.parent.mkdir(parents=True)
        path.write_text("rows")
        age(root / name, old)

        done = prune(where, plan_pruning(where, PruneRules()))

        assert path.exists() is not goes
        assert done.nbytes == (4 if goes else 0)


class TestTheStore:
    def test_loses_programs_that_no_run_has(self, where):
        queued("one", where)
        queued("two", where)
        runs = schema.runs
        with RunStore(where.store_url) as store, store._database.write() as connection:
            connection.execute(runs.update().where(runs.c.run_id == "one").values(state="failed"))
        assert prune(where, plan_pruning(where, ALL)).programs == 0
        with RunStore(where.store_url) as store, store._database.write() as connection:
            connection.execute(runs.update().where(runs.c.run_id == "two").values(state="failed"))

        assert prune(where, plan_pruning(where, ALL)).programs == 1
        assert rows_left(where) == {"events": 2}

    def test_gives_its_space_back_if_asked(self, where, here):
        a_run(where)
        with RunStore(where.store_url) as store, store._database.write() as connection:
            number = connection.execute(sa.select(schema.runs.c.number)).scalar_one()
            row = {"run": number, "chunk": 1, "stage": "work", "attempt": 9, "text": "x" * 2_000_000}
            connection.execute(schema.logs.insert().values(**row))
        prune(where, plan_pruning(where, ALL))
        database = here / ".batchrun" / "store.db"
        size = database.stat().st_size

        with RunStore(where.store_url) as store:
            assert (store.removal.unused() or 0) > 1_900_000
            given_back = store.removal.vacuum()

            assert store.removal.unused() == 0
        assert given_back > 1_900_000
        assert database.stat().st_size <= size - given_back


def stored(number: int, **values) -> StoredRun:
    ended = 1000.0 + number
    return replace(
        StoredRun(f"r{number}", "work", RunState.SUCCEEDED, ended, ended, f"/runs/r{number}"), **values
    )


RUNS = [stored(number) for number in range(6)]


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "gone"),
        [
            (PruneRules(), ""),
            (PruneRules(keep=2), "0123"),
            (PruneRules(keep=9), ""),
            (PruneRules(older_than=7.0), "0123"),
            (PruneRules(older_than=7.0, keep=4), "01"),
            (PruneRules(max_size=35), "012"),
            (PruneRules(max_size=60), ""),
            (PruneRules(max_size=1, older_than=9.0), "01"),
            (PruneRules(states=(RunState.FAILED,)), ""),
            (PruneRules(pipeline="work"), "012345"),
        ],
    )
    def test_choose_oldest_first(self, rules, gone):
        chosen = choose(RUNS, rules, 1010.0, lambda run: 10)

        assert [run.run_id for run in chosen] == [f"r{number}" for number in gone]

    @pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING])
    def test_never_are_about_runs_that_have_not_ended(self, state):
        with pytest.raises(UsageError, match="never removed"):
            PruneRules(states=(state,))

    @given(
        kept=st.lists(st.booleans(), max_size=12),
        keep=st.none() | st.integers(0, 6),
        older=st.none() | st.floats(0, 20),
        most=st.none() | st.integers(1, 200),
        sizes=st.lists(st.integers(0, 30), min_size=12, max_size=12),
    )
    def test_together_let_go_only_what_each_of_them_does(self, kept, keep, older, most, sizes):
        runs = [stored(number, kept_because="it is held" if held else "") for number, held in enumerate(kept)]
        rules = PruneRules(older_than=older, keep=keep, max_size=most)
        size = {run.run_id: nbytes for run, nbytes in zip(runs, sizes, strict=False)}

        gone = choose(runs, rules, 1012.0, lambda run: size[run.run_id])

        assert gone == sorted(gone, key=lambda run: run.since)
        assert not any(run.kept_because for run in gone)
        assert keep is None or not {run.run_id for run in runs[len(runs) - keep :]} & {r.run_id for r in gone}
        assert older is None or all(1012.0 - run.since >= older for run in gone)
        if most is not None and gone:
            left = sum(size.values()) - sum(size[run.run_id] for run in gone)
            assert left + size[gone[-1].run_id] > most
