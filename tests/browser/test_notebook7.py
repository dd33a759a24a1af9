"""The explorer in Notebook 7."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from .lab import JupyterLab, Notebook, new_page, write_scratch
from .layout import VIEWPORTS, assert_accessible, assert_nothing_cut, assert_seen

pytestmark = pytest.mark.browser

CELLS = [
    "import nbquant as nq\nfrom nbquant.models.dataset import Dataset",
    "model, data = nq.zoo.load('lenet5-fashion')\nfew = data.calibration.take(200)",
    "nq.explore(model, Dataset('slice', few, few, data.test.take(300)))",
]


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
    page = new_page(browser)
    notebook = Notebook(page, seven, "seven.ipynb")
    notebook.complaints.listen(page)
    try:
        page.goto(f"{seven.url}/notebooks/seven.ipynb?token={seven.token}")
        notebook.wait_for_kernel()
        # Notebook 7 asks for commands and settings before they are there, whatever the notebook: not the explorer's.
        notebook.complaints.console_errors.clear()
        notebook.run_all()
        page.wait_for_selector("[data-figure=histogram][data-revision]")
        page.wait_for_selector(".nbquant-table tbody tr[data-key=fc1]")
        yield page
        notebook.complaints.assert_none()
    finally:
        page.context.close()


def test_explorer_is_drawn_and_takes_keys_that_the_notebook_has_uses_for(page, tmp_path):
    assert page.locator("[data-figure=histogram] .main-svg").first.is_visible()
    slider = page.locator(".nbquant-explorer input[type=range]").first
    slider.focus()
    before = page.locator(".nbquant-explorer").inner_text()
    place = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > place
    page.wait_for_function("before => document.querySelector('.nbquant-explorer').innerText !== before", arg=before)

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
