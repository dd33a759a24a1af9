import base64
import gzip
import json
import re
from importlib.resources import files

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import traitlets

from nbquant.views import theme
from nbquant.views.palette import LEDGER_COLOURS, SYMBOLS, method_style
from nbquant.widgets.front.bundle import PLOTLY_JS, PLOTLY_VERSION, part
from nbquant.widgets.front.figure_panel import FigurePanel
from nbquant.widgets.panels.panels import arguments


def line(*y, **layout):
    trace = {"type": "scatter", "x": np.arange(len(y)), "y": np.array(y, dtype=np.float64)}
    return theme.figure("Line", "", [trace], **layout)


def decoded(array):
    return np.frombuffer(array["bdata"], dtype=array["dtype"])


@pytest.fixture
def panel():
    panel = FigurePanel(*arguments())
    yield panel
    panel.close()


@pytest.fixture
def sent(panel, monkeypatch):
    """Keys of each state message that the panel sends."""
    messages = []
    monkeypatch.setattr(panel, "_send", lambda msg, buffers=None: messages.append((msg, buffers)))
    return messages


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_chosen_point_has_a_shape_for_every_symbol(symbol):
    assert re.search(rf'^  "?{symbol}"?: ', part("chosen"), re.MULTILINE)


def test_a_cleared_figure_is_empty_and_counts_as_a_change(panel):
    panel.show("file_codes", line(1, 2))
    panel.clear("file_codes")
    assert "data" not in panel.file_codes
    assert panel.revision("file_codes") == 2
    panel.clear("file_codes")
    assert panel.revision("file_codes") == 2
    with pytest.raises(ValueError, match="name must be one of"):
        panel.clear("nothing")


def test_state_holds_the_newest_figure(panel):
    panel.show("histogram", line(1, 2))
    panel.show("histogram", line(3, 4, 5))
    np.testing.assert_array_equal(decoded(panel.get_state()["histogram"]["data"][0]["y"]), [3, 4, 5])
    assert panel.revision("histogram") == 2
    assert panel.revision("heatmap") == 0


def test_only_the_figure_that_changed_is_sent_its_arrays_beside_the_json(panel, sent):
    panel.show("heatmap", line(1, 2, 3))
    (message, buffers), *more = sent
    assert not more
    assert list(message["state"]) == ["heatmap"]
    assert b"".join(bytes(b) for b in buffers).endswith(np.array([1, 2, 3], dtype=np.float64).tobytes())


def test_an_equal_figure_sends_nothing(panel, sent):
    panel.show("heatmap", line(1, 2, 3))
    panel.show("heatmap", line(1, 2, 3))
    assert len(sent) == 1
    panel.show("heatmap", line(1, 2, 3, dragmode="pan"))
    assert len(sent) == 2


def test_figures_shown_together_go_in_one_message(panel, sent):
    with panel.hold_sync():
        panel.show("heatmap", line(1))
        panel.show("histogram", line(2))
    assert [set(message["state"]) for message, _ in sent] == [{"heatmap", "histogram"}]


def test_later_changes_to_a_figure_are_not_followed(panel):
    figure = line(1, 2)
    panel.show("histogram", figure)
    figure["data"][0]["y"][:] = [7, 8]
    np.testing.assert_array_equal(decoded(panel.histogram["data"][0]["y"]), [1, 2])


def test_empty_and_text_arrays_are_sent_as_lists(panel):
    panel.show("histogram", go.Figure(go.Scatter(x=np.array([]), y=np.array([]), text=np.array(["a", "b"]))))
    trace = panel.histogram["data"][0]
    assert (trace["x"], trace["text"]) == ([], ["a", "b"])


def test_unknown_names_are_refused_with_the_known_ones(panel):
    with pytest.raises(ValueError, match=r"'histogram', 'heatmap', .*, 'file_codes', but 'heat_map' was given"):
        panel.show("heat_map", line(1))
    with pytest.raises(ValueError, match=r"'histogram', .*, 'ledger', but 'heat_map' was given"):
        panel.show_table("heat_map", pd.DataFrame())


@pytest.mark.parametrize("names", [[], ["one", "one"], ["layout"], ["two words"]])
def test_names_that_cannot_be_traits_are_refused(names):
    with pytest.raises(ValueError, match="names must be distinct identifiers"):
        FigurePanel(names)


def test_panels_may_hold_other_figures():
    one, two = FigurePanel(["first"]), FigurePanel(["second", "third"])
    one.show("first", line(1))
    assert "first" not in two.get_state()
    assert two.get_state()["names"] == ["second", "third"]


