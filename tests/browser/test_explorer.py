"""The explorer in JupyterLab as a person uses it: mouse, keys, themes, reload, two views, errors, cancel, downloads."""

import json
from contextlib import contextmanager

import pytest
import torch

import nbquant as nq
from nbquant.models.zoo import CHECKPOINTS

from .lab import PATIENCE, open_notebook, write_scratch
from .layout import VIEWPORTS, assert_accessible, assert_nothing_cut, assert_seen

pytestmark = pytest.mark.browser

LOAD = """
import nbquant as nq
from nbquant.models.dataset import Dataset
model, data = nq.zoo.load("lenet5-fashion")
few = data.calibration.take(200)
data = Dataset("slice", few, few, data.test.take(300))
"""
LENET = [LOAD, "nq.explore(model, data)"]
# The slider starts where the explorer is: else linking them would be a step of its own.
BESIDE = """
import ipywidgets
explorer = _
slider = ipywidgets.FloatSlider(min=5, max=40, step=0.5, value=explorer.ratio)
ipywidgets.jslink((slider, "value"), (explorer, "ratio"))
slider
"""
# Measured as slowly on a fast machine as on a busy one.
SLOW = """
import time
import torch
import nbquant as nq

class Slow(torch.nn.Linear):
    def forward(self, inputs):
        time.sleep(0.5)
        return super().forward(inputs)

model = Slow(20, 5)
h = {name: torch.rand(p.shape) for name, p in model.named_parameters()}
batches = [(torch.randn(8, 20), torch.arange(8) % 5)] * 240
nq.explore(model, batches, sensitivity=h, measure_at_rest=False)
"""
RATIO = ".nbquant-panel [data-driver=ratio] input[type=range]"


def figure(page, name):
    return page.find(f"[data-figure={name}]")


def shown(page):
    """What the panel shows: preview or now, the serial, exact or not, and how often it drew before the kernel."""
    return page.page.evaluate("() => ({ ...document.querySelector('.nbquant-panel').dataset })")


def fact(page, label):
    return page.find(f".nbquant-panel [data-fact='{label}'] output").inner_text().strip("≈ \n")


def ratio(page):
    return float(fact(page, "compression ratio").strip("×"))


def settle(page):
    """Wait until what was just done has reached the kernel, its work is over and the page shows what it gave."""
    page.wait_idle()
    page.page.wait_for_function(
        """() => { const bar = document.querySelector('.nbquant-explorer .nbquant-work');
                   const panel = document.querySelector('.nbquant-panel');
                   return bar && getComputedStyle(bar).display === 'none' && panel?.dataset.shownExact === 'true'; }""",
    )
    page.wait_idle()


def until(page, expression, argument=None):
    page.page.wait_for_function(expression, arg=argument)


def button(page, label):
    return page.find(f".nbquant-explorer button:text-is('{label}'):not([role=tab])")


def tab(page, name):
    """Show a tab's panel."""
    page.find(f".nbquant-tabs [data-tab={name}]").click()


def control(page, name):
    """The menu or field of an input, its tab shown."""
    panel = page.page.locator(f"[data-setting={name}]").locator("xpath=ancestor::*[@data-panel]")
    if panel.get_attribute("data-away") is not None:
        tab(page, panel.get_attribute("data-panel"))
    return page.find(f"[data-setting={name}] :is(select, input)")


def choose_driver(page, name):
    page.find(".nbquant-drive-chooser").select_option(value=name)
    page.page.wait_for_selector(f"[data-driver={name}][data-drives]")


def error(page):
    return page.page.locator(".nbquant-alert:not([hidden]) .nbquant-error")


@contextmanager
def cell_running(page):
    """Keep the kernel busy with a cell; it must still run at the end, where it is interrupted."""
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    page.page.evaluate(
        f"""() => {{ window.cellDone = false;
            {kernel}.requestExecute({{ code: "import time; time.sleep({2 * PATIENCE})" }}).done.then(
                () => {{ window.cellDone = true; }}); }}"""
    )
    until(page, f"() => {kernel}.status === 'busy'")
    try:
        yield
        assert page.page.evaluate("() => !window.cellDone")
    finally:
        page.page.evaluate(f"() => {kernel}.interrupt()")
    until(page, "() => window.cellDone")


