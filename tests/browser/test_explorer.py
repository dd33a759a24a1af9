"""The real notebook in JupyterLab: run it, move the slider by mouse and by keys, see the pictures change."""

import pytest

pytestmark = pytest.mark.browser

RATIO = ".nbquant-explorer .noUi-handle"


def figure(page, name):
    return page.find(f"[data-figure={name}]")


def revisions(page):
    names = ("histogram", "rate_distortion")
    return {name: figure(page, name).get_attribute("data-revision") for name in names}


def stems(page):
    """Positions of the cluster centres as they are drawn."""
    return page.page.evaluate(
        """() => document.querySelector('[data-figure=histogram]')._fullData
            .find(trace => trace.name === 'centres').x.length"""
    )


def chosen(page):
    """Compression ratio in the read-out."""
    return float(page.find(".nbquant-readout output").inner_text().rstrip("×"))


def settle(page):
    """Wait for the work in the background, which the bar tells of."""
    page.wait_idle()
    page.page.wait_for_function(
        """() => { const bar = document.querySelector('.nbquant-explorer .nbquant-work');
                   return bar && getComputedStyle(bar).visibility === 'hidden'; }""",
        timeout=120_000,
    )
    page.page.wait_for_timeout(300)  # the frames that are still to be drawn


def changed(page, before, timeout=30_000):
    page.page.wait_for_function(
        """before => Object.entries(before).every(([name, revision]) =>
            document.querySelector(`[data-figure=${name}]`).dataset.revision !== revision)""",
        arg=before,
        timeout=timeout,
    )


@pytest.fixture
def explorer(notebook):
    """The explorer alone, which is there sooner than at the top of a notebook that runs to its end."""
    page = notebook(cells=["import nbquant as nq", "nq.explore(*nq.zoo.load('lenet5-fashion'))"])
    page.run_all()
    settle(page)
    return page


def test_notebook_runs_and_its_slider_by_mouse_and_by_keys_changes_codebook_and_curves(notebook, tmp_path):
    page = notebook("01_explore.ipynb")
    page.run_all()
    settle(page)
    handle = page.find(RATIO)
    ratio, levels, before = chosen(page), stems(page), revisions(page)
    page.drag(handle, by=(120, 0))
    changed(page, before)
    settle(page)
    dragged = chosen(page)
    assert dragged > ratio
    assert stems(page) != levels

    before = revisions(page)
    page.press(handle, "ArrowLeft", times=5)
    changed(page, before)
    settle(page)
    assert ratio < chosen(page) < dragged

    before = revisions(page)
    page.press(handle, "ArrowRight", times=5)
    changed(page, before)
    page.screenshot(tmp_path / "explorer.png")


def test_every_control_redraws_and_errors_show_in_the_view(explorer):
    page = explorer
    for label, value in [("Method", "ECSQ"), ("Weighting", "none"), ("Coding", "fixed length")]:
        before = revisions(page)
        options = page.find(f".widget-dropdown:has-text('{label}') select")
        options.select_option(label=value)
        changed(page, before)
        settle(page)
    assert page.page.locator(".nbquant-error").count() == 0

    shown = figure(page, "histogram").get_attribute("data-revision")
    page.find(".widget-dropdown:has-text('Sensitivity') select").select_option(label="exact (small nets)")
    page.page.wait_for_selector(".nbquant-error", timeout=60_000)
    assert "20,000" in page.page.locator(".nbquant-error").first.inner_text()
    assert figure(page, "histogram").get_attribute("data-revision") == shown


def test_accuracy_is_measured_on_demand(explorer):
    page = explorer
    page.find("button:has-text('Measure accuracy')").click()
    page.page.wait_for_function(
        "() => /original 91\\.95/.test(document.querySelector('.nbquant-readout').textContent)", timeout=120_000
    )


def test_dark_theme_reaches_the_figures(explorer):
    page = explorer
    colour = """() => getComputedStyle(document.querySelector('[data-figure=histogram] .xtick text')).fill"""
    light = page.page.evaluate(colour)
    page.set_theme("dark")
    page.page.wait_for_function(f"light => ({colour})() !== light", arg=light, timeout=20_000)
    page.set_theme("light")
