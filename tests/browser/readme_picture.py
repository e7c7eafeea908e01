"""Takes the README's picture of the dashboard: a real run of job shops in the middle of its work.

``python -m tests.browser.readme_picture docs/img/dashboard.png`` from the top folder; ``make screenshots``
does that. It takes about a minute.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import threading
from pathlib import Path

import pandas as pd
from playwright.sync_api import Page, sync_playwright

from batchrun import run_pipeline
from batchrun.cluster.connect import close_local_clusters
from batchrun.dashboard.message import RUNNING
from batchrun.events import Event, RunStarted
from pipelines.job_shop import OPERATIONS, schedules
from tests.chromium import CHROMIUM_OPTIONS, find_chromium

VARIANTS = 5
SETTLED = 64
"""Chunks that are settled when the picture is taken."""


def weeks() -> pd.DataFrame:
    """The twenty instances in five variants with other durations, a few of them with a slip in the data."""
    operations = pd.read_parquet(OPERATIONS)
    tables = []
    for week in range(VARIANTS):
        table = operations.sample(frac=1, random_state=week) if week else operations
        durations = table["duration"].to_numpy()
        tables.append(
            operations.assign(instance=operations["instance"] + f" week {week + 1}", duration=durations)
        )
    table = pd.concat(tables, ignore_index=True)
    slips = {"la03 week 1": 0, "ft06 week 2": -3, "la11 week 3": 0, "la08 week 4": 0, "la14 week 5": -1}
    for instance, duration in slips.items():
        table.loc[table.index[table["instance"] == instance][7], "duration"] = duration
    # Hard and easy instances alternate on the map, as they would in a table of somebody's own.
    order = table["instance"].drop_duplicates().sample(frac=1, random_state=4).tolist()
    return table.sort_values("instance", key=lambda column: column.map(order.index), kind="stable")


def take(page: Page, address: str, path: Path) -> None:
    """Wait for the middle of the run and take the picture."""
    page.goto(address)
    page.wait_for_function(
        "settled => Array.from(Bokeh.documents[0]?.get_model_by_name('batchrun-chunks')?.data.code ?? [])"
        f".filter(code => code > {RUNNING}).length >= settled",
        arg=SETTLED,
        timeout=180_000,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)


def main(path: Path) -> None:
    """Run the job shops in a thread and photograph them."""
    started: queue.Queue[str] = queue.Queue()

    def observe(event: Event) -> None:
        if isinstance(event, RunStarted):
            started.put(event.dashboard)

    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder) / "cluster.yaml"
        text = Path("cluster.yaml").read_text("utf-8").replace(":8787", ":0")
        # The slips are found before anything is solved, and five failures alike would end the run there.
        cluster.write_text(text + "\nrun:\n  stop_after_alike: 0\n", "utf-8")
        options = {"cluster": str(cluster), "progress": False, "observers": [observe]}
        run = threading.Thread(
            target=run_pipeline, args=(schedules, weeks()), kwargs={"params": {"time_limit": 1.0}, **options}
        )
        run.start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(CHROMIUM_OPTIONS))
            page = browser.new_page(viewport={"width": 1280, "height": 800}, device_scale_factor=1)
            take(page, started.get(timeout=120), path)
            browser.close()
        run.join()
        close_local_clusters()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