@pytest.fixture(scope="module")
def shared(lab, browser):
    """An explorer that tests take as the one before left it.

    Tests that use its page and its kernel come before any that opens another, as ``notebook`` closes all pages.
    """
    write_scratch(lab.root / "shared.ipynb", [*LENET, BESIDE])
    page = open_notebook(browser, lab, "shared.ipynb")
    page.run_all()
    settle(page)
    yield page
    page.complaints.assert_none()


def test_any_quantity_drives_by_its_number_field(shared):
    page = shared
    for driver, value, label in [("rate", "1.8", "rate [bit/weight]"), ("levels", "8", "levels")]:
        choose_driver(page, driver)
        field = page.find(f"[data-driver={driver}] input[type=number]")
        field.focus()
        page.page.keyboard.press("Control+a")
        page.page.keyboard.type(value)
        page.page.keyboard.press("Enter")
        settle(page)
        assert 0.8 * float(value) <= float(fact(page, label)) <= float(value)
        assert page.page.locator(f"[data-driver={driver}][data-drives]").count() == 1


def test_slider_of_the_users_own_moves_the_target_and_follows_it(shared):
    """Linked in the browser: see BESIDE."""
    page = shared
    choose_driver(page, "ratio")
    field = page.find("[data-driver=ratio] input[type=number]")
    field.focus()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("11")
    page.page.keyboard.press("Enter")
    settle(page)
    readout = page.find(".widget-readout")
    assert float(readout.inner_text()) == 11
    page.press(page.find(".noUi-handle"), "ArrowRight", 3)
    settle(page)
    assert float(readout.inner_text()) == float(field.input_value()) > 11
    assert abs(ratio(page) / float(field.input_value()) - 1) < 0.1


def test_centre_is_moved_by_keys_and_released(shared):
    page = shared
    before = fact(page, "predicted loss increase")
    page.find("[data-box=histogram] canvas.nbquant-overlay").focus()
    for _ in range(6):
        page.page.keyboard.press("ArrowRight")
    for _ in range(25):
        page.page.keyboard.press("Shift+ArrowRight")
    until(page, "() => /by hand: [+][0-9.]*[1-9]/.test(document.querySelector('.nbquant-readout').textContent)")
    assert float(fact(page, "predicted loss increase")) > float(before)
    page.page.keyboard.press("Escape")
    settle(page)
    assert fact(page, "predicted loss increase") == before


def test_region_brushed_with_the_mouse_is_outlined(shared):
    page = shared
    place = figure(page, "heatmap")
    box = place.bounding_box()
    page.page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 180, box["y"] + 170, steps=6)
    page.page.mouse.up()
    until(page, "() => document.querySelector('[data-setting=region_text] input').value !== ''")
    assert "," in control(page, "region_text").input_value()
    tab(page, "heatmap")
    assert error(page).count() == 0


def test_clicked_cell_is_traced_to_its_byte_and_what_breaks_is_shown(shared):
    page = shared
    place = figure(page, "heatmap")
    box = place.bounding_box()
    page.page.mouse.click(box["x"] + 110, box["y"] + 90)
    page.page.wait_for_selector(".nbquant-trace li:nth-child(4)")
    assert page.page.locator(".nbquant-trace li:first-child .nbquant-bits span").count() == 32
    assert "of the file, from bit" in page.page.locator(".nbquant-trace li:nth-child(4)").inner_text()
    tab(page, "breaks")
    button(page, "Show what breaks").click()
    page.page.wait_for_selector(".nbquant-flips [data-flip] canvas")
    assert page.page.locator(".nbquant-filters canvas").count() == 40  # conv1 has 20, before and after
    tab(page, "heatmap")
    settle(page)


def test_point_of_a_curve_is_gone_to_by_a_click(shared):
    page = shared
    spot = page.page.evaluate(
        """() => { const node = document.querySelector('[data-figure=rate_distortion]');
                   node.scrollIntoView({ block: 'center' });
                   const trace = node._fullData.find(t => t.name === 'uniform');
                   const { xaxis, yaxis } = node._fullLayout, i = Math.floor(trace.x.length / 2);
                   const { x, y } = node.getBoundingClientRect();
                   return [x + xaxis._offset + xaxis.d2p(trace.x[i]), y + yaxis._offset + yaxis.d2p(trace.y[i])]; }"""
    )
    page.page.mouse.move(spot[0] - 3, spot[1])
    page.page.mouse.move(*spot, steps=3)
    page.page.wait_for_selector("[data-figure=rate_distortion] .hovertext")
    page.page.mouse.click(*spot)
    until(
        page,
        "() => document.querySelector('[data-setting=method] select').selectedOptions[0].textContent === 'uniform'",
    )


