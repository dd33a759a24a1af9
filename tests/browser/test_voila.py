"""`nbquant app` as who opens its address sees it: the explorer, and no code."""

import urllib.error
import urllib.request

import pytest

from .lab import NBQUANT_APP, PATIENCE, App, Complaints, new_page
from .layout import VIEWPORTS, assert_accessible, assert_nothing_cut, assert_seen

pytestmark = pytest.mark.browser

SLIDER = ".nbquant-explorer input[type=range]"
DRAWN = "[data-figure=histogram][data-revision]"


@pytest.fixture(scope="module")
def app(tmp_path_factory, browser):
    """The app (asks for ``browser`` so that nothing starts where that is missing)."""
    app = App(tmp_path_factory.mktemp("app"), NBQUANT_APP)
    try:
        app.wait_for_address()
        yield app
    finally:
        app.stop()


@pytest.fixture
def opened(app, browser):
    """Function that opens the app; afterwards, console errors and requests to the outside are failures."""
    pages, complaints = [], Complaints()

    def open_(query=""):
        page = new_page(browser)
        pages.append(page)
        complaints.listen(page)
        page.goto(app.wait_for_address() + query)
        page.wait_for_selector(DRAWN)
        return page

    try:
        yield open_
        complaints.assert_none()
    finally:
        for page in pages:
            page.context.close()


def shown(page):
    """What the explorer tells, less the figures' own texts."""
    return page.locator(".nbquant-explorer").inner_text()


def test_page_shows_the_explorer_without_code_and_a_key_changes_it(app, opened, tmp_path):
    page = opened()
    assert page.title() == "nbquant"
    assert "nq.explore" not in page.content()
    bars = page.locator("[data-figure=histogram] .main-svg").first
    assert bars.is_visible()
    # The still picture is for where no widget lives.
    assert not any(image.is_visible() for image in page.locator(".jp-RenderedImage img").all())
    slider = page.locator(SLIDER).first
    slider.focus()
    before = shown(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('.nbquant-explorer').innerText !== before", arg=before)
    for viewport in VIEWPORTS:
        assert_seen(page, viewport)
        assert_nothing_cut(page)
    assert_accessible(page, ["heatmap"])
    page.screenshot(path=tmp_path / "voila.png", full_page=True)


def test_page_is_dark_when_asked_and_its_figures_too(opened, tmp_path):
    page = opened("&theme=dark")
    # Asked of the page as it is: a figure that is drawn anew meanwhile leaves a found label without a colour.
    page.wait_for_function(
        """() => {
            const label = document.querySelector("[data-figure=histogram] .xtick text");
            const [red, green, blue] = (label && getComputedStyle(label).fill.match(/\\d+/g)) ?? [0, 0, 0];
            return +red + +green + +blue > 3 * 128;
        }"""
    )
    page.screenshot(path=tmp_path / "voila-dark.png", full_page=True)


def test_without_its_token_the_page_is_not_given(app):
    address = app.wait_for_address().partition("?")[0]
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        assert answer.url.startswith(f"{address}login")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{address}api/kernels/00000000-0000-0000-0000-000000000000", timeout=PATIENCE)
