import json
import math

import numpy as np
import pytest
import traitlets

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
    table = DataTable(COLUMNS, ROWS, caption="Layers", key="layer", size="compact")
    yield table
    table.close()


def test_front_end_gets_plain_values_by_column_of_what_is_shown(table):
    state = table.get_state()
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
    assert (state["key"], state["size"], state["caption"]) == ("layer", "compact", "Layers")
    for infinite in (math.inf, -math.inf, np.float64("inf")):
        table.rows = [{"layer": "a", "weights": infinite}]
        told = table.get_state()["rows"]
        json.dumps(told, allow_nan=False)
        assert float(told["weights"][0]) == infinite


def test_other_columns_send_the_rows_again(table, monkeypatch):
    sent = []
    monkeypatch.setattr(DataTable, "send_state", lambda self, key=None: sent.append(key))
    table.columns = [Column("more", "More")]
    assert "rows" in sent


def test_key_that_is_not_shown_is_sent(table):
    table.columns = COLUMNS[2:3]
    assert list(table.get_state()["rows"]) == ["layer", "weights"]


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


def test_unknown_kind_and_size_are_refused(table):
    with pytest.raises(ValueError, match="text, number, bar, check, action, but 'image'"):
        Column("a", "A", "image")
    with pytest.raises(traitlets.TraitError, match="huge"):
        table.size = "huge"
