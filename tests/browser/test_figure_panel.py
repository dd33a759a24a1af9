"""The panel's front end in Chromium, without a kernel: a stand-in takes the part of the widget's model."""

import base64

import numpy as np
import pytest
from anywidget import AnyWidget
from ipywidgets.widgets.widget import _remove_buffers

from nbquant.views import theme
from nbquant.widgets.front.figure_panel import FigurePanel
from nbquant.widgets.panels.panels import arguments

from .lab import new_page

pytestmark = pytest.mark.browser


def line(*y, **layout):
    trace = {"type": "scatter", "x": np.arange(len(y)), "y": np.array(y, dtype=np.float64)}
    return theme.figure("Line", "", [trace], **layout)


@pytest.fixture
def panel():
    panel = FigurePanel(*arguments())
    yield panel
    panel.close()


PAGE = """<!doctype html><meta charset="utf-8">
<body>
<script>
class Model {
  constructor(state) { this.state = state; this.listeners = {}; this.saved = 0; this.sent = []; }
  get(key) { return this.state[key]; }
  set(key, value) { this.state[key] = value; for (const f of this.listeners["change:" + key] ?? []) f(); }
  on(event, f) { (this.listeners[event] ??= new Set()).add(f); }
  off(event, f) { this.listeners[event]?.delete(f); }
  save_changes() { this.saved += 1; }
  send(message) { this.sent.push(message); }
  hear(message, buffers = []) { for (const f of this.listeners["msg:custom"] ?? []) f(message, buffers); }
  get listening() { return Object.values(this.listeners).reduce((n, set) => n + set.size, 0); }
}
function withBytes(state, paths, buffers) {
  paths.forEach((path, i) => {
    const bytes = Uint8Array.from(atob(buffers[i]), (c) => c.charCodeAt(0));
    const shifted = new Uint8Array(bytes.length + 3);  // as in a message, at an offset no typed array could start at
    shifted.set(bytes, 3);
    let at = state;
    for (const step of path.slice(0, -1)) at = at[step];
    at[path.at(-1)] = new DataView(shifted.buffer, 3);
  });
  return state;
}
const put = (state, paths, buffers) => {
  for (const [key, value] of Object.entries(withBytes(state, paths, buffers))) model.set(key, value);
};
async function load(esm, css) {
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  window.define = Object.assign(() => { window.metRequireJS = true; }, { amd: {} });
  window.Plotly = "someone else's";
  const parts = "\\nexport const parts = { findPoint, cellsOf };";
  const module = await import(URL.createObjectURL(new Blob([esm + parts], { type: "text/javascript" })));
  [window.widget, window.parts] = [module.default, module.parts];
}
function start(state, paths, buffers) {
  document.body.innerHTML = '<div id="one"></div><div id="two"></div>';
  document.body.style = "--jp-ui-font-color1: rgb(1, 2, 3)";
  document.body.dataset.jpThemeLight = "true";
  window.model = new Model(withBytes(state, paths, buffers));
}
function read(canvas) {  // a copy: reading the panel's own would make Chromium complain
  const size = { width: canvas.width, height: canvas.height };
  const context = Object.assign(document.createElement("canvas"), size).getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return context;
}
const view = (id) => { window["close_" + id] = widget.render({ model, el: document.getElementById(id) }); };
</script>"""


class Page:
    """The front end of a panel in a page, and what the page complained about."""

    def __init__(self, tab):
        self.page, self.panel, self.complaints, self.requests = tab, None, [], []
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.set_content(PAGE)
        panel = FigurePanel(*arguments())
        tab.evaluate("([esm, css]) => load(esm, css)", [panel._esm, panel._css])

    def start(self, panel):
        self.panel = panel
        self.page.set_viewport_size({"width": 1280, "height": 800})
        own = {k for k in panel.keys if not k.startswith("_")} - {*AnyWidget.class_trait_names()}
        self.page.evaluate("(all) => start(...all)", self.encoded(*own, "_roles", "_palette"))
        self.view()

    def view(self, element="one"):
        self.page.evaluate("(id) => view(id)", element)

    def encoded(self, *names):
        state, paths, buffers = _remove_buffers({name: getattr(self.panel, name) for name in names})
        return [state, paths, [base64.b64encode(b).decode() for b in buffers]]

    def send(self, *names):
        self.page.evaluate("(all) => put(...all)", self.encoded(*names))

    def show(self, name, figure):
        self.panel.show(name, figure)
        self.send(name)
        self.drawn(name)

    def drawn(self, name, element="one"):
        selector = f'#{element} [data-figure={name}][data-revision="{self.panel.revision(name)}"]'
        self.page.wait_for_selector(selector)

    def get(self, expression, name="histogram", element="one"):
        selector = f"#{element} [data-figure={name}]"
        return self.page.evaluate(
            f"(s) => {{ const node = document.querySelector(s); return {expression}; }}", selector
        )


@pytest.fixture(scope="module")
def chromium(browser):
    page = new_page(browser, (1280, 720))
    yield Page(page)
    page.context.close()


@pytest.fixture
def page(chromium, panel):
    chromium.start(panel)
    yield chromium
    chromium.page.evaluate("close_one()")
    complaints = chromium.complaints.copy()
    chromium.complaints.clear()
    assert complaints == []
    assert all(url.startswith(("blob:", "about:", "data:")) for url in chromium.requests)