def test_layers_are_chosen_in_their_table(shared):
    page = shared
    page.find("tr:has-text('fc1') input[type=checkbox]").click()
    until(page, "() => /conv1, conv2, fc2/.test(document.querySelector('[data-box=histogram]').textContent)")
    settle(page)
    page.find("tr:has-text('conv2')").get_by_text("conv2").click()
    until(page, "() => /conv2.weight/.test(document.querySelector('[data-box=heatmap]').textContent)")


def test_bits_of_a_layer_are_pulled_by_keys_and_by_the_mouse(shared):
    page = shared
    choose_driver(page, "ratio")
    page.find("[data-driver=ratio] input[type=number]").focus()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("6")
    page.page.keyboard.press("Enter")
    settle(page)
    control(page, "method").select_option(label="block formats (runs)")
    formats = control(page, "formats_text")
    formats.fill("q4_0, q8_0")
    formats.press("Enter")
    tab(page, "formats")
    until(page, "() => document.querySelectorAll('[data-layer=fc2] .nbquant-bits-marks i').length === 2")
    settle(page)
    told = "() => document.querySelector('[data-layer=fc2] [role=slider]').getAttribute('aria-valuetext')"
    bar = page.find("[data-layer=fc2] [role=slider]")
    bar.focus()
    page.page.keyboard.press("Home")
    until(page, f"() => /^q4_0.*set by hand/.test(({told})())")
    settle(page)
    box = bar.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.page.mouse.move(box["x"] + 0.5 * box["width"], middle)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"], middle, steps=4)
    page.page.mouse.up()
    until(page, f"() => /^q8_0.*set by hand/.test(({told})())")
    settle(page)
    button(page, "Reset").click()
    until(page, f"() => !/set by hand/.test(({told})())")
    settle(page)


def test_a_quantized_file_is_opened_and_its_tensors_are_chosen(shared, lab):
    page = shared
    model = nq.zoo.load("lenet5-fashion")[0]
    found = nq.fit(nq.select(model, layers=["fc1.weight"]), "q4_0", progress=False)
    nq.export(found, lab.root / "lenet.gguf", model, progress=False)
    path = control(page, "quantized_file")
    path.fill(str(lab.root / "lenet.gguf"))
    path.press("Enter")
    page.find("[data-panel=file] tr:has-text('conv2.weight')").get_by_text("conv2.weight").click()
    tab(page, "file_codes")
    until(page, "() => /conv2.weight/.test(document.querySelector('[data-box=file_codes]').textContent)")
    tab(page, "file_tensors")
    until(page, "() => document.querySelector('[data-figure=file_tensors]')._fullData?.some(t => t.name === 'q4_0')")
    path = control(page, "quantized_file")
    path.fill("no.gguf")
    path.press("Enter")
    page.page.wait_for_selector(".nbquant-alert:not([hidden])")
    assert "no file" in error(page).inner_text()
    path.fill("")
    path.press("Enter")
    until(page, "() => document.querySelector('[data-tab=file_codes]').hidden")
    control(page, "method").select_option(label="uniform")
    settle(page)
    tab(page, "heatmap")


def test_both_themes_reach_the_figures(shared, tmp_path):
    page = shared
    colour = """() => getComputedStyle(document.querySelector('[data-figure=histogram] .xtick text')).fill"""
    light = page.page.evaluate(colour)
    page.screenshot(tmp_path / "light.png")
    page.set_theme("dark")
    until(page, f"light => ({colour})() !== light", light)
    page.screenshot(tmp_path / "dark.png")
    page.set_theme("light")


@pytest.mark.parametrize("viewport", VIEWPORTS)
def test_all_is_in_the_window_with_the_file_browser_open(shared, viewport):
    page = shared
    assert page.page.locator(".jp-DirListing").is_visible()
    try:
        assert_seen(page.page, viewport)
        assert_nothing_cut(page.page)
        if viewport == VIEWPORTS[0]:
            assert_accessible(page.page, ["pins", "weight", "breaks"])
    finally:
        page.page.set_viewport_size({"width": 1280, "height": 900})


