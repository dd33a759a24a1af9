"""The explorer in Notebook 7, which the same server has under an address of its own."""

import pytest

from .lab import Complaints, write_scratch

pytestmark = pytest.mark.browser

CELLS = ["import nbquant as nq", "nq.explore(*nq.zoo.load('lenet5-fashion'))"]
# Of Notebook 7.6.5 itself, with any notebook: it asks for the settings of an extension before they are there.
ITS_OWN = "uncaught: Cannot read properties of undefined (reading 'schema')"


@pytest.fixture
def page(lab, browser):
    """A notebook whose last cell shows the explorer; afterwards, complaints of the browser are failures."""
    write_scratch(lab.root / "seven.ipynb", CELLS)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, complaints = context.new_page(), Complaints()
    complaints.listen(page)
    try:
        page.goto(f"{lab.url}/notebooks/seven.ipynb?token={lab.token}")
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=60_000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000, state="attached")
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_selector("[data-figure=histogram][data-revision]", timeout=90_000)
        page.wait_for_selector(".nbquant-table tbody tr[data-key=fc1]", timeout=60_000)
        yield page
        complaints.console_errors = [error for error in complaints.console_errors if error != ITS_OWN]
        complaints.assert_none()
    finally:
        context.close()
        lab.stop_kernels()


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
    page.screenshot(path=tmp_path / "notebook7.png")