def test_page_draws_arrays_in_place_and_describes_the_figure(page, panel):
    page.show("histogram", line(1, 2, 3))
    svg = "window.svg = node.querySelector('.main-svg')"
    page.get(f"({svg}, 0)")
    page.show("histogram", line(4, 5, 6, 7))
    assert page.get("Array.from(node._fullData[0].y)") == [4, 5, 6, 7]
    assert page.get("window.svg === node.querySelector('.main-svg')")
    page.page.evaluate("model.set('descriptions', { histogram: 'Most weights are small.' })")
    assert page.get("node.getAttribute('role') + ': ' + node.ariaLabel") == "figure: Most weights are small."
    assert page.get("node.ariaLabel", name="rate_distortion") == "rate distortion"


def test_page_s_own_globals_are_left_alone(page):
    assert page.page.evaluate("[window.Plotly, window.metRequireJS, typeof moduleName]") == [
        "someone else's",
        None,
        "undefined",
    ]


def test_no_button_sends_the_figure_anywhere(page):
    page.show("histogram", line(1, 2, 3))
    titles = page.get("Array.from(node.querySelectorAll('.modebar-btn'), (button) => button.dataset.title)")
    assert sorted(titles) == ["Pan", "Reset axes", "Zoom"]


def test_states_faster_than_frames_are_drawn_once_the_newest_last(page, panel):
    page.show("histogram", line(0))
    encoded = []
    for y in range(1, 31):
        panel.show("histogram", line(y))
        encoded.append(page.encoded("histogram"))
    page.page.evaluate("(all) => all.forEach((a) => put(...a))", encoded)
    page.drawn("histogram")
    assert page.get("Array.from(node._fullData[0].y)") == [30]
    assert int(page.get("node.dataset.draws")) <= 3


def test_zoom_outlives_an_update_but_not_another_subject(page):
    page.show("histogram", line(1, 2, 3, uirevision="fc1", xaxis={"range": [0, 2]}))
    box = page.page.locator("#one [data-figure=histogram] .nsewdrag").first.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20, steps=4)
    page.page.mouse.up()
    page.page.wait_for_function("document.querySelector('[data-figure=histogram]').layout.xaxis.range[1] < 1.5")
    page.show("histogram", line(1, 2, 4, uirevision="fc1", xaxis={"range": [0, 2]}))
    assert page.get("node._fullLayout.xaxis.range") == pytest.approx([0.5, 1], abs=0.05)
    page.show("histogram", line(1, 2, 4, uirevision="fc2", xaxis={"range": [0, 2]}))
    assert page.get("node._fullLayout.xaxis.range") == [0, 2]


def test_theme_colours_are_read_and_followed(page):
    page.show("histogram", line(1, 2, 3, xaxis=theme.axis("weight")))
    assert page.get("node._fullLayout.font.color") == "rgba(1, 2, 3, 1)"
    page.page.evaluate("""() => {
        document.body.style.setProperty("--jp-ui-font-color1", "rgba(255, 255, 255, 0.8)");
        document.body.dataset.jpThemeLight = "false";
    }""")
    font = "document.querySelector('[data-figure=histogram]')._fullLayout.font.color"
    page.page.wait_for_function(f"{font} === 'rgba(255, 255, 255, 0.8)'")


def test_figures_follow_the_panel_s_width(page):
    page.show("histogram", line(1, 2, 3))
    page.show("heatmap", line(1, 2, 3))
    width = "node._fullLayout.width"
    assert page.get(width) > 1.9 * page.get(width, "heatmap")
    page.page.set_viewport_size({"width": 600, "height": 800})
    page.page.wait_for_function("document.querySelector('[data-figure=heatmap]')._fullLayout.width < 601")
    page.page.wait_for_function("document.querySelector('[data-figure=histogram]')._fullLayout.width < 601")
    assert page.get(width) == page.get(width, "heatmap") > 500


def test_a_late_figure_takes_no_room_before_it_is_shown_and_then_the_width_below_the_others(page):
    page.show("histogram", line(1, 2, 3))
    page.show("heatmap", line(1, 2, 3))
    height = "document.getElementById('one').clientHeight"
    before = page.page.evaluate(height)
    assert page.get("node.clientHeight", "finetuning") == 0
    page.show("finetuning", line(3, 2, 1))
    assert page.page.evaluate(height) > before + 200
    assert page.get("node._fullLayout.width", "finetuning") == page.get("node._fullLayout.width")
    top = "node.getBoundingClientRect().top"
    assert page.get(top, "finetuning") > page.get(top, "heatmap")


def test_a_hidden_panel_draws_its_newest_state_when_it_appears(page, panel):
    page.page.evaluate("document.getElementById('one').style.display = 'none'")
    panel.show("histogram", line(1, 2))
    page.send("histogram")
    page.page.wait_for_timeout(200)
    assert page.get("node.dataset.draws") == "0"
    page.page.evaluate("document.getElementById('one').style.display = ''")
    page.drawn("histogram")


