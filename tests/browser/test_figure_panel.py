"""The panel's front end in Chromium, without a kernel: a stand-in takes the part of the widget's model."""

import base64

import numpy as np
import pytest
from anywidget import AnyWidget
from ipywidgets.widgets.widget import _remove_buffers

from nbquant.views import theme
from nbquant.widgets.figure_panel import FigurePanel

pytestmark = pytest.mark.browser


def line(*y, **layout):
    trace = {"type": "scatter", "x": np.arange(len(y)), "y": np.array(y, dtype=np.float64)}
    return theme.figure("Line", "", [trace], **layout)


@pytest.fixture
def panel():
    panel = FigurePanel()
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
  window.widget = (await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })))).default;
}
function start(state, paths, buffers) {
  document.body.innerHTML = '<div id="one"></div><div id="two"></div>';
  document.body.style = "--jp-ui-font-color1: rgb(1, 2, 3)";
  document.body.dataset.jpThemeLight = "true";
  window.model = new Model(withBytes(state, paths, buffers));
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
        panel = FigurePanel()
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
        self.page.wait_for_selector(selector, timeout=60_000)

    def get(self, expression, name="histogram", element="one"):
        selector = f"#{element} [data-figure={name}]"
        return self.page.evaluate(
            f"(s) => {{ const node = document.querySelector(s); return {expression}; }}", selector
        )


@pytest.fixture(scope="module")
def chromium(browser):
    context = browser.new_context()
    yield Page(context.new_page())
    context.close()


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