def test_front_end_holds_plotly_packed_once_and_fetches_nothing(panel):
    (packed,) = re.findall('const PACKED = "([^"]+)";', panel._esm)
    script = gzip.decompress(base64.b64decode(packed)).decode()
    published = (files("nbquant.widgets.front") / PLOTLY_JS).read_text(encoding="utf-8")
    assert f" v{PLOTLY_VERSION}\n" in published[:100]
    assert script.count("this, (() => {\n") == 1  # its body in brackets, and nothing else changed
    unchanged = script.replace("this, (() => {\n", "this, () => {\n").replace("})));", "}));")
    assert unchanged.count(published.rstrip()) == 1
    own = panel._esm.replace(packed, "")
    assert "http:" not in own
    assert "https:" not in own
    assert re.findall(r"\bimport\b.*", own) == ["import(address)).default;"]  # of a blob
    assert own.count("export ") == 1
    assert "url(" not in panel._css


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_arrays_in_plain_json_arrive_as_plotly_would_send_them(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    panel = FigurePanel(["a"])
    panel.show("a", {"data": [{"type": "scatter", "x": array}], "layout": {}})
    sent = panel.a["data"][0]["x"]
    read = np.frombuffer(sent["bdata"], sent["dtype"]).reshape(shape)
    np.testing.assert_array_equal(read, array)
    assert sent.get("shape") == (None if len(shape) == 1 else "2, 3")


def test_live_traits_send_their_arrays_as_bytes(panel, sent):
    panel.now = {"serial": 3, "centre": np.array([0.5, 1.5], np.float32), "threshold": None, "ledger": {"payload": 8}}
    (message, buffers), *_ = sent
    assert message["state"]["now"]["ledger"] == {"payload": 8}
    assert b"".join(bytes(b) for b in buffers) == np.array([0.5, 1.5], np.float32).tobytes()
    panel.ghosts = [{"label": "pin", "centre": np.arange(3.0)}]
    np.testing.assert_array_equal(decoded(panel.ghosts[0]["centre"]), [0, 1, 2])


def test_equal_live_traits_send_nothing(panel, sent):
    for _ in range(2):
        panel.table = {"value": np.arange(4.0), "ledger": {"payload": np.arange(4.0)}}
    assert len(sent) == 1


def test_a_view_opened_late_has_all_that_is_live(panel):
    panel.now = {"serial": 1}
    panel.region = {"figure": "heatmap", "x0": 0, "x1": 1, "y0": 0, "y1": 1, "serial": 1}
    panel.size = "compact"
    state = panel.get_state()
    live = {"table", "now", "facts", "ghosts", "brushed", "size", "drive", "moved", "region", "clicked"}
    assert live <= state.keys()
    assert (state["now"], state["size"], state["region"]["figure"]) == ({"serial": 1}, "compact", "heatmap")


def test_only_sizes_that_there_are(panel):
    with pytest.raises(traitlets.TraitError, match="compact"):
        panel.size = "huge"


def test_files_are_offered_as_bytes(panel, sent):
    panel.offer("map.png", "image/png", b"\x89PNG")
    ((message, buffers),) = sent
    assert message == {"method": "custom", "content": {"kind": "file", "name": "map.png", "mime": "image/png"}}
    assert buffers == [b"\x89PNG"]


def test_tables_are_cut_at_most_and_are_plain_json(panel, sent):
    frame = pd.DataFrame(
        {
            "part": ["a", None, "c", "d"],
            "n": np.arange(4),
            "loss": [0.5, np.nan, np.inf, 1],
            "on": [True, False, True, True],
            "at": pd.to_datetime(["2020-01-01"] * 4),
        }
    )
    panel.show_table("ledger", frame, most=3)
    content = sent[0][0]["content"]
    assert content["columns"] == ["part", "n", "loss", "on", "at"]
    assert content["total"] == 4
    at = "2020-01-01 00:00:00"
    assert content["rows"] == [["a", 0, 0.5, True, at], [None, 1, None, False, at], ["c", 2, None, True, at]]
    json.dumps(content, allow_nan=False)


def test_text_is_copied(panel, sent):
    panel.copy("nq.fit(selection)")
    assert sent[0][0]["content"] == {"kind": "copy", "text": "nq.fit(selection)"}


def test_what_the_tools_ask_for_is_heard(panel):
    heard = []
    panel.on_msg(lambda widget, content, buffers: heard.append(content))
    panel._handle_custom_msg({"kind": "table", "figure": "heatmap"}, [])
    assert heard == [{"kind": "table", "figure": "heatmap"}]


def test_colours_are_those_of_the_views(panel):
    palette = panel.get_state()["_palette"]
    assert palette["methods"]["ecsq"] == {"colour": method_style("ecsq", True).colour, "symbol": "diamond"}
    assert palette["parts"] == LEDGER_COLOURS