def test_a_late_view_shows_the_newest_state_and_a_closed_one_leaves_nothing(page, panel):
    page.show("histogram", line(1, 2, 3))
    page.show("histogram", line(4, 5, 6))
    before = page.page.evaluate("model.listening")
    page.view("two")
    page.drawn("histogram", "two")
    assert page.get("Array.from(node._fullData[0].y)", element="two") == [4, 5, 6]
    page.page.evaluate("close_two()")
    assert page.page.evaluate("[model.listening, document.getElementById('two').children.length]") == [before, 0]
    page.show("histogram", line(7, 8, 9))
    assert page.get("Array.from(node._fullData[0].y)") == [7, 8, 9]


def test_a_click_tells_what_was_clicked(page):
    page.show("histogram", line(5, 5, 5, xaxis={"range": [0, 2]}, yaxis={"range": [0, 10]}))
    box = page.page.locator("#one [data-figure=histogram] .nsewdrag").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x - 3, y)
    page.page.mouse.move(x, y, steps=3)
    page.page.wait_for_selector("#one .hovertext")
    page.page.mouse.click(x, y)
    page.page.wait_for_function("model.saved === 1")
    expected = {"figure": "histogram", "curve": 0, "point": 1, "x": 1, "y": 5, "serial": 1}
    assert page.page.evaluate("model.get('clicked')") == expected


def test_a_figure_that_cannot_be_drawn_leaves_the_last_picture_and_the_others(page, panel):
    page.show("histogram", line(1, 2, 3))
    panel.show("heatmap", line(4, 5))
    broken = "{ data: [], layout: { get font() { throw Error('bad') } }, revision: 99 }"
    page.page.evaluate(f"model.set('histogram', {broken})")
    page.send("heatmap")
    page.drawn("heatmap")
    page.page.wait_for_selector("#one [data-figure=histogram][data-error]")
    assert page.get("Array.from(node._fullData[0].y)") == [1, 2, 3]
    assert any("cannot draw histogram" in text for text in page.complaints)
    page.complaints.clear()


# What lives: sliders, numbers, marks.

RATE = np.array([1.0, 2.0, 2.5, 3.0, 4.0])
LOSS = np.array([0.5, 0.1, 0.2, 0.1, 0.01])
LEVELS = np.array([2.0, 4.0, 5.0, 8.0, 16.0])


def table(method="kmeans", parameter="levels", value=LEVELS, thresholds=True):
    """A curve of five points, whose centres lie evenly from −1 to 1."""
    centre = [np.linspace(-1, 1, int(k)) for k in LEVELS]
    ends = [np.append((c[1:] + c[:-1]) / 2, np.nan) for c in centre]
    return {
        "method": method,
        "weighted": True,
        "coding": "huffman",
        "parameter": parameter,
        "mean_h": 2.0,
        "source_bits": 32_000.0,
        "weights": 1000.0,
        "ratio": 32 / RATE,
        "rate": RATE,
        "loss": LOSS,
        "value": value,
        "levels": LEVELS,
        "ledger": {"payload": 900 * RATE, "codebook": 100 * RATE},
        "start": np.cumsum([0, *LEVELS]).astype(np.int32),
        "centre": np.concatenate(centre).astype(np.float32),
        "count": np.concatenate([np.full(len(c), 1000 / len(c)) for c in centre]).astype(np.float32),
        "length": np.concatenate([np.full(len(c), np.log2(len(c))) for c in centre]).astype(np.float32),
        "threshold": np.concatenate(ends).astype(np.float32) if thresholds else None,
    }


def point(i, table, *, serial=0, driver="ratio", target=None, **other):
    """What the kernel says of a point of the table."""
    own = slice(table["start"][i], table["start"][i + 1])
    numbers = {name: float(table[name][i]) for name in ("value", "ratio", "rate", "loss", "levels")}
    ledger = {part: float(bits[i]) for part, bits in table["ledger"].items()}
    arrays = {name: table[name][own] for name in ("centre", "count", "length")}
    ends = table["threshold"]
    return {
        **{name: table[name] for name in ("method", "weighted", "parameter", "mean_h")},
        **numbers,
        **arrays,
        "ledger": ledger,
        "threshold": None if ends is None else ends[own][:-1],
        "lmbda": numbers["value"] if table["parameter"] == "lmbda" else 0.0,
        "codeword": None,
        "serial": serial,
        "driver": driver,
        "target": numbers["ratio"] if target is None else target,
        "exact": True,
        "by_hand": False,
        "note": "",
        **other,
    }


@pytest.fixture
def live(page, panel):
    """The page with a curve, whose third point but one is chosen."""
    panel.table = table()
    panel.now = point(3, panel_table(panel))
    page.send("table", "now")
    page.show("histogram", bars())
    page.page.wait_for_selector("[data-shown=now]")
    return page


def panel_table(panel):
    return table(panel.table["method"], panel.table["parameter"])


def bars(**layout):
    trace = {"type": "bar", "x": np.linspace(-1.1, 1.1, 23), "y": np.ones(23), "name": "weights"}
    axes = {"xaxis": {"range": [-1.2, 1.2]}, "yaxis": {"range": [0, 1.5]}}
    return theme.figure("Weights", "", [trace], **axes, margin={"l": 64, "r": 64, "t": 56, "b": 44}, **layout)


