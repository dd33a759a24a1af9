"""The table's front end in Chromium, without a kernel: a stand-in takes the part of the widget's model."""

import csv

import pytest
from ipywidgets import Widget

from nbquant.widgets.front.bundle import script, style
from nbquant.widgets.front.data_table import Column, DataTable

from .lab import new_page

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><meta charset="utf-8"><body style="margin: 8px"><div id="one"></div><div id="two"></div>
<script>
class Model {
  constructor(state) { this.state = state; this.listeners = {}; this.saved = []; }
  get(key) { return this.state[key]; }
  set(key, value) {
    this.state[key] = value;
    this.saved.push(key);
    for (const f of this.listeners["change:" + key] ?? []) f();
  }
  on(event, f) { (this.listeners[event] ??= new Set()).add(f); }
  off(event, f) { this.listeners[event]?.delete(f); }
  save_changes() {}
  get listening() { return Object.values(this.listeners).reduce((n, set) => n + set.size, 0); }
}
async function load(esm, css) {
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  window.widget = (await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })))).default;
}
const view = (id) => { window["close_" + id] = widget.render({ model, el: document.getElementById(id) }); };
const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
</script>"""
COLUMNS = [
    Column("use", "Quantize", "check"),
    Column("layer", "Layer"),
    Column("weights", "Weights", "number", format=",d"),
    Column("share", "Share of rate", "bar", tooltip="Of all bits"),
    Column("loss", "Predicted loss", "number", unit="nat"),
    Column("remove", "Remove", "action"),
]


def layers(count=12):
    return [
        {
            "layer": f"layer{i}",
            "weights": 1000 * (i * 7 % count + 1),
            "share": (i + 0.5) / count,
            "loss": None if i == 3 else 1.234567e-3 * 10.0 ** -(i % 6),
            "remove": i % 2 == 0,
        }
        for i in range(count)
    ]


def codebook(count=256):
    return [
        {
            "index": str(i),
            "centre": (i - count / 2) / 512,
            "count": (i * 37) % 5000,
            "codeword": f"{i:08b}" if i % 50 else None,
            "share": ((i * 37) % 5000) / 5000,
            "loss": 1e-7 * (i + 1) ** 2,
        }
        for i in range(count)
    ]


CODEBOOK = [
    Column("centre", "Centre", "number", format=".5f"),
    Column("count", "Count", "number", format=",d"),
    Column("codeword", "Codeword", format="code"),
    Column("share", "Share of rate", "bar"),
    Column("loss", "Predicted loss", "number", format=".3g"),
]


def by_column(table):
    """Rows as the front end has them."""
    widget = Widget()
    table.join(widget, "t")
    rows = widget.get_state()["t_rows"]
    widget.close()
    return rows


class Page:
    def __init__(self, tab):
        self.page, self.complaints, self.table = tab, [], None
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.set_content(PAGE)
        tab.evaluate("([esm, css]) => load(esm, css)", [script("dataTable"), style("figure_panel", "data_table")])

    def start(self, *args, **kwargs):
        widget = Widget()
        DataTable(*args, **kwargs).join(widget, "t")
        state = {k.removeprefix("t_"): v for k, v in widget.get_state().items() if k.startswith("t_")}
        widget.close()
        self.page.evaluate("(state) => { window.model = new Model(state); view('one'); }", state)

    def set(self, name, value):
        self.page.evaluate("([name, value]) => { model.set(name, value); return frame(); }", [name, value])

    def get(self, name):
        return self.page.evaluate("(name) => frame().then(() => model.get(name))", name)

    def column(self, name, element="one"):
        cells = self.page.locator(f"#{element} tbody [data-column={name}]")
        return cells.all_inner_texts()

    def row(self, key):
        return self.page.locator(f'#one tr[data-key="{key}"]')

    def header(self, name):
        return self.page.locator(f"#one th[data-column={name}]").first

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def at(self):
        """Key of the row that has the keyboard's focus."""
        return self.page.evaluate("document.activeElement.closest('tr')?.dataset.key ?? ''")


@pytest.fixture(scope="module")
def chromium(browser):
    page = new_page(browser, (1100, 700))
    yield Page(page)
    page.context.close()


@pytest.fixture
def page(chromium):
    yield chromium
    chromium.page.evaluate("close_one()")
    left = chromium.page.evaluate("[model.listening, document.getElementById('one').children.length]")
    complaints = chromium.complaints.copy()
    chromium.complaints.clear()
    assert (complaints, left) == ([], [0, 0])


