"""Layout of the explorer in numbers: what is in the window, what is cut, what axe-core finds."""

import time
from collections.abc import Sequence

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from .lab import PATIENCE

VIEWPORTS = [(1280, 800), (1440, 900)]
SLIDER = "[data-drives] input[type=range]"
BOX = "part => part.getBoundingClientRect().toJSON()"
PARTS = (
    *(".nbquant-drive", ".nbquant-readout", "[data-figure=histogram]", "[data-figure=rate_distortion]"),
    *("[data-figure=heatmap]", "[data-setting=method]", "[data-panel=side] table"),
)


def wait_until_still(page: Page) -> None:
    """Return once no part has moved or changed its size for half a second, as figures follow the window in time."""
    before, looks, deadline = None, 0, time.monotonic() + PATIENCE
    while looks < 5:
        boxes = [page.locator(selector).first.evaluate(BOX) for selector in PARTS]
        looks = looks + 1 if boxes == before else 0
        assert time.monotonic() < deadline, f"parts still move: {before} is now {boxes}"
        before = boxes
        page.wait_for_timeout(100)


def assert_seen(page: Page, viewport: tuple[int, int]) -> None:
    """Fail unless all parts lie in the window, once the explorer is scrolled to, and the slider has its length."""
    page.set_viewport_size({"width": viewport[0], "height": viewport[1]})
    wait_until_still(page)
    # Locators see into a shadow root, as marimo puts widgets in.
    page.locator(".nbquant-panel").first.evaluate("panel => panel.scrollIntoView({ block: 'end' })")
    wait_until_still(page)
    for selector in PARTS:
        box = page.locator(selector).first.evaluate(BOX)
        assert box["width"] > 60, selector
        assert box["left"] >= 0, selector
        assert box["right"] <= viewport[0], selector
        assert box["top"] >= 0, selector
        assert box["bottom"] <= viewport[1], selector
    slider = page.locator(SLIDER).bounding_box()
    assert slider is not None
    assert slider["width"] >= 300
    panel = page.locator(".nbquant-panel").bounding_box()
    assert panel is not None
    assert viewport[0] > 1280 or panel["height"] <= 660


def assert_nothing_cut(page: Page) -> None:
    """Fail if a text is wider than its place, on any tab; afterwards the first tab is shown."""
    for name in tabs(page):
        page.locator(f"[data-tab={name}]").click()
        cut = page.locator(".nbquant-panel *").evaluate_all(
            """all => all
                .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !e.closest('.nbquant-figure')
                    && getComputedStyle(e).clipPath === 'none' && !e.matches('.nbquant-still, input'))
                .map(e => [e.className, e.textContent.slice(0, 30), e.scrollWidth, e.clientWidth])"""
        )
        assert cut == [], name
    page.locator(f"[data-tab={tabs(page)[0]}]").click()


def assert_accessible(page: Page, names: Sequence[str]) -> None:
    """Fail if axe-core finds a violation in the explorer, on any of these tabs; on a wide screen some stand beside."""
    for name in names:
        if name in tabs(page):
            page.locator(f"[data-tab={name}]").click()
        found = Axe().run(page, context=".nbquant-explorer")
        assert found.violations_count == 0, found.generate_report()
    page.locator(f"[data-tab={tabs(page)[0]}]").click()


def tabs(page: Page) -> list[str]:
    """Names of the tabs that can be chosen now."""
    names: list[str] = page.locator("[role=tab]").evaluate_all(
        "all => all.filter(t => t.dataset.tab && t.offsetWidth).map(t => t.dataset.tab)"
    )
    return names