def answer(page, **now):
    """The kernel's answer arrives."""
    page.panel.now = {**page.panel.now, **now}
    page.send("now")
    frames(page)


def frames(page):
    page.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def root(page, name):
    return page.page.locator("#one .nbquant-panel").get_attribute(f"data-{name}")


def slider(page, driver, kind="range"):
    return page.page.locator(f"#one [data-driver={driver}] input[type={kind}]")


def fact(page, label):
    found = page.page.locator(f'#one [data-fact="{label}"]')
    about = found.locator(".nbquant-about").evaluate("(e) => getComputedStyle(e).visibility")
    return found.locator("output > :last-child").inner_text(), about == "visible"


def get(page, trait):
    return page.page.evaluate("(name) => model.get(name)", trait)


def spot(page, weight, share, name="histogram"):
    """Where on the page a weight and a share of the plot's height are."""
    return page.get(
        f"""(() => {{
            const [box, {{ xaxis, yaxis }}] = [node.getBoundingClientRect(), node._fullLayout];
            const [a, b] = xaxis.range;
            return [box.x + xaxis._offset + ({weight} - a) / (b - a) * xaxis._length,
                    box.y + yaxis._offset + (1 - {share}) * yaxis._length];
        }})()""",
        name,
    )


def dot(page, centre, bits, longest=3):
    return spot(page, centre, bits / (1.12 * longest))


def ink(page, name="histogram"):
    """Whether anything is drawn over a figure."""
    return page.page.evaluate(
        """(name) => {
            const canvas = document.querySelector(`#one [data-box=${name}] canvas`);
            if (!canvas.width || !canvas.height) return 0;
            const { data } = read(canvas).getImageData(0, 0, canvas.width, canvas.height);
            let sum = 0;
            for (let i = 3; i < data.length; i += 4) sum += data[i];
            return sum;
        }""",
        name,
    )


def test_without_a_curve_the_panel_just_holds_figures(page):
    page.show("histogram", line(1, 2, 3))
    hidden = "(s) => getComputedStyle(document.querySelector(s)).display"
    sections = (".nbquant-drive", ".nbquant-readout", ".nbquant-ledger-section")
    assert [page.page.evaluate(hidden, s) for s in sections] == ["none"] * 3
    assert ink(page) == 0


@pytest.mark.parametrize("method", ["kmeans", "uniform"])
def test_front_end_looks_up_what_the_analysis_does(page, method):
    from nbquant.analysis.live import LiveTable

    rng = np.random.default_rng(0)
    size = 40
    arrays = {name: np.round(rng.uniform(0.5, 9, size), 1) for name in ("ratio", "rate", "loss", "levels", "value")}
    parameter = {"kmeans": "levels", "uniform": "step"}[method]
    if method == "kmeans":
        arrays["value"] = arrays["levels"]
    other = {name: np.zeros(0, np.float32) for name in ("centre", "count", "length")}
    known = LiveTable(
        method, True, "huffman", parameter, 1.0, 1, 1, **arrays, ledger={}, start=np.zeros(1, np.int32), threshold=None,
        **other,
    )  # fmt: skip
    drivers = ["ratio", "rate", "levels", *(["step"] if method == "uniform" else [])]
    asked = [(d, float(v)) for d in drivers for v in (0.1, 20.0, *np.round(rng.uniform(0.4, 9.5, 40), 1))]
    plain = {name: list(map(float, column)) for name, column in arrays.items()} | {"parameter": parameter}
    found = page.page.evaluate("([t, all]) => all.map(([d, v]) => parts.findPoint(t, d, v))", [plain, asked])
    assert found == [known.find(d, v) for d, v in asked]
    assert -1 in found
    assert len(set(found)) > 5


def test_cells_of_ecsq_are_those_of_least_cost_at_mean_h(page):
    rng = np.random.default_rng(1)
    for k, lmbda in [(1, 0.1), (2, 0.5), (9, 0.0), (9, 0.02), (30, 0.05), (30, 3.0)]:
        centre, length = np.sort(rng.normal(size=k)), rng.integers(1, 12, k)
        asked = {"centre": list(centre), "length": list(map(float, length)), "threshold": None}
        cells = page.page.evaluate("(p) => parts.cellsOf(p)", asked | {"mean_h": 0.7, "lmbda": lmbda})
        weight = np.linspace(-4, 4, 1001)
        cost = 0.35 * (weight[:, None] - centre) ** 2 + lmbda * length
        least = np.array(cells["index"])[np.searchsorted(cells["boundary"], weight)]
        np.testing.assert_array_equal(least, cost.argmin(1))