@pytest.fixture
def twelve(page):
    page.start(COLUMNS, layers(), caption="Layers of the net", key="layer", checked=["layer2"])
    return page


def test_values_are_formatted_as_python_does(page):
    numbers = [0.0, 1.0, -1.26, 12345.678, 1e-5, 0.00012345, 123456789.0, 3.7e-300, -20.03]
    formats = ["d", ",d", ".2f", ",.1f", ".1%", ".3e", ".3g", "g", ".1g", ".6g", "+.1%", "+,.2f"]
    columns = [Column(f"c{i}", f, "number", format=f) for i, f in enumerate(formats)]
    page.start(columns, [{"name": str(x)} | {column.name: x for column in columns} for x in numbers])
    for column in columns:
        of = round if column.format.endswith("d") else float
        mantissas = (format(of(x), column.format).partition("e") for x in numbers)
        expected = [f"{m}{e}{int(x) if x else ''}" for m, e, x in mantissas]
        assert [t.replace("−", "-").replace(" %", "%") for t in page.column(column.name)] == expected


def test_what_is_missing_is_a_dash_and_infinity_a_sign(page):
    columns = [Column("a", "A", "number"), Column("b", "B", "bar"), Column("c", "C")]
    page.start(columns, [{"name": "x", "a": float("nan")}, {"name": "y", "a": float("-inf"), "b": 2.0, "c": "<b>"}])
    assert [page.column(name) for name in "abc"] == [["–", "−∞"], ["–", "200.0 %"], ["–", "<b>"]]


def test_headers_sort_up_down_and_not_with_the_missing_last(twelve):
    page, given = twelve, [f"layer{i}" for i in range(12)]
    loss = page.header("loss").locator("button")
    loss.click()
    assert page.header("loss").get_attribute("aria-sort") == "ascending"
    page.page.evaluate("frame()")
    up = page.column("layer")
    assert up[-1] == "layer3"
    assert up[:2] == ["layer5", "layer11"]
    loss.click()
    page.page.evaluate("frame()")
    down = page.column("layer")
    assert down[-1] == "layer3"
    assert down[:2] == ["layer0", "layer6"]  # equals stay in the order they were given
    loss.press("Enter")
    page.page.evaluate("frame()")
    assert page.column("layer") == given
    assert page.header("loss").get_attribute("aria-sort") is None
    page.header("layer").locator("button").click()
    page.page.evaluate("frame()")
    assert page.column("layer") == given  # layer10 after layer9
    page.set("checked", ["layer7"])
    page.set("sorted_by", {"name": "use", "descending": False})
    assert page.column("layer")[0] == "layer7"


def test_arrows_move_enter_focuses_and_space_checks(twelve):
    page = twelve
    page.page.locator("#one thead button").last.focus()
    page.press("Tab")
    assert page.at == "layer0"
    page.press("ArrowDown", "ArrowDown", "Enter")
    assert (page.at, page.get("focused"), page.get("hovered")) == ("layer2", "layer2", "layer2")
    assert page.row("layer2").get_attribute("aria-selected") == "true"
    page.press("Space")
    assert page.get("checked") == []
    page.press("ArrowUp", "Space", "End", "Space")
    assert page.get("checked") == ["layer1", "layer11"]
    assert page.row("layer11").locator("input").is_checked()
    page.press("PageUp", "PageUp", "PageUp")
    assert page.at == "layer0"
    assert page.get("focused") == "layer2"
    page.press("Tab", "Tab", "Enter")
    assert page.get("pressed") == {"key": "layer0", "action": "remove", "serial": 1}
    page.press("ArrowDown")
    assert page.at == "layer1"
    page.press("Tab", "Space")  # the box itself
    assert page.get("checked") == ["layer11"]


def test_mouse_focuses_hovers_checks_and_presses(twelve):
    page = twelve
    page.row("layer4").locator("th").click()
    assert (page.get("focused"), page.get("hovered")) == ("layer4", "layer4")
    page.row("layer6").locator("button").click()
    assert page.get("pressed") == {"key": "layer6", "action": "remove", "serial": 1}
    page.row("layer6").locator("input").click()
    assert page.get("checked") == ["layer2", "layer6"]
    assert page.get("focused") == "layer4"
    everything = page.header("use").locator("input")
    assert everything.evaluate("box => box.indeterminate")
    everything.click()
    assert len(page.get("checked")) == 12
    everything.click()
    assert page.get("checked") == []
    page.page.evaluate("document.activeElement.blur()")
    page.page.mouse.move(2, 690)
    assert page.get("hovered") == ""


