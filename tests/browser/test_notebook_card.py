"""The tabs of a report in a notebook's page: without a script, without the style, and on paper."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from batchrun.notebook import report_html
from tests.stopped_run import stopped_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SCRIPT = "<script>alert(1)</script>"
PAGE = "<!doctype html><meta charset='utf-8'><meta name='color-scheme' content='light dark'><body>"


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with the card of one run, twice."""
    report = stopped_run(tmp_path_factory.mktemp("card"), mark=SCRIPT)
    return PAGE + report_html(report) + report_html(report)


def summary(page: Page, title: str, card: int = 0):
    return page.locator(f"summary:text-is('{title}')").nth(card)


def test_a_tab_takes_the_place_of_the_one_before_and_leaves_other_cards_alone(
    cards: str, open_tab: Callable[..., Page]
) -> None:
    page = open_tab(java_script_enabled=False)
    page.set_content(cards)
    first, other = page.locator(".batchrun-tabs").nth(0), page.locator(".batchrun-tabs").nth(1)
    assert first.get_by_text("median").is_visible()
    summary(page, "Failures").click()

    assert first.locator("details[open]").count() == 1
    assert "ValueError: no date" in first.locator("details[open] > div").inner_text()
    assert not first.get_by_text("median").is_visible()
    assert other.locator("details[open] > summary").inner_text() == "Summary"
    tops = {round(one.bounding_box()["y"]) for one in first.locator("summary").all()}
    assert len(tops) == 1  # side by side


def test_without_the_style_the_tabs_are_folds(cards: str, open_tab: Callable[..., Page]) -> None:
    page = open_tab()
    page.set_content(re.sub(r"<style>.*?</style>|(?<=<details) name='[^']*'", "", cards, flags=re.DOTALL))
    summary(page, "Quarantined").click()

    folds = page.locator(".batchrun-tabs").nth(0)
    assert folds.get_by_text("error_message").is_visible()
    tops = [one.bounding_box()["y"] for one in folds.locator("summary").all()]
    assert tops == sorted(set(tops))  # one below the other


def test_on_paper_every_tab_is_open(cards: str, open_tab: Callable[..., Page]) -> None:
    page = open_tab()
    page.set_content(cards)
    page.emulate_media(media="print")

    folds = page.locator(".batchrun-tabs").nth(0)
    for text in ("median", "what it means", "error_message"):
        assert folds.get_by_text(text, exact=True).is_visible()
    assert folds.locator("pre").first.is_visible()


def test_the_card_fits_a_narrow_screen(cards: str, open_tab: Callable[..., Page]) -> None:
    page = open_tab(viewport={"width": 390, "height": 800})
    page.set_content(cards)
    for title in ("Results", "Failures", "Quarantined", "Chunks", "Settings", "Summary"):
        summary(page, title).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