def test_an_arrow_key_moves_one_step_and_the_preview_is_there_in_the_same_frame(live):
    assert float(slider(live, "ratio", "number").input_value()) == pytest.approx(32 / 3, abs=0.01)
    slider(live, "ratio").press("ArrowRight")
    frames(live)
    assert get(live, "drive") == {"driver": "ratio", "value": pytest.approx(32 / 3 * 10**0.005, rel=1e-3), "serial": 1}
    # Of the points with a ratio of 10.8 or more the second has the least loss.
    assert (root(live, "shown"), root(live, "shown-exact"), root(live, "ticks")) == ("preview", "false", "1")
    assert fact(live, "compression ratio") == ("16.00×", True)
    assert fact(live, "levels")[0] == "4"
    assert slider(live, "levels").input_value() == "4"
    assert slider(live, "rate", "number").input_value() == "2.000"
    slider(live, "ratio").press("PageDown")
    frames(live)
    assert get(live, "drive")["value"] == pytest.approx(32 / 3 * 10**-0.045, rel=1e-3)
    slider(live, "levels").press("ArrowRight")
    frames(live)
    assert get(live, "drive") == {"driver": "levels", "value": 5, "serial": 3}
    assert live.page.locator("#one [data-drives]").get_attribute("data-driver") == "levels"
    slider(live, "levels").press("End")
    frames(live)
    assert (get(live, "drive")["value"], fact(live, "levels")[0]) == (16, "16")


def test_many_wishes_in_a_frame_are_sent_once(live):
    before = live.page.evaluate("model.saved")
    live.page.evaluate("""() => {
        const range = document.querySelector("[data-driver=ratio] input[type=range]");
        for (const v of [2.1, 2.2, 2.3]) { range.value = v; range.dispatchEvent(new Event("input")); }
    }""")
    frames(live)
    assert live.page.evaluate("model.saved") == before + 1
    assert get(live, "drive") == {"driver": "ratio", "value": pytest.approx(np.exp(2.3), rel=1e-3), "serial": 1}


def test_the_kernel_s_answer_takes_the_preview_s_place_unless_it_is_older_than_the_last_wish(live):
    for _ in range(2):
        slider(live, "ratio").press("ArrowRight")
        frames(live)
    answer(live, serial=1, ratio=11.1, exact=False)
    assert (root(live, "shown"), fact(live, "compression ratio")[0]) == ("preview", "16.00×")
    answer(live, serial=2, ratio=11.2, exact=False)
    assert (root(live, "shown"), root(live, "shown-serial")) == ("now", "2")
    assert fact(live, "compression ratio") == ("11.20×", True)
    answer(live, serial=2, ratio=11.25, exact=True)
    assert (root(live, "shown-exact"), fact(live, "compression ratio")) == ("true", ("11.25×", False))


def test_a_number_that_cannot_be_keeps_the_last_and_says_so(live):
    number = slider(live, "ratio", "number")
    note = live.page.locator("#one .nbquant-drive-note")
    number.fill("1000")
    number.press("Enter")
    assert note.inner_text() == "Compression ratio reaches 8.00 to 32.00, but 1000 was typed; 10.67 is kept."
    assert number.input_value() == "10.67"
    number.fill("")
    number.press("Enter")
    assert "a number is required; 10.67 is kept" in note.inner_text()
    assert get(live, "drive") == {}
    number.fill("12.5")
    number.press("Enter")
    frames(live)
    assert (get(live, "drive")["value"], note.inner_text()) == (12.5, "")


def test_sliders_have_labels_values_in_words_and_a_visible_focus(live):
    ratio = slider(live, "ratio")
    assert (ratio.get_attribute("aria-label"), slider(live, "rate", "number").get_attribute("aria-label")) == (
        "Compression ratio",
        "Rate [bit/weight]",
    )
    assert ratio.evaluate("(e) => e.ariaValueText") == "10.67 times smaller, drives"
    assert slider(live, "levels").evaluate("(e) => e.ariaValueText") == "8 levels"
    live.page.keyboard.press("Tab")
    assert live.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_what_is_chosen_is_read_out_when_it_rests(live):
    said = live.page.locator("#one .nbquant-said")
    live.page.wait_for_function("document.querySelector('.nbquant-said').textContent.startsWith('10.67 times')")
    slider(live, "ratio").press("ArrowRight")
    frames(live)
    assert said.text_content().startswith("10.67 times")
    live.page.wait_for_function("document.querySelector('.nbquant-said').textContent.startsWith('about 16.00 times')")


def test_another_method_brings_its_own_parameter_and_bounds(live, panel):
    lmbda = np.geomspace(1, 1e-4, 5)
    panel.table = table("ecsq", "lmbda", lmbda, thresholds=False)
    panel.now = point(3, table("ecsq", "lmbda", lmbda, thresholds=False), serial=0)
    live.send("table", "now")
    frames(live)
    assert fact(live, "levels")[0] == "8"
    assert slider(live, "lmbda", "number").input_value() == "0.001"
    slider(live, "lmbda").press("Home")
    frames(live)
    assert get(live, "drive") == {"driver": "lmbda", "value": 1e-4, "serial": 1}
    assert fact(live, "levels")[0] == "16"
    panel.table = table()
    live.send("table")
    frames(live)
    assert slider(live, "lmbda").count() == 0


def test_further_facts_stand_after_the_point_s(live, panel):
    panel.facts = [{"label": "measured accuracy", "value": "90.7 %", "note": "original 90.8 %"}]
    live.send("facts")
    labels = live.page.locator("#one .nbquant-fact b").all_inner_texts()
    assert labels[-2:] == ["predicted loss increase", "measured accuracy"]
    assert fact(live, "measured accuracy") == ("90.7 %", False)


