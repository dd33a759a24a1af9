"""The real notebook in JupyterLab: run it, move the slider by mouse and by keys, see the pictures change."""

import pytest
import torch

import nbquant as nq
from nbquant.models.zoo import CHECKPOINTS

pytestmark = pytest.mark.browser

SLICE = """
import nbquant as nq
from nbquant.models.dataset import Dataset
model, data = nq.zoo.load("lenet5-fashion")
few = data.calibration.take(200)
nq.explore(model, Dataset("slice", few, few, data.test.take(300)), path="first.nbq")
"""
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
    return float(page.find(".nbquant-readout output").inner_text().strip("≈× "))


def settle(page):
    """Wait for the work in the background, which the bar tells of."""
    page.wait_idle()
    page.page.wait_for_function(
        """() => { const bar = document.querySelector('.nbquant-explorer .nbquant-work');
                   return bar && getComputedStyle(bar).display === 'none'; }""",
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


def button(page, label):
    return page.find(f".nbquant-explorer button:text-is('{label}')")


def wait_for_outcome(page, name):
    page.page.wait_for_function(
        "name => document.querySelector('.nbquant-outcome')?.textContent.includes(name)", arg=name, timeout=60_000
    )
    settle(page)


def top(page, name):
    """Where a figure begins, from the top of the explorer [px]."""
    return page.page.evaluate(
        """name => document.querySelector(`[data-figure=${name}]`).getBoundingClientRect().top
            - document.querySelector('.nbquant-explorer').getBoundingClientRect().top""",
        name,
    )


def test_network_is_fine_tuned_and_saved_by_keys_and_restored_from_the_file(notebook, tmp_path):
    page = notebook(cells=[SLICE])
    page.run_all()
    settle(page)
    before = top(page, "histogram")
    assert page.page.locator("[data-figure=finetuning]").is_hidden()
    page.press(button(page, "Fine-tune"), "Enter")
    page.page.wait_for_selector("[data-figure=finetuning][data-revision]", timeout=60_000)
    settle(page)
    assert "2 steps" in figure(page, "finetuning").get_attribute("aria-label")
    assert "before fine-tuning" in page.find(".nbquant-readout").inner_text()

    path = page.find(".nbquant-explorer input[type=text][placeholder]")
    path.fill("small.nbq")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Space")
    wait_for_outcome(page, "small.nbq")
    assert page.page.locator(".nbquant-error").count() == 0
    assert top(page, "histogram") == before  # nothing moved
    file = page.lab.root / "small.nbq"
    stored = nq.load(file)
    assert f"{file.stat().st_size:,} bytes" in page.find(".nbquant-outcome").inner_text()
    total = page.find(".nbquant-ledger tbody tr:first-child td:last-child").inner_text()
    assert total == f"{file.stat().st_size:,}"
    assert not (page.lab.root / "first.nbq").exists()

    model, data = nq.zoo.load("lenet5-fashion")
    restored = stored.apply(model)
    assert stored.quantized().finetuned["epochs"] == 1
    few = data.test.take(300)
    assert nq.evaluate(restored, few, progress=False).accuracy > 0.8
    page.press(button(page, "Measure accuracy"), "Enter")
    accuracy = f"{100 * nq.evaluate(restored, few, progress=False).accuracy:.2f} % of 300"
    page.page.wait_for_function(
        "text => document.querySelector('.nbquant-readout').textContent.includes(text)", arg=accuracy, timeout=60_000
    )
    page.screenshot(tmp_path / "saved.png")


def test_checkpoint_alone_has_curves_and_a_file_but_no_accuracy(notebook):
    page = notebook(
        cells=[
            "import nbquant as nq\nfrom nbquant.models.zoo import CHECKPOINTS",
            "nq.explore(CHECKPOINTS / 'resnet8-fashion.safetensors', path='none/resnet8.nbq')",
        ]
    )
    page.run_all()
    settle(page)
    for label in ("Measure accuracy", "Fine-tune"):
        assert button(page, label).is_disabled()
        assert "explore(model, data)" in button(page, label).get_attribute("title")
    assert page.find(".widget-dropdown:has-text('Sensitivity') select").is_disabled()
    assert "h = 1" in page.find(".nbquant-readout").inner_text()
    before = revisions(page)
    page.press(page.find(RATIO), "ArrowRight", times=3)
    changed(page, before)
    settle(page)

    button(page, "Save").click()
    page.page.wait_for_selector(".nbquant-error", timeout=60_000)
    assert "'none'" in page.find(".nbquant-error").inner_text()
    page.find(".nbquant-explorer input[type=text][placeholder]").fill("resnet8.nbq")
    button(page, "Save").click()
    wait_for_outcome(page, "resnet8.nbq")
    assert page.page.locator(".nbquant-error").count() == 0
    restored = nq.load(page.lab.root / "resnet8.nbq").state_dict(progress=False)
    stored = nq.select(CHECKPOINTS / "resnet8-fashion.safetensors")
    assert all(restored[t.name].shape == t.weight.shape for t in stored)
    assert len(torch.cat([restored[t.name].reshape(-1) for t in stored]).unique()) < 100
