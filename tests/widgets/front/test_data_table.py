import json
import math

import numpy as np
import pytest
from ipywidgets import Widget

from nbquant.widgets.front.data_table import Column, DataTable

COLUMNS = [
    Column("check", "Use", "check"),
    Column("layer", "Layer"),
    Column("weights", "Weights", "number", format=",d"),
    Column("share", "Rate", "bar", unit="%", tooltip="Share of all bits"),
    Column("go", "Go", "action"),
]
ROWS = [
    {"layer": "fc1", "weights": np.int64(400000), "share": np.float32(0.5), "go": True, "more": object()},
    {"layer": "conv1", "weights": 500, "share": math.nan},
]


@pytest.fixture
def table():
    return DataTable(COLUMNS, ROWS, caption="Layers", key="layer")


@pytest.fixture
def widget(table):
    """A widget that the table is part of."""
    widget = Widget()
    table.join(widget, "one")
    yield widget
    widget.close()


def told(widget):
    """What its front end has of the table."""
    return {name.removeprefix("one_"): value for name, value in widget.get_state().items() if name.startswith("one_")}


def test_front_end_gets_plain_values_by_column_of_what_is_shown(table, widget):
    state = told(widget)
    assert state["rows"] == {
        "layer": ["fc1", "conv1"],
        "check": [None, None],
        "weights": [400000, 500],
        "share": [0.5, None],
        "go": [True, None],
    }
    assert state["columns"][3] == {
        "name": "share",
        "label": "Rate",
        "kind": "bar",
        "format": ".1%",
        "tooltip": "Share of all bits",
        "unit": "%",
    }
    assert (state["key"], state["caption"]) == ("layer", "Layers")
    for infinite in (math.inf, -math.inf, np.float64("inf")):
        table.rows = [{"layer": "a", "weights": infinite}]
        rows = told(widget)["rows"]
        json.dumps(rows, allow_nan=False)
        assert float(rows["weights"][0]) == infinite


def test_other_columns_send_the_rows_again(table, widget):
    table.columns = [Column("more", "More")]
    assert list(told(widget)["rows"]) == ["layer", "more"]


def test_what_is_chosen_goes_both_ways(table, widget):
    widget.one_focused, widget.one_checked = "fc1", ["conv1"]
    assert (table.focused, table.checked) == ("fc1", ["conv1"])
    table.hovered, table.caption = "conv1", "Others"
    assert (widget.one_hovered, widget.one_caption) == ("conv1", "Others")


def test_key_that_is_not_shown_is_sent(table, widget):
    table.columns = COLUMNS[2:3]
    assert list(told(widget)["rows"]) == ["layer", "weights"]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"layer": "a"}, {"layer": "a"}], ValueError, "'a' came twice"),
        ([{"layer": 3}], TypeError, "but 3 came"),
        ([{}], TypeError, "under 'layer', its key, but None"),
        ([{"layer": ""}], TypeError, "but '' came"),
    ],
)
def test_keys_are_distinct_texts_and_else_the_last_rows_stay(table, rows, error, message):
    with pytest.raises(error, match=message):
        table.rows = rows
    assert table.rows == ROWS


def test_columns_are_told_apart():
    with pytest.raises(ValueError, match="distinct, but a, a came"):
        DataTable([Column("a", "A"), Column("a", "B")])
    with pytest.raises(ValueError, match="several are"):
        DataTable([Column("a", "A", "check"), Column("b", "B", "check")])


@pytest.mark.parametrize("kind", ["number", "bar"])
@pytest.mark.parametrize("format", [",d", "d", ".3g", ",.2f", ".0%", "%", ".2e"])
def test_formats_of_numbers(kind, format):
    assert Column("a", "A", kind, format).format == format


@pytest.mark.parametrize(("kind", "format"), [("number", "d,"), ("number", "x"), ("text", ".3g"), ("check", "d")])
def test_other_formats_are_refused(kind, format):
    with pytest.raises(ValueError, match=f"{format!r} was given for 'a'"):
        Column("a", "A", kind, format)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="text, number, bar, check, action, but 'image'"):
        Column("a", "A", "image")