def test_the_ledger_follows_in_bytes_and_shares(live):
    bar = live.page.locator("#one .nbquant-ledger-bar [data-part=payload]")
    widths = live.page.evaluate(
        "[...document.querySelectorAll('#one .nbquant-ledger-bar > div')].map((e) => e.getBoundingClientRect().width)"
    )
    assert widths[0] / sum(widths) == pytest.approx(0.9, abs=0.01)
    assert bar.evaluate("(e) => getComputedStyle(e).backgroundColor") == "rgb(0, 114, 178)"
    legend = live.page.locator("#one .nbquant-ledger-legend li:not([hidden])")
    assert legend.all_inner_texts() == ["payload 338 B 90.0 %", "codebook 38 B 10.0 %", "total 375 B"]
    answer(live, ledger={"payload": 8000, "codebook": 0, "position_payload": 8000})
    assert legend.all_inner_texts() == [
        "payload 1,000 B 50.0 %",
        "position payload 1,000 B 50.0 %",
        "total 2,000 B",
    ]


def test_pointer_tells_weight_cell_and_codeword(live):
    answer(live, codeword=[f"{i:03b}" for i in range(8)])
    live.page.mouse.move(*spot(live, 0.5, 0.2))
    told = live.page.locator("#one [data-box=histogram] .nbquant-told")
    text = told.inner_text()
    assert "centre 6 of 8 at 0.4286: 125 weights (12.5 %), codeword 101 (3 bit)" in text
    assert float(text.split()[1]) == pytest.approx(0.5, abs=0.01)
    live.page.mouse.move(2, 2)
    assert told.inner_text() == ""


def test_a_centre_is_dragged_and_released(live):
    start, end = dot(live, 3 / 7, 3), dot(live, 0.5, 3)
    live.page.mouse.move(*start)
    live.page.mouse.down()
    live.page.mouse.move(*end)
    frames(live)
    moved = get(live, "moved")
    assert (moved["index"], moved["value"]) == (5, pytest.approx(0.5, abs=0.01))
    serial = moved["serial"]
    answer(live, serial=serial - 1)  # what was said of an earlier place does not call the dot back
    frames(live)
    told = live.page.locator("#one [data-box=histogram] .nbquant-told").inner_text()
    assert float(told.split(" at ")[1].split(":")[0]) == pytest.approx(0.5, abs=0.01)
    live.page.mouse.up()
    assert live.get("node._fullLayout.xaxis.range") == [-1.2, 1.2]  # plotly did not zoom
    centre = panel_table(live.panel)["centre"][19 - 8 : 19].copy()
    centre[5] = 0.5
    answer(live, serial=serial, centre=centre, by_hand=True, exact=False)
    assert "moved by hand" in live.page.locator("#one .nbquant-drive-note").inner_text()
    live.page.mouse.dblclick(*dot(live, 0.5, 3))
    frames(live)
    assert get(live, "moved").keys() == {"serial"}
    assert get(live, "moved")["serial"] > serial


def test_moves_go_out_one_at_a_time_and_by_the_number_that_the_centre_then_has(live):
    x, y = dot(live, 3 / 7, 3)
    live.page.mouse.move(x, y)
    live.page.mouse.down()
    live.page.mouse.move(x + 5, y)
    frames(live)
    first = get(live, "moved")
    live.page.mouse.move(x + 10, y)
    frames(live)
    assert get(live, "moved") == first
    arrays = {name: np.delete(table()[name][11:19], 2) for name in ("centre", "count", "length")}
    arrays["centre"][4] = first["value"]
    answer(live, serial=first["serial"], threshold=None, by_hand=True, **arrays)  # the third fell away
    second = get(live, "moved")
    assert (first["index"], second["index"], second["serial"]) == (5, 4, first["serial"] + 1)
    assert second["value"] > first["value"]
    live.page.mouse.move(x + 500, y)  # no further than its neighbour
    frames(live)
    answer(live, serial=second["serial"], threshold=None, by_hand=True, **arrays)
    assert 0.7 < get(live, "moved")["value"] < 5 / 7
    live.page.mouse.up()


def test_off_the_dots_plotly_zooms_and_the_marks_follow(live):
    (x0, y0), (x1, y1) = spot(live, -0.4, 0.3), spot(live, 0.4, 0.05)
    before = ink(live)
    live.page.mouse.move(x0, y0)
    live.page.mouse.down()
    live.page.mouse.move(x1, y1, steps=4)
    live.page.mouse.up()
    live.page.wait_for_function("document.querySelector('[data-figure=histogram]')._fullLayout.xaxis.range[1] < 0.5")
    frames(live)
    assert get(live, "moved") == {}
    assert ink(live) != before
    live.page.mouse.move(*spot(live, 1 / 7, 3 / 3.36))
    assert live.page.locator(".nbquant-over-dot").count() == 1


def test_keys_choose_a_centre_move_and_release_it(live):
    live.page.locator("#one .nbquant-overlay").first.focus()
    live.page.keyboard.press("ArrowRight")
    live.page.keyboard.press("ArrowRight")
    said = live.page.locator("#one .nbquant-said")
    assert said.text_content().startswith("centre 2 of 8 at -0.7143: 125 weights")
    live.page.keyboard.press("Shift+ArrowRight")
    frames(live)
    step = live.get("2.4 / node._fullLayout.xaxis._length")
    assert get(live, "moved") == {"index": 1, "value": pytest.approx(-5 / 7 + step, abs=1e-5), "serial": 1}
    answer(live, serial=1, centre=np.linspace(-1, 1, 8) + np.eye(8)[1] * step, by_hand=True)
    live.page.keyboard.press("Shift+ArrowRight")
    frames(live)
    assert get(live, "moved") == {"index": 1, "value": pytest.approx(-5 / 7 + 2 * step, abs=1e-5), "serial": 2}
    live.page.keyboard.press("Escape")
    frames(live)
    assert get(live, "moved") == {"serial": 3}


