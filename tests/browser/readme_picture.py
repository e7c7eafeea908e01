"""Takes the pictures of the docs: a real run of job shops in the middle of its work, and its report.

``python -m tests.browser.readme_picture docs/img`` from the top folder; ``make screenshots`` does that. It
takes about three minutes.
"""

from __future__ import annotations

import queue
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from playwright.sync_api import Browser, Page, sync_playwright

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


LOOKS = {
    "dashboard": {"viewport": {"width": 1280, "height": 1420}},
    "dashboard-dark": {"viewport": {"width": 1280, "height": 1420}, "color_scheme": "dark"},
    "dashboard-narrow": {"viewport": {"width": 390, "height": 1400}},
}
"""The names of the pictures, and how wide and in which light the page is."""


REPORT = {"viewport": {"width": 1200, "height": 1420}}
"""How wide the page of the report is, and how much of it is shown."""


def take(browser: Browser, address: str, folder: Path) -> None:
    """Wait for the middle of the run and take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, looks in LOOKS.items():
        page = browser.new_page(device_scale_factor=1, **looks)
        wait_for_the_middle(page, address)
        page.screenshot(path=folder / f"{name}.png")
        page.close()


def wait_for_the_middle(page: Page, address: str) -> None:
    """Open the page, and wait until enough chunks are settled and the store was asked."""
    page.goto(address)
    page.wait_for_function(
        "settled => Array.from(Bokeh.documents[0]?.get_model_by_name('batchrun-chunks')?.data.code ?? [])"
        f".filter(code => code > {RUNNING}).length >= settled",
        arg=SETTLED,
        timeout=180_000,
    )
    page.get_by_label("Number of a chunk").fill("0")
    page.get_by_label("Number of a chunk").press("Enter")
    page.get_by_text("chunk 0 (").first.wait_for(timeout=60_000)
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_timeout(4_000)  # for all figures to be drawn, on a busy machine too


def take_report(browser: Browser, page: Path, folder: Path) -> None:
    """Take the picture of what a report begins with."""
    tab = browser.new_page(device_scale_factor=1, **REPORT)
    tab.goto(page.as_uri())
    tab.wait_for_timeout(1_500)  # for the figures to be painted
    tab.screenshot(path=folder / "report.png")
    tab.close()


def main(folder_of_pictures: Path) -> None:
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
        with ThreadPoolExecutor(1) as thread, sync_playwright() as playwright:
            run = thread.submit(run_pipeline, schedules, weeks(), params={"time_limit": 1.0}, **options)
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(CHROMIUM_OPTIONS))
            take(browser, started.get(timeout=120), folder_of_pictures)
            page = run.result().to_html(Path(folder) / "report.html")
            take_report(browser, page, folder_of_pictures)
            browser.close()
        close_local_clusters()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