def test_complaint_of_the_number_field_covers_no_number_and_dialogs_keep_the_keys(shared):
    page = shared
    field = page.find("[data-drives] input[type=number]")
    field.fill("100000")
    page.page.keyboard.press("Enter")
    note = page.page.locator(".nbquant-drive-note")
    assert "is kept" in note.inner_text()
    below = page.find(".nbquant-readout").bounding_box()
    assert note.bounding_box()["y"] > below["y"] + below["height"]
    slider = page.find("[data-drives] input[type=range]")
    slider.focus()
    page.page.keyboard.press("?")
    dialog = page.page.locator("dialog.nbquant-help")
    assert dialog.is_visible()
    for _ in range(3):
        page.page.keyboard.press("Tab")
        assert page.page.evaluate(
            "() => !document.hasFocus() || document.activeElement.closest('dialog, body') !== null"
        )
    page.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.page.evaluate("() => document.activeElement.matches('[data-drives] input[type=range]')")


def test_every_size_fits_without_scrolling_sideways(shared, tmp_path):
    page = shared
    for size in ("half a screen", "projection", "standard"):
        control(page, "size").select_option(label=size)
        settle(page)
        over = page.page.evaluate(
            """() => { const panel = document.querySelector('.nbquant-panel');
                       const parts = '.nbquant-box, .nbquant-drive-row, .nbquant-fact, .nbquant-bar';
                       return [...panel.querySelectorAll(parts)]
                           .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className); }"""
        )
        assert over == []
        page.screenshot(tmp_path / f"{size}.png")


@pytest.fixture
def run(shared):
    """Function that runs cells, the last of which shows an explorer, in the page and the kernel of ``shared``."""

    def run_(cells):
        shared.replace_cells(cells)
        shared.run_all()
        settle(shared)
        return shared

    yield run_
    shared.complaints.assert_none()


@pytest.fixture
def explorer(run):
    """A new explorer of LeNet-5, which tests of ``shared`` that follow go on with."""
    return run(LENET)


def test_every_control_changes_the_point_and_errors_show_in_the_view(explorer):
    page = explorer
    for label, value in [
        ("coding", "fixed length"),
        ("coding", "Huffman"),
        ("method", "ECSQ"),
        ("weighted", "none"),
        ("per_layer", "per layer"),
    ]:
        before = page.find(".nbquant-readout").inner_text()
        control(page, label).select_option(label=value)
        until(page, "old => document.querySelector('.nbquant-readout').innerText.trim() !== old.trim()", before)
        settle(page)
    assert error(page).count() == 0

    before = fact(page, "rate [bit/weight]")
    control(page, "estimator").select_option(label="exact (small nets)")
    page.page.wait_for_selector(".nbquant-alert:not([hidden])")
    assert "20,000" in error(page).first.inner_text()
    assert fact(page, "rate [bit/weight]") == before
    for _ in range(6):
        page.press(button(page, "Undo"), "Enter")
        page.wait_idle()
    settle(page)
    assert error(page).count() == 0
    assert control(page, "method").evaluate("menu => menu.selectedOptions[0].textContent") == "k-means"
    assert button(page, "Undo").is_disabled()


def test_accuracy_is_measured_on_demand_with_what_was_predicted(shared):
    page = shared
    assert page.page.locator("[data-tab=prediction]").is_hidden()
    button(page, "Measure accuracy").click()
    model, data = nq.zoo.load("lenet5-fashion")
    original = f"original {100 * nq.evaluate(model, data.test.take(300), progress=False).accuracy:.2f}"
    until(page, "text => document.querySelector('.nbquant-readout').textContent.includes(text)", original)
    tab(page, "prediction")
    page.page.wait_for_selector("[data-figure=prediction][data-revision]")
    settle(page)
    assert error(page).count() == 0