def test_ghosts_outline_and_boundaries_are_drawn(live, panel):
    before = ink(live)
    panel.ghosts = [{"label": "pin 1", "centre": np.linspace(-1, 1, 5)}]
    live.send("ghosts")
    ghosts = ink(live)
    panel.ghosts = []
    panel.brushed = {"edge": np.linspace(-1, 1, 5), "height": np.array([1.0, 4.0, 3.0, 1.0]), "label": "rows 0–9"}
    live.send("ghosts", "brushed")
    assert before < ghosts != ink(live) > before
    panel.brushed = {}
    live.send("brushed")
    assert ink(live) == before


def test_the_chosen_point_lies_on_the_rate_distortion_figure(live):
    axes = {"xaxis": {"type": "log", "range": [0, 2]}, "yaxis": {"type": "log", "range": [-3, 0]}}
    live.show("rate_distortion", line(1, 2, 3, **axes))
    frames(live)

    def colour():
        return live.get(
            """(() => {
                const { xaxis, yaxis } = node._fullLayout;
                const x = xaxis._offset + Math.log10(32 / 3) / 2 * xaxis._length;
                const y = yaxis._offset - Math.log10(0.1) / 3 * yaxis._length;
                const canvas = node.parentElement.querySelector("canvas");
                const scale = canvas.width / node.clientWidth;
                return [...read(canvas).getImageData(x * scale, y * scale, 1, 1).data];
            })()""",
            "rate_distortion",
        )

    assert colour() == [0, 114, 178, 255]
    answer(live, ratio=5.0, target=5.0)
    assert colour()[3] == 0
    answer(live, ratio=5.0, loss=0.0)  # no loss at all: at the foot
    assert ink(live, "rate_distortion") > 0


def heat(**layout):
    z = np.arange(400.0).reshape(20, 20)
    axes = {"xaxis": {"range": [-0.5, 19.5]}, "yaxis": {"range": [19.5, -0.5]}}
    return theme.figure("Map", "", [{"type": "heatmap", "z": z}], **axes, **layout)


def test_a_region_is_brushed_shown_on_all_maps_and_cleared(page, panel):
    for name in ("heatmap", "error", "weighted_error"):
        page.show(name, heat())
    titles = page.get("Array.from(node.querySelectorAll('.modebar-btn'), (b) => b.dataset.title)", "heatmap")
    assert sorted(titles) == ["Box Select", "Pan", "Reset axes", "Zoom"]
    (x0, y0), (x1, y1) = spot(page, 3.5, 0.8, "heatmap"), spot(page, 9.5, 0.4, "heatmap")
    page.page.mouse.move(x0, y0)
    page.page.mouse.down()
    page.page.mouse.move(x1, y1, steps=4)
    page.page.mouse.up()
    page.page.wait_for_function("model.get('region').figure === 'heatmap'")
    region = get(page, "region")
    expected = {"figure": "heatmap", "x0": 3.5, "x1": 9.5, "y0": 3.5, "y1": 11.5, "serial": 1}
    assert region == {k: pytest.approx(v, abs=0.2) if k[0] in "xy" else v for k, v in expected.items()}
    frames(page)
    assert min(ink(page, name) for name in ("heatmap", "error", "weighted_error")) > 0
    page.show("heatmap", heat(meta=1))  # what is drawn anew keeps it
    assert ink(page, "heatmap") > 0
    page.view("two")
    page.drawn("heatmap", "two")
    page.page.evaluate("close_two()")
    page.page.keyboard.press("Escape")
    assert get(page, "region") == {"serial": 2}
    assert ink(page, "heatmap") == 0
    page.page.evaluate("model.set('region', { figure: 'error', x0: 1, x1: 5, y0: 1, y1: 5, serial: 3 })")
    page.page.locator("#one [data-box=error] button", has_text="Clear region").click()
    assert get(page, "region") == {"serial": 4}


def test_tools_ask_and_tables_are_tables(page, panel):
    page.show("histogram", line(1, 2, 3))
    box = page.page.locator("#one [data-box=histogram]")
    for text in ("PNG", "SVG", "CSV"):
        box.get_by_role("button", name=f"Download Histogram as {text}").click()
    toggle = box.get_by_role("button", name="Histogram as a table")
    toggle.click()
    download = [{"kind": "download", "figure": "histogram", "format": f} for f in ("png", "svg", "csv")]
    assert page.page.evaluate("model.sent") == [*download, {"kind": "table", "figure": "histogram"}]
    assert toggle.get_attribute("aria-expanded") == "true"
    rows = [["one", 1234, 0.25], ["two", None, 1e-9]]
    columns = ["part", "n", "loss"]
    message = {"kind": "table", "figure": "histogram", "columns": columns, "rows": rows, "total": 9}
    page.page.evaluate("(m) => model.hear(m)", message)
    table = box.locator("table")
    assert table.locator("caption").inner_text() == "Histogram, the first 2 of 9 rows"
    assert table.locator("thead th[scope=col]").all_inner_texts() == columns
    assert table.locator("tbody th[scope=row]").all_inner_texts() == ["one", "two"]
    assert table.locator("td").all_inner_texts() == ["1,234", "0.25", "", "1.00000e-9"]
    page.show("histogram", line(3, 2, 1))
    page.page.wait_for_function("model.sent.length === 5")  # the numbers changed
    toggle.click()
    assert (table.count(), toggle.get_attribute("aria-expanded")) == (0, "false")


