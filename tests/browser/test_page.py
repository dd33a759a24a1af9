"""The explorer's page without a kernel, from the disk and with the network off, beside the state it was made from."""

from contextlib import contextmanager

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from torch import nn

from nbquant.widgets.view.explorer import explore
from nbquant.widgets.view.export import export_html
from nbquant.widgets.view.packing import FEW_LEVELS
from tests.widgets.samples import batches, sensitivities

from .lab import Complaints, new_page
from .layout import BOX, SLIDER, assert_accessible, assert_nothing_cut, assert_seen, tabs, wait_until_still

pytestmark = pytest.mark.browser

WAIT = 60


@pytest.fixture(scope="module")
def state():
    """Of a network large enough that curves have many points."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 5))
    explorer = explore(model, batches(), sensitivity=sensitivities(model), ratio=6.0, method="kmeans")
    assert explorer.state.wait(WAIT)
    return explorer


@pytest.fixture(scope="module")
def written(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    export_html(state, path, progress=False)
    return path


@contextmanager
def shown(path, browser):
    """The page in a tab; afterwards, complaints of the browser are failures."""
    tab, complaints = new_page(browser, (1280, 800), offline=True), Complaints()
    complaints.listen(tab)
    tab.goto(path.as_uri())
    tab.wait_for_selector("[data-figure=rate_distortion][data-revision]")
    yield tab
    complaints.assert_none()
    tab.context.close()


@pytest.fixture
def opened(written, browser):
    with shown(written, browser) as tab:
        yield tab


@pytest.fixture(scope="module")
def looked_at(written, browser):
    """For tests that look only, whatever the size of the window and the colours."""
    with shown(written, browser) as tab:
        yield tab


def now(tab):
    return tab.evaluate(
        """() => { const m = nbquantModel, { ratio, rate, loss, levels, centre } = m.get('now');
                   return { ratio, rate, loss, levels, centre: Array.from(centre), method: m.get('method'),
                            layers: m.get('layers'), driver: m.get('driver'), problem: m.get('problem') }; }"""
    )


def choose(tab, name, label):
    tab.locator(f"[data-setting={name}] select").select_option(label=label)


def drive(tab, name, value):
    tab.locator(".nbquant-drive-chooser").select_option(value=name)
    field = tab.locator(f"[data-driver={name}] input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    tab.wait_for_function(
        """([name, value]) => {
               const target = nbquantModel.target;
               return target.driver === name && target.value === value;
           }""",
        arg=[name, value],
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weighted": False},
        {"coding": "fixed"},
        {"coding": "arithmetic", "per_layer": True},
        {"pinned_zero": True},
        {"method": "uniform"},
    ],
)
def test_point_is_the_kernel_s(opened, state, settings):
    """k-means is solved on its curve alone; uniform to a step between two of its points, which are near each other."""
    labels = {"weighted": "none", "per_layer": "per layer", "method": "uniform"}
    labels |= {"coding": {"fixed": "fixed length", "arithmetic": "arithmetic"}.get(settings.get("coding", ""), "")}
    for name in settings:
        if name == "pinned_zero":
            opened.locator("[data-setting=pinned_zero] input").check()
        else:
            choose(opened, name, labels[name])
    session = state.state.session()
    try:
        for name, value in settings.items():
            setattr(state.state, name, value)
        for target in [("ratio", 7.0), ("rate", 5.0), ("levels", 9)]:
            drive(opened, *target)
            found = now(opened)
            assert found["problem"] == ""
            state.state.drive(*target)
            assert state.state.wait(WAIT)
            assert state.state.error == ""
            point = state.state.point
            if settings.get("method") == "uniform" or point.levels > FEW_LEVELS:
                assert found["ratio"] == pytest.approx(point.compression_ratio, rel=0.08)
                continue
            assert found["ratio"] == pytest.approx(point.compression_ratio, rel=1e-5)
            assert found["loss"] == pytest.approx(point.predicted_loss_increase, rel=1e-5)
            assert found["levels"] == point.levels
            codebook = point.clusters[state.state.group].codebook
            assert found["centre"] == pytest.approx(codebook, abs=abs(codebook).max() / 30_000)
    finally:
        state.state.restore(session)
        assert state.state.wait(WAIT)


def test_keys_curves_layers_pins_and_undo(opened):
    slider = opened.locator(SLIDER)
    first = now(opened)
    slider.focus()
    for _ in range(3):
        opened.keyboard.press("PageUp")
    opened.wait_for_function("ratio => nbquantModel.get('now').ratio > ratio", arg=first["ratio"])
    opened.keyboard.press("p")
    opened.keyboard.press("u")
    opened.wait_for_function("ratio => nbquantModel.get('now').ratio === ratio", arg=first["ratio"])
    opened.locator("[data-tab=pins]").click()
    assert opened.locator("[data-panel=pins] tbody tr").count() == 1
    opened.locator("[data-panel=pins] button:text-is('Go to')").click()
    opened.wait_for_function("ratio => nbquantModel.get('now').ratio > ratio", arg=first["ratio"])

    opened.keyboard.press("p")
    opened.keyboard.press("u")
    opened.wait_for_function("ratio => nbquantModel.get('now').ratio === ratio", arg=first["ratio"])
    choose(opened, "compared", f"A: kmeans {opened.evaluate('() => nbquantModel.pins[0].now.ratio.toFixed(1)')}×")
    difference = opened.locator("[data-versus=bytes]").inner_text()
    expected = opened.evaluate(
        """() => { const bits = ({ ledger }) => Object.values(ledger).reduce((sum, each) => sum + each, 0);
                   return Math.round((bits(nbquantModel.get('now')) - bits(nbquantModel.pins[0].now)) / 8); }"""
    )
    assert difference.startswith(f"+{expected:,}")
    assert opened.evaluate("() => nbquantModel.get('ghosts')[0].label") == "A"
    choose(opened, "compared", "no pin")
    assert opened.locator("[data-versus]").count() == 0

    opened.locator("[data-panel=side] tr[data-key='2'] input").click()
    opened.wait_for_function("() => nbquantModel.get('layers').join() === '2'")
    opened.locator("[data-tab=heatmap]").click()
    opened.wait_for_function("() => document.querySelector('[data-box=heatmap]').innerText.includes('2.weight')")
    assert opened.locator("[data-panel=side] thead input").evaluate("box => box.indeterminate")
    opened.locator("[data-panel=side] tr[data-key='2'] input").click()
    opened.wait_for_function("() => nbquantModel.get('layers').join() === '0,2'")


def test_drag_over_the_curves_moves_the_target_and_a_click_chooses_one(opened):
    place = opened.evaluate(
        """() => { const node = document.querySelector('[data-figure=rate_distortion]');
                   const { xaxis, yaxis } = node._fullLayout, { x, y } = node.getBoundingClientRect();
                   const at = share => x + xaxis._offset + share * xaxis._length;
                   return [at(0.3), at(0.6), y + yaxis._offset + 0.5 * yaxis._length]; }"""
    )
    opened.mouse.move(place[0], place[2])
    opened.mouse.down()
    opened.mouse.move(place[1], place[2], steps=5)
    opened.mouse.up()
    opened.wait_for_function("() => nbquantModel.get('now').serial > 0")
    opened.wait_for_timeout(100)
    asked = opened.evaluate("() => nbquantModel.get('drive').value")
    line = opened.evaluate(
        """ratio => { const { xaxis } = document.querySelector('[data-figure=rate_distortion]')._fullLayout;
                      return (Math.log10(ratio) - xaxis.range[0]) / (xaxis.range[1] - xaxis.range[0]); }""",
        asked,
    )
    assert line == pytest.approx(0.6, abs=0.02)
    assert opened.evaluate("() => nbquantModel.get('clicked').serial ?? 0") == 0  # a drag is no click
    spot = opened.evaluate(
        """() => { const node = document.querySelector('[data-figure=rate_distortion]');
                   const trace = node._fullData.find(t => t.name === 'uniform');
                   const { xaxis, yaxis } = node._fullLayout, i = Math.floor(trace.x.length / 2);
                   const { x, y } = node.getBoundingClientRect();
                   return [x + xaxis._offset + xaxis.d2p(trace.x[i]), y + yaxis._offset + yaxis.d2p(trace.y[i])]; }"""
    )
    opened.mouse.move(spot[0] - 3, spot[1])
    opened.mouse.move(*spot, steps=3)
    opened.wait_for_selector("[data-figure=rate_distortion] .hovertext")
    opened.mouse.click(*spot)
    opened.wait_for_function("() => nbquantModel.get('method') === 'uniform'")


def test_what_needs_weights_is_off_and_says_how(opened):
    button = opened.locator("[data-action=measure]")
    assert button.is_disabled()
    assert "nq.explore(model, data)" in button.get_attribute("title")
    opened.locator("[data-box=histogram] canvas.nbquant-overlay").focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Shift+ArrowRight")
    alert = opened.locator(".nbquant-alert:not([hidden])")
    alert.wait_for()
    assert "has no kernel" in alert.inner_text()


SHARE = """() => { const { _fullData } = document.querySelector('[data-figure=histogram]');
                  const heights = Array.from(_fullData.find(t => t.type === 'bar').y);
                  return heights[Math.floor(heights.length * 0.3)] / Math.max(...heights); }"""


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_bars_morph_and_lambda_plays_but_for_less_motion(opened, motion):
    opened.emulate_media(reduced_motion=motion)
    opened.evaluate(
        f"""() => {{ window.seen = new Set(); const frame = () => {{ window.seen.add(({SHARE})()); window.looking
                     && requestAnimationFrame(frame); }}; window.looking = true; frame(); }}"""
    )
    opened.locator("[data-tab=settings]").click()
    choose(opened, "bars", "Σh, the loss's mass")
    opened.wait_for_timeout(700)
    seen = opened.evaluate("() => { window.looking = false; return window.seen.size; }")
    assert seen == 2 if motion == "reduce" else seen > 3

    choose(opened, "method", "ECSQ")
    opened.locator(".nbquant-drive-chooser").select_option(value="lmbda")
    opened.wait_for_function("() => nbquantModel.get('driver') === 'lmbda'")
    button = opened.locator(".nbquant-play")
    before = opened.evaluate("() => nbquantModel.get('now').levels")
    lambdas = []
    button.click()
    for _ in range(3):
        opened.wait_for_timeout(150)
        lambdas.append(opened.evaluate("() => nbquantModel.get('now').value"))
    if motion == "reduce":
        assert len(set(lambdas)) == 1  # a step a press
        return
    assert lambdas == sorted(set(lambdas))
    assert opened.evaluate("() => nbquantModel.get('now').levels") > before  # from λ = 0, where centres are many
    button.click()
    opened.wait_for_timeout(100)
    stopped = opened.evaluate("() => nbquantModel.get('now').value")
    opened.wait_for_timeout(200)
    assert opened.evaluate("() => nbquantModel.get('now').value") == stopped


@pytest.mark.parametrize("viewport", [(1280, 800), (1440, 900), (1920, 1080), (1024, 640)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_seen_without_scrolling_and_no_text_is_cut(looked_at, viewport, scheme, tmp_path):
    looked_at.emulate_media(color_scheme=scheme)
    looked_at.set_viewport_size({"width": viewport[0], "height": viewport[1]})
    wait_until_still(looked_at)
    looked_at.locator(f"[data-tab={tabs(looked_at)[0]}]").click()  # which tabs there are depends on the width
    assert_seen(looked_at, viewport)
    assert_nothing_cut(looked_at)
    looked_at.screenshot(path=tmp_path / f"{viewport[0]}-{scheme}.png")


def test_on_a_phone_figures_stand_below_each_other_and_nothing_is_cut(looked_at, tmp_path):
    looked_at.emulate_media(color_scheme="light")
    looked_at.set_viewport_size({"width": 390, "height": 844})
    wait_until_still(looked_at)
    assert looked_at.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [
        looked_at.locator(f"[data-figure={kind}]").first.evaluate(BOX) for kind in ("histogram", "rate_distortion")
    ]
    assert all(box["width"] > 340 and box["height"] > 150 for box in boxes)
    assert boxes[0]["bottom"] <= boxes[1]["top"]
    looked_at.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert_nothing_cut(looked_at)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_assistive_technology(looked_at, scheme):
    """By axe-core: names, roles, contrast of at least 4.5 and more, on every tab."""
    looked_at.emulate_media(color_scheme=scheme)
    looked_at.wait_for_timeout(300)
    assert len(tabs(looked_at)) >= 5
    assert_accessible(looked_at, tabs(looked_at))
    found = Axe().run(looked_at)  # the page around it
    assert found.violations_count == 0, found.generate_report()


def test_slider_is_near_for_the_keyboard_and_shortcuts_are_told(opened):
    opened.evaluate("document.activeElement.blur()")
    reached = []
    while len(reached) < 8 and not any(reached):
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate(f"document.activeElement.matches('{SLIDER}')"))
    assert any(reached), "the slider is further away than 8 Tab presses"
    opened.keyboard.press("?")
    assert opened.locator("dialog.nbquant-help").is_visible()
    opened.keyboard.press("Escape")
    assert not opened.locator("dialog.nbquant-help").is_visible()
    opened.locator(".nbquant-skip").focus()
    opened.keyboard.press("Enter")
    assert opened.evaluate(f"document.activeElement.matches('{SLIDER}')")