def test_slider_by_mouse_and_by_keys_changes_the_point(shared, tmp_path):
    page = shared
    slider, first = page.find(RATIO), ratio(page)
    page.drag(slider, by=(60, 0))
    settle(page)
    dragged = ratio(page)
    assert dragged > first

    ticks = int(shown(page)["ticks"])
    page.press(slider, "ArrowLeft", times=5)
    until(page, "ticks => Number(document.querySelector('.nbquant-panel').dataset.ticks) > ticks", ticks)
    settle(page)
    assert first < ratio(page) < dragged
    page.screenshot(tmp_path / "explorer.png")


def test_key_is_drawn_before_the_kernel_answers_even_while_a_cell_runs(shared):
    page = shared
    with cell_running(page):
        before = ratio(page)
        page.press(page.find(RATIO), "ArrowRight", times=12)  # to another number of levels
        until(
            page,
            "before => parseFloat(document.querySelector('[data-fact=\"compression ratio\"] output').textContent"
            ".replace('≈', '')) > before",
            before,
        )
    settle(page)
    assert ratio(page) > before


def test_pins_session_code_and_files(shared, tmp_path):
    page = shared
    button(page, "Pin").click()
    until(page, "() => [...document.querySelectorAll('button')].some(b => b.textContent === 'Go to')")
    tab(page, "save")
    page.press(page.find(RATIO), "ArrowRight", times=10)
    settle(page)
    here = ratio(page)
    with page.page.expect_download() as download:
        button(page, "Save session").click()
    session = tmp_path / "session.json"
    download.value.save_as(session)
    assert len(json.loads(session.read_text())["pins"]) == 1
    tab(page, "pins")
    page.find("button:text-is('Go to')").click()
    until(
        page,
        "here => parseFloat(document.querySelector('[data-fact=\"compression ratio\"] output').textContent"
        ".replace('≈', '')) < here",
        here,
    )
    settle(page)
    tab(page, "save")
    with page.page.expect_file_chooser() as chooser:
        page.find("button.nbquant-restore").click()
    chooser.value.set_files(session)
    until(
        page,
        "here => Math.abs(parseFloat(document.querySelector('[data-fact=\"compression ratio\"] output')"
        ".textContent.replace('≈', '')) - here) < 0.02",
        here,
    )
    settle(page)

    with page.page.expect_download() as download:
        button(page, "Download .nbq").click()
    download.value.save_as(tmp_path / "model.nbq")
    model, _ = nq.zoo.load("lenet5-fashion")
    stored = nq.load(tmp_path / "model.nbq")
    assert stored.quantized().compression_ratio == pytest.approx(here, abs=0.01)
    stored.apply(model)

    for form, start in (("PNG", b"\x89PNG"), ("SVG", b"<?xml"), ("CSV", b"from [weight]")):
        with page.page.expect_download() as download:
            page.find(f"[data-box=histogram] button:text-is('{form}')").click()  # seen once the pointer is over it
        download.value.save_as(tmp_path / form)
        assert (tmp_path / form).read_bytes().startswith(start)
    page.find("[data-box=histogram] button:text-is('Table')").click()
    until(page, "() => document.querySelectorAll('[data-box=histogram] table tbody tr').length > 100")

    button(page, "Copy as code").click()
    code = page.page.wait_for_selector("textarea.nbquant-code:visible").input_value()
    assert "nq.fit(selection, 'kmeans', ratio=" in code


def test_cancel_works_while_a_cell_runs(run):
    page = run([SLOW])
    before = fact(page, "measured accuracy")
    with cell_running(page):
        button(page, "Measure accuracy").click()
        button(page, "Cancel").wait_for()
        page.page.wait_for_timeout(300)
        page.press(button(page, "Cancel"), "Enter")
        until(page, "() => getComputedStyle(document.querySelector('.nbquant-work')).display === 'none'")
    assert fact(page, "measured accuracy") == before
    assert error(page).count() == 0


def wait_for_outcome(page, name):
    page.page.wait_for_function(
        "name => document.querySelector('.nbquant-outcome')?.textContent.includes(name)", arg=name
    )
    settle(page)


def top(page, name):
    """Where a figure begins, from the top of the explorer [px]."""
    return page.page.evaluate(
        """name => document.querySelector(`[data-figure=${name}]`).getBoundingClientRect().top
            - document.querySelector('.nbquant-explorer').getBoundingClientRect().top""",
        name,
    )


