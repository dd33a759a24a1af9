"""The explorer in marimo, which runs cells as a graph and has no Jupyter front end."""

import sys

import pytest
from playwright.sync_api import expect

from .lab import App, Complaints, new_page
from .layout import VIEWPORTS, assert_nothing_cut, assert_seen

pytestmark = pytest.mark.browser

NOTEBOOK = """
import marimo

app = marimo.App(width="full")


@app.cell
def _():
    import nbquant as nq
    from nbquant.models.dataset import Dataset

    model, data = nq.zoo.load("lenet5-fashion")
    few = data.calibration.take(200)
    explorer = nq.explore(model, Dataset("slice", few, few, data.test.take(300)), ratio=15)
    explorer
    return


if __name__ == "__main__":
    app.run()
"""
COMMAND = [sys.executable, "-m", "marimo", "run", "--headless", "--host=127.0.0.1", "--port={port}", "--token"]


@pytest.fixture
def page(tmp_path, browser):
    """A notebook of marimo that shows the explorer, served as a page."""
    path = tmp_path / "notebook.py"
    path.write_text(NOTEBOOK)
    app, complaints = App(tmp_path, [*COMMAND, str(path)], r"http://\S+:\d+\S*access_token=\S+"), Complaints()
    page = new_page(browser, (1280, 800))
    try:
        complaints.listen(page)
        page.goto(app.wait_for_address().replace("localhost", "127.0.0.1"))
        page.wait_for_selector("[data-figure=histogram][data-revision]")
        yield page
        complaints.assert_none()
    finally:
        page.context.close()
        app.stop()


def test_explorer_is_seen_whole_and_follows_keys_and_menus(page, tmp_path):
    for viewport in VIEWPORTS:
        assert_seen(page, viewport)
        assert_nothing_cut(page)
    readout = page.locator(".nbquant-readout")
    before = readout.inner_text()
    page.locator("[data-drives] input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    expect(readout).not_to_have_text(before, use_inner_text=True)
    before = readout.inner_text()
    page.locator("[data-setting=method] select").select_option("ECSQ")
    expect(readout).not_to_have_text(before, use_inner_text=True)
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    page.screenshot(path=tmp_path / "marimo.png", full_page=True)
    # Within a shadow root the document does not know what has the focus.
    side = page.locator("[data-panel=side]")
    side.get_by_role("button", name="rate").click()
    row = side.locator("tbody tr[data-key=conv1]")  # which has the smallest rate
    row.focus()
    for place in ("last", "first"):
        row.press("Space")
        expect(getattr(side.locator("tbody tr"), place)).to_have_attribute("data-key", "conv1")
    expect(row).to_be_focused()
