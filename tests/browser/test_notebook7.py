"""The explorer in Notebook 7."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, TimeoutError

from .lab import Complaints, JupyterLab, write_scratch
from .layout import VIEWPORTS, assert_accessible, assert_nothing_cut, assert_seen

pytestmark = pytest.mark.browser

CELLS = ["import nbquant as nq", "nq.explore(*nq.zoo.load('lenet5-fashion'))"]


@pytest.fixture
def seven(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[JupyterLab]:
    """A server of its own: Jupyter Server 2.21 mixes up files that JupyterLab and Notebook both have."""
    server = JupyterLab(tmp_path_factory.mktemp("seven"), "notebook")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def page(seven: JupyterLab, browser: Browser) -> Iterator[Page]:
    """A notebook whose last cell shows the explorer; afterwards, complaints of the browser are failures."""
    write_scratch(seven.root / "seven.ipynb", CELLS)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, complaints = context.new_page(), Complaints()
    complaints.listen(page)
    try:
        page.goto(f"{seven.url}/notebooks/seven.ipynb?token={seven.token}")
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=60_000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000, state="attached")
        # Notebook 7 asks for commands and settings before they are there, whatever the notebook: not the explorer's.
        complaints.console_errors.clear()
        run_all(page)
        page.wait_for_selector("[data-figure=histogram][data-revision]", timeout=90_000)
        page.wait_for_selector(".nbquant-table tbody tr[data-key=fc1]", timeout=60_000)
        yield page
        complaints.assert_none()
    finally:
        context.close()


def run_all(page: Page) -> None:
    """By the menu, whose command does nothing until the notebook has its kernel: again if no cell is asked to run."""
    for patience in (10_000, 60_000):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            page.wait_for_selector(".jp-CodeCell .jp-InputPrompt:not(:text-is('[ ]:'))", timeout=patience)
            return
        except TimeoutError:
            continue
    raise AssertionError("no cell was asked to run")


def test_explorer_is_drawn_and_takes_keys_that_the_notebook_has_uses_for(page, tmp_path):
    assert page.locator("[data-figure=histogram] .main-svg").first.is_visible()
    slider = page.locator(".nbquant-explorer input[type=range]").first
    slider.focus()
    before = page.locator(".nbquant-explorer").inner_text()
    place = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > place
    page.wait_for_function(
        "before => document.querySelector('.nbquant-explorer').innerText !== before", arg=before, timeout=30_000
    )

    page.locator(".nbquant-table tr[data-key=conv1]").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.key") == "conv2"
    page.keyboard.press("Enter")
    page.wait_for_selector(".nbquant-table tr[data-key=conv2][aria-selected=true]")
    assert page.locator(".jp-Notebook.jp-mod-editMode").count() == 0
    for viewport in VIEWPORTS:
        assert_seen(page, viewport)
        assert_nothing_cut(page)
    assert_accessible(page, ["heatmap"])
    page.screenshot(path=tmp_path / "notebook7.png")