def test_network_is_fine_tuned_and_saved_by_keys_and_restored_from_the_file(run, tmp_path):
    page = run([LOAD, "nq.explore(model, data, path='first.nbq')"])
    before = top(page, "histogram")
    assert page.page.locator("[data-tab=finetuning]").is_hidden()
    tab(page, "save")
    page.press(button(page, "Fine-tune"), "Enter")
    tab(page, "finetuning")
    page.page.wait_for_selector("[data-figure=finetuning][data-revision]")
    settle(page)
    assert "2 steps" in figure(page, "finetuning").get_attribute("aria-label")
    assert "before fine-tuning" in page.find(".nbquant-readout").inner_text()

    path = control(page, "path")
    path.fill("small.nbq")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Space")
    wait_for_outcome(page, "small.nbq")
    assert error(page).count() == 0
    assert top(page, "histogram") == before  # nothing moved
    file = page.lab.root / "small.nbq"
    stored = nq.load(file)
    assert f"{file.stat().st_size:,} bytes" in page.find(".nbquant-outcome").inner_text()
    tab(page, "bits")
    assert page.find(".nbquant-ledger-total").inner_text() == f"total {file.stat().st_size:,} B"
    assert not (page.lab.root / "first.nbq").exists()

    model, data = nq.zoo.load("lenet5-fashion")
    restored = stored.apply(model)
    assert stored.quantized().finetuned["epochs"] == 1
    few = data.test.take(300)
    assert nq.evaluate(restored, few, progress=False).accuracy > 0.8
    page.press(button(page, "Measure accuracy"), "Enter")
    accuracy = f"{100 * nq.evaluate(restored, few, progress=False).accuracy:.2f} % of 300"
    page.page.wait_for_function(
        "text => document.querySelector('.nbquant-readout').textContent.includes(text)", arg=accuracy
    )
    page.screenshot(tmp_path / "saved.png")


def test_checkpoint_alone_has_curves_and_a_file_but_no_accuracy(run):
    page = run(
        [
            "import nbquant as nq\nfrom nbquant.models.zoo import CHECKPOINTS",
            "nq.explore(CHECKPOINTS / 'resnet8-fashion.safetensors', path='none/resnet8.nbq')",
        ]
    )
    tab(page, "save")
    for label in ("Measure accuracy", "Fine-tune"):
        assert button(page, label).is_disabled()
        assert "explore(model, data)" in button(page, label).get_attribute("title")
    assert control(page, "estimator").is_disabled()
    assert "h = 1" in page.find(".nbquant-readout").inner_text()
    before = ratio(page)
    page.press(page.find(RATIO), "ArrowRight", times=3)
    settle(page)
    assert ratio(page) > before

    tab(page, "save")
    button(page, "Save").click()
    page.page.wait_for_selector(".nbquant-alert:not([hidden])")
    assert "'none'" in page.find(".nbquant-error").inner_text()
    control(page, "path").fill("resnet8.nbq")
    button(page, "Save").click()
    wait_for_outcome(page, "resnet8.nbq")
    assert error(page).count() == 0
    restored = nq.load(page.lab.root / "resnet8.nbq").state_dict(progress=False)
    stored = nq.select(CHECKPOINTS / "resnet8-fashion.safetensors")
    assert all(restored[t.name].shape == t.weight.shape for t in stored)
    assert len(torch.cat([restored[t.name].reshape(-1) for t in stored]).unique()) < 100


def test_page_reloaded_and_second_view_show_what_is_now(explorer, tmp_path):
    page = explorer
    page.press(page.find(RATIO), "ArrowRight", times=8)
    settle(page)
    here = ratio(page)
    page.command("notebook:create-output-view")
    until(page, "() => document.querySelectorAll('.nbquant-panel').length === 2")
    until(
        page,
        "() => [...document.querySelectorAll('[data-fact=\"compression ratio\"] output')]"
        ".every((o, _, all) => o.textContent === all[0].textContent && o.textContent.includes('×'))",
    )
    until(page, "() => document.querySelectorAll('[data-figure=histogram][data-revision]').length === 2")
    page.command("docmanager:save")
    page.page.reload()
    page.page.wait_for_selector("[data-figure=histogram][data-revision]")
    until(page, "() => document.querySelector('.nbquant-panel')?.dataset.shownExact === 'true'")
    assert ratio(page) == here
    page.screenshot(tmp_path / "reloaded.png")