def test_a_file_is_downloaded_once_however_many_views_there_are(page):
    page.view("two")
    with page.page.expect_download() as download:
        page.page.evaluate("""() => {
            window.clicks = 0;
            document.addEventListener("click", (event) => { window.clicks += event.target.download !== undefined; });
            model.hear({ kind: "file", name: "map.csv", mime: "text/csv" }, [new DataView(new ArrayBuffer(5))]);
        }""")
    assert download.value.suggested_filename == "map.csv"
    assert download.value.path().stat().st_size == 5
    assert page.page.evaluate("clicks") == 1
    page.page.evaluate("close_two()")


def test_text_that_the_clipboard_refuses_is_shown_selected(page):
    page.page.evaluate("model.hear({ kind: 'copy', text: 'nq.fit(selection)' })")
    area = page.page.locator("#one .nbquant-copy textarea")
    area.wait_for()
    selected = "(e) => [e.value.slice(e.selectionStart, e.selectionEnd), document.activeElement === e]"
    assert area.evaluate(selected) == ["nq.fit(selection)", True]
    page.page.keyboard.press("Escape")
    assert area.count() == 0


def test_sizes(live, panel):
    font = "node._fullLayout.xaxis.tickfont.size"
    standard, height = live.get(font), live.get("node.clientHeight")
    panel.size = "projection"
    live.send("size")
    live.page.wait_for_function(f"document.querySelector('[data-figure=histogram]')._fullLayout.height > {height}")
    assert live.get(font) == 1.5 * standard
    assert live.get("node._fullLayout.margin.r") == 96
    panel.size = "compact"
    live.send("size")
    live.page.wait_for_function(f"document.querySelector('[data-figure=histogram]')._fullLayout.height < {height}")
    assert live.get(font) == 11
    assert [slider(live, d).is_visible() for d in ("ratio", "rate", "levels")] == [True, False, False]
    live.page.get_by_label("What drives").select_option("levels")
    frames(live)
    assert get(live, "drive") == {"driver": "levels", "value": 8, "serial": 1}
    assert [slider(live, d).is_visible() for d in ("ratio", "rate", "levels")] == [False, False, True]


@pytest.mark.parametrize(("width", "across"), [(1280, [1, 3, 1, 1]), (800, [1, 2, 2, 1]), (620, [1] * 6)])
def test_figures_are_laid_out_by_the_panel_s_width(page, width, across):
    page.page.set_viewport_size({"width": width, "height": 800})
    tops = page.page.evaluate(
        """[...document.querySelectorAll("#one .nbquant-box:not([hidden])")]
            .filter((box) => box.dataset.box !== "finetuning").map((box) => box.offsetTop)"""
    )
    assert [tops.count(top) for top in sorted(set(tops))] == across


@pytest.mark.parametrize("size", ["standard", "projection", "compact"])
@pytest.mark.parametrize("width", [1280, 1024, 820, 700, 600])
def test_no_text_is_clipped_or_sticks_out(live, panel, size, width):
    panel.size = size
    panel.facts = [{"label": "measured accuracy", "value": "90.68 % of 10,000", "note": "original 90.80 %"}]
    live.send("size", "facts")
    live.page.set_viewport_size({"width": width, "height": 800})
    frames(live)
    too_wide = live.page.evaluate(
        """[...document.querySelectorAll("#one .nbquant-panel :is(b, output, small, li, button, span, select)")]
            .filter((e) => e.offsetParent && !e.closest(".nbquant-frame")
                && (e.getBoundingClientRect().right > innerWidth + 0.5 || e.scrollWidth > e.clientWidth + 1)
                && getComputedStyle(e).display !== "inline")
            .map((e) => `${e.scrollWidth} in ${e.clientWidth}: ${e.outerHTML.slice(0, 80)}`)"""
    )
    assert too_wide == []
    assert live.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_second_view_and_a_reload_show_what_is_chosen(live):
    slider(live, "ratio").press("ArrowRight")
    frames(live)
    live.view("two")
    live.drawn("histogram", "two")
    frames(live)
    shown = live.page.locator("#two [data-fact='compression ratio'] output > :last-child")
    assert shown.inner_text() == "16.00×"
    slider(live, "ratio").press("End")
    frames(live)
    frames(live)
    assert shown.inner_text() == "32.00×"
    live.page.locator("#two [data-driver=ratio] input[type=range]").press("ArrowLeft")
    frames(live)
    assert get(live, "drive")["serial"] == 3
    live.page.evaluate("close_two()")