def test_kernel_s_choices_are_marked(twelve):
    page = twelve
    page.set("focused", "layer11")
    page.set("hovered", "layer10")
    page.set("checked", ["layer0", "layer11"])
    assert page.row("layer11").get_attribute("aria-selected") == "true"
    assert page.row("layer10").get_attribute("data-hovered") == ""
    boxes = page.page.locator("#one tbody input")
    assert [i for i in range(12) if boxes.nth(i).is_checked()] == [0, 11]
    page.page.evaluate("view('two')")
    assert page.column("layer", "two") == page.column("layer")
    assert page.page.locator('#two tr[aria-selected="true"]').get_attribute("data-key") == "layer11"
    page.page.evaluate("close_two()")


def test_update_keeps_rows_focus_and_scrolling(page):
    page.start(CODEBOOK, codebook(), caption="Codebook", key="index")
    page.set("focused", "200")
    scrolled = "document.querySelector('#one .nbquant-table-scroll').scrollTop"
    top = page.page.evaluate(scrolled)
    assert top > 1000
    page.row("200").focus()
    page.page.evaluate("window.row = document.activeElement")
    table = DataTable(CODEBOOK, [row | {"count": 7} for row in codebook(240)], key="index")
    page.set("rows", by_column(table))
    assert page.page.evaluate("window.row === document.activeElement")
    assert page.page.evaluate(scrolled) == top
    assert set(page.column("count")) == {"7"}
    table.rows = codebook(20)
    page.set("rows", by_column(table))
    assert page.at == "19"  # the row went: the last one has the focus now
    table.rows = []
    page.set("rows", by_column(table))
    assert page.column("count") == []


def test_a_thousand_rows_are_told_and_are_in_the_file(page, tmp_path):
    page.start(CODEBOOK, codebook(1000), caption="Codebook: k = 1,000", key="index")
    assert len(page.column("count")) == 500
    assert "first 500 of 1,000" in page.page.locator("#one .nbquant-table-note").inner_text()
    with page.page.expect_download() as download:
        page.page.locator("#one button:text-is('CSV')").click()
    assert download.value.suggested_filename == "nbquant_codebook_k_1_000.csv"
    download.value.save_as(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1001


def test_file_has_what_is_shown_in_its_order_and_in_full_precision(page, tmp_path):
    rows = [*layers(2), {"layer": 'a "b", c', "weights": 1, "share": 0.1 + 0.2, "loss": None}]
    page.start(COLUMNS, rows, key="layer", checked=["layer1"], sorted_by={"name": "share", "descending": True})
    with page.page.expect_download() as download:
        page.page.locator("#one button:text-is('CSV')").click()
    assert download.value.suggested_filename == "nbquant_table.csv"
    download.value.save_as(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["Quantize", "Layer", "Weights", "Share of rate", "Predicted loss [nat]"],
            ["true", "layer1", "2000", "0.75", "0.0001234567"],
            ["false", 'a "b", c', "1", "0.30000000000000004", ""],
            ["false", "layer0", "1000", "0.25", "0.001234567"],
        ]


def test_header_stays_in_sight_and_other_columns_replace_the_rows(page):
    page.start(CODEBOOK, codebook(), caption="Codebook", key="index")
    page.set("focused", "255")
    box = page.header("count").bounding_box()
    around = page.page.locator("#one .nbquant-table-scroll").bounding_box()
    assert box["y"] == pytest.approx(around["y"], abs=2)
    assert around["height"] < 330
    page.set("columns", page.get("columns")[1:2])
    assert page.page.locator("#one tbody tr").first.inner_text() == "0"


def test_reader_of_the_screen_is_told(twelve):
    tree = twelve.page.locator("#one").aria_snapshot()
    for line in (
        'grid "Layers of the net"',
        'columnheader "Predicted loss [nat]"',
        'checkbox "Quantize layer2" [checked]',
        'button "Remove layer0"',
        'rowheader "layer0"',
    ):
        assert line in tree, tree
