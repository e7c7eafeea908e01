"""How the live page looks on light, dark and narrow screens, and what it tells a screen reader."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.models import Div

from batchrun.dashboard import frame, panels
from batchrun.dashboard.board import Board
from batchrun.dashboard.chunk_map import COLORS
from batchrun.dashboard.message import (
    RUNNING,
    TOPIC,
    WAITING,
    ChunkColumns,
    FailureLine,
    Message,
    code_of,
    pack_cuts,
)
from batchrun.outcome import Outcome
from batchrun.progress import RunningLine
from tests.contrast import contrast

expect = pytest.importorskip("playwright.sync_api").expect

PATIENCE = 30_000
"""Milliseconds that a browser waits for what must come."""
NARROW = {"width": 390, "height": 800}
ROLE = "--br-"
MAP_DATA = "Bokeh.documents[0].get_model_by_name('batchrun-chunks').data"
CURSOR = "Bokeh.documents[0].get_model_by_name('batchrun-cursor').data"
MAP = re.compile("^Map of the chunks")

TEXTS = {
    "ink": ("page", "card"),
    "quiet": ("page", "card"),
    "alarm": ("card",),
    "wants": ("card",),
    "tile-ink": ("track",),
    "pre-ink": ("pre",),
    "nav-ink": ("nav", "nav-on", "nav-over"),
    "pill-ink": ("queued", "running", "succeeded", "partial", "failed", "cancelled"),
}
"""Colours of text, each with the colours that it stands on."""


def scripted(now: float) -> Message:
    """A run in the middle of its work, with something in every panel."""
    chunks = np.arange(42)
    outcomes = {7: Outcome.FAILED, 11: Outcome.TIMED_OUT, 19: Outcome.STOPPED_WITH_SOLUTION}
    outcomes |= {23: Outcome.OUT_OF_MEMORY, 29: Outcome.WORKER_LOST, 31: Outcome.CANCELLED}
    codes = np.array([code_of(outcomes.get(chunk, Outcome.SUCCEEDED)) for chunk in chunks.tolist()])
    codes[36:] = RUNNING
    each = np.where(codes > RUNNING, 20, 0)
    return Message(
        "delays-2026-11-30-a",
        at=now,
        started=now - 95,
        pipeline="delays",
        cluster="4 local workers: 3 standard, 1 highmem",
        rows_in=1_200,
        chunks_planned=58,
        rows_planned=1_160,
        rows={"succeeded": 580, "failed": 60, "timed_out": 20, "cancelled": 20},
        chunks={"succeeded": 29, "failed": 3, "timed_out": 1, "cancelled": 1},
        attempts={"succeeded": 31, "failed": 5, "timed_out": 2, "worker_lost": 1, "cancelled": 1},
        workers=4,
        slots=(("threads", 8.0, 6.0, 16.0), ("HIGHMEM", 1.0, 1.0, 3.0), ("MEMORY", 8e9, 5e9, 0.0)),
        failures=(
            FailureLine("ValueError", "row 20 is bad: duration -3", "solve", "failed", 5, (7, 12)),
            FailureLine("StageTimeout", "passed its 30 s", "solve", "timed_out", 2, (11,)),
        ),
        changed=ChunkColumns(chunks, codes.astype(np.uint8), each, each.astype(np.float32)).pack(),
        cuts=pack_cuts({9: (56, 57)}),
        running=(
            RunningLine(36, "highmem-0", 61.0, "solve", 0.4, "node 7 of 20", 2**30, 1_000.0, 968.0),
            RunningLine(38, "standard-1", 12.0, "solve", message="presolve"),
        ),
    )


@pytest.fixture
def look(bare, open_tab):
    """Opens the page of the scripted run in a tab that looks as it is told."""
    client, address = bare
    now = time.time()
    message = scripted(now)
    for seconds in (60, 30, 20, 10, 0):  # some history, for the figures
        done = message.chunks["succeeded"] * (60 - seconds) // 60
        earlier = replace(
            message, at=now - seconds, chunks={"succeeded": done}, rows={"succeeded": 20 * done}
        )
        client.log_event(TOPIC, (message if not seconds else earlier).as_dict())

    def opened(**looks):
        tab = open_tab(**looks)
        tab.goto(address)
        expect(tab.get_by_role("heading", name="delays", exact=True)).to_be_visible(timeout=PATIENCE)
        expect(tab.get_by_text("40 % · gap 3.2 %").first).to_be_visible(timeout=PATIENCE)
        return tab

    return opened


def backgrounds(tab) -> dict[str, str]:
    """What the browser makes of the colours behind everything, ``rgb(…)`` each."""
    return tab.evaluate(
        """() => {
        const seen = (element) => getComputedStyle(element).backgroundColor
        const hosts = [], walk = (root) => { for (const element of root.querySelectorAll("*")) {
            hosts.push(element); if (element.shadowRoot) walk(element.shadowRoot) } }
        walk(document)
        const card = hosts.find((host) => host.style?.background?.includes("--br-card"))
        const select = hosts.find((host) => host.tagName == "SELECT")
        return { page: seen(document.documentElement), body: seen(document.body), card: seen(card),
            select: seen(select), nav: seen(document.querySelector(".navbar ul")) }
        }"""
    )


def schemes() -> dict[str, dict[str, str]]:
    """The colours by role, light and dark, as the style sheet has them."""
    css = files("batchrun.dashboard").joinpath("frame.css").read_text("utf-8")
    head, _, dark = css.partition("@media (prefers-color-scheme: dark)")
    pattern = re.compile(rf"{ROLE}([\w-]+):\s*(#[0-9a-f]{{6}})")
    light = dict(pattern.findall(head))
    return {"light": light, "dark": light | dict(pattern.findall(dark))}


def rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_on_what_they_stand_on(scheme):
    colors = schemes()[scheme]
    pairs = [(text, ground) for text, grounds in TEXTS.items() for ground in grounds]
    weak = {pair: contrast(*(colors[role] for role in pair)) for pair in pairs}
    assert {pair: round(value, 2) for pair, value in weak.items() if value < 4.5} == {}
    for ground in ("page", "card"):  # what shows the focus, and the border of what can have it
        assert contrast(colors["focus"], colors[ground]) >= 3
        assert contrast(colors["line"], colors[ground]) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_can_be_read_on_tiles_that_wait_and_let_the_card_through(scheme):
    colors = schemes()[scheme]
    tile, opaque = COLORS[WAITING][:7], int(COLORS[WAITING][7:], 16) / 255
    pairs = [(int(tile[at : at + 2], 16), int(colors["card"][at : at + 2], 16)) for at in (1, 3, 5)]
    seen = "#" + "".join(f"{round(opaque * over + (1 - opaque) * under):02x}" for over, under in pairs)
    assert contrast(colors["tile-ink"], seen) >= 4.5
    assert contrast(colors["card"], seen) >= 1.25


def test_every_colour_that_the_page_uses_is_defined():
    used = files("batchrun.dashboard").joinpath("page.css").read_text("utf-8")
    assert set(re.findall(rf"var\({ROLE}([\w-]+)\)", used)) <= set(schemes()["light"])


def test_what_is_said_aloud_changes_with_the_state_and_with_every_tenth_of_the_rows():
    board = Board()

    def said(solved: int, state: str = "running") -> str:
        board.take(
            Message(
                "r", at=0.0, pipeline="p", state=state, rows_in=1_000, rows={"succeeded": solved}
            ).as_dict()
        )
        return panels.spoken(board.get("r"))

    assert said(0) == "p running, 0 % of the rows settled"
    assert said(400) == said(499) == "p running, 40 % of the rows settled"
    assert said(500) == "p running, 50 % of the rows settled"
    assert said(1_000, "succeeded") == "p succeeded, 100 % of the rows settled"


def test_without_dasks_frame_the_page_has_its_colours_in_bokehs(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed.dashboard.components.scheduler", None)
    doc = Document()
    frame.surround(doc, {"prefix": "/here"})
    doc.add_root(Div(text="a page"))
    html = file_html(doc, template=doc.template, template_variables=doc.template_variables)
    for part in ("--br-card: #ffffff", 'name="viewport"', "<main>"):
        assert html.count(part) == 1


@pytest.mark.browser
@pytest.mark.cluster
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_light_or_dark_as_the_screen(look, scheme):
    tab = look(color_scheme=scheme)
    colors, seen = schemes()[scheme], backgrounds(tab)
    assert seen == {
        "page": rgb(colors["page"]),
        "body": rgb(colors["page"]),
        "card": rgb(colors["card"]),
        "select": rgb(colors["card"]),
        "nav": rgb(colors["nav"]),
    }


@pytest.mark.browser
@pytest.mark.cluster
def test_a_screen_that_turns_dark_turns_the_page_and_its_figures(look):
    tab = look(color_scheme="light")
    ink = "() => Bokeh.documents[0].get_model_by_name('batchrun-inks').palette[0]"
    assert tab.evaluate(ink) == schemes()["light"]["tile-ink"]
    before = tab.get_by_role("img", name="rows a second over the time of the run").screenshot()
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"wanted => ({ink})() == wanted", arg=schemes()["dark"]["tile-ink"])
    assert backgrounds(tab)["card"] == rgb(schemes()["dark"]["card"])
    assert tab.get_by_role("img", name="rows a second over the time of the run").screenshot() != before


@pytest.mark.browser
@pytest.mark.cluster
def test_a_narrow_screen_has_one_column_and_nothing_to_scroll_sideways(look):
    tab = look(viewport=NARROW)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    lefts = set()
    for name in ("Chunks", "57 chunks", "Slots on 4 workers", "Running", "Latest failures"):
        box = tab.get_by_role("heading", name=re.compile(f"^{name}$")).bounding_box()
        lefts.add(round(box["x"]))
    assert len(lefts) == 1


@pytest.mark.browser
@pytest.mark.cluster
def test_links_that_take_two_lines_do_not_lie_over_the_page(look):
    tab = look(viewport={"width": 820, "height": 800})
    bar = tab.locator(".navbar").bounding_box()
    assert bar["height"] > 60
    assert tab.get_by_role("heading", level=1).bounding_box()["y"] >= bar["y"] + bar["height"]


@pytest.mark.browser
@pytest.mark.cluster
def test_a_screen_reader_finds_every_part_by_its_role_and_name(look):
    tab = look()
    said = tab.get_by_role("status").filter(has_text="settled")
    expect(said).to_have_text("delays running, 50 % of the rows settled")
    expect(tab.get_by_role("progressbar", name="Rows settled")).to_have_attribute("aria-valuenow", "56")
    expect(tab.get_by_role("progressbar", name="chunk 36")).to_have_attribute("aria-valuenow", "40")
    expect(tab.get_by_role("meter", name="HIGHMEM slots")).to_have_attribute(
        "aria-valuetext", "1 of 1 in use, 3 waiting"
    )
    expect(tab.get_by_role("combobox", name="Run to show")).to_have_count(1)
    expect(tab.get_by_role("row", name=re.compile("^succeeded 29 31$"))).to_have_count(1)
    expect(tab.get_by_role("columnheader", name="attempts")).to_have_count(1)
    expect(tab.get_by_role("rowheader", name="cut into parts", exact=True)).to_have_count(1)
    expect(tab.get_by_role("application", name=MAP)).to_have_count(1)
    expect(tab.get_by_role("main").get_by_role("heading", level=1)).to_have_text("delays")
    expect(tab.get_by_role("listitem").filter(has_text="row 20 is bad")).to_have_count(1)
    assert tab.evaluate("document.documentElement.lang") == "en"


@pytest.mark.browser
@pytest.mark.cluster
def test_what_has_the_focus_can_be_seen(look):
    tab = look()
    select = tab.get_by_role("combobox", name="Run to show")
    select.focus()
    tab.keyboard.press("ArrowDown")  # only a focus that came by keyboard is shown
    width, style = select.evaluate(
        "s => [getComputedStyle(s).outlineWidth, getComputedStyle(s).outlineStyle]"
    )
    assert (width, style) == ("2px", "solid")


@pytest.mark.browser
@pytest.mark.cluster
def test_the_map_can_be_walked_and_a_chunk_opened_with_the_keyboard(look):
    tab = look()
    tab.get_by_role("application", name=MAP).focus()
    said = tab.get_by_role("status")
    tab.keyboard.press("ArrowRight")
    expect(said.filter(has_text="chunk 0 · succeeded · 20 rows in 20.0 s")).to_have_count(1)
    tab.keyboard.press("End")
    tab.keyboard.press("ArrowUp")
    across = tab.evaluate(f"() => Math.max(...{MAP_DATA}.x) + 0.5")
    assert tab.evaluate(f"() => {CURSOR}.x.length") == 1
    tab.keyboard.press("Home")
    for _ in range(7):
        tab.keyboard.press("ArrowRight")
    expect(said.filter(has_text="chunk 7 · failed")).to_have_count(1)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    number = tab.get_by_label("Number of a chunk")
    expect(number).to_have_value("7", timeout=PATIENCE)
    tab.keyboard.press("Escape")
    assert tab.evaluate(f"() => {CURSOR}.x.length") == 0
    assert across > 10


@pytest.mark.browser
@pytest.mark.cluster
def test_tiles_are_about_square_on_a_phone_and_on_a_wide_screen(look):
    for looks in ({"viewport": NARROW}, {}):
        tab = look(**looks)
        box = tab.get_by_role("application", name=MAP).bounding_box()
        squareness = (
            ("([width, height]) => (width / (Math.max(...XS) + 0.5)) / (height / (Math.max(...YS) + 0.5))")
            .replace("XS", f"{MAP_DATA}.x")
            .replace("YS", f"{MAP_DATA}.y")
        )
        tab.wait_for_function(
            f"size => Math.abs(Math.log(({squareness})(size))) < 0.3",
            arg=[box["width"], box["height"]],
            timeout=PATIENCE,
        )


@pytest.mark.browser
@pytest.mark.cluster
def test_what_runs_keeps_its_scroll_position_and_the_focus_while_it_is_told_anew(bare, open_tab):
    client, address = bare

    def tell(version: int) -> None:
        running = tuple(RunningLine(n, "w", 5.0 + version, "solve", message=f"v{version}") for n in range(30))
        told = replace(scripted(time.time()), running=running)
        client.log_event(TOPIC, told.as_dict())

    tell(1)
    tab = open_tab()
    tab.goto(address)
    box = tab.get_by_role("region", name="Running chunks")
    expect(box.get_by_text("v1").first).to_be_visible(timeout=PATIENCE)
    box.focus()
    box.evaluate("box => { box.scrollTop = 200 }")
    tell(2)
    expect(box.get_by_text("v2").first).to_be_attached(timeout=PATIENCE)
    assert box.evaluate("box => [box.scrollTop, box == document.activeElement || box.matches(':focus')]") == [
        200,
        True,
    ]
