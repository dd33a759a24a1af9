import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from nbquant.views import theme
from nbquant.widgets.figure_panel import FigurePanel


def line(*y, **layout):
    trace = {"type": "scatter", "x": np.arange(len(y)), "y": np.array(y, dtype=np.float64)}
    return theme.figure("Line", "", [trace], **layout)


def decoded(array):
    return np.frombuffer(array["bdata"], dtype=array["dtype"])


@pytest.fixture
def panel():
    panel = FigurePanel()
    yield panel
    panel.close()


@pytest.fixture
def sent(panel, monkeypatch):
    """Keys of each state message that the panel sends."""
    messages = []
    monkeypatch.setattr(panel, "_send", lambda msg, buffers=None: messages.append((msg, buffers)))
    return messages


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
    with pytest.raises(
        ValueError, match="'histogram', 'heatmap', 'rate_distortion', 'finetuning', but 'heat_map' was given"
    ):
        panel.show("heat_map", line(1))


@pytest.mark.parametrize("names", [[], ["one", "one"], ["layout"], ["two words"]])
def test_names_that_cannot_be_traits_are_refused(names):
    with pytest.raises(ValueError, match="names must be distinct identifiers"):
        FigurePanel(names)


def test_panels_may_hold_other_figures():
    one, two = FigurePanel(["first"]), FigurePanel(["second", "third"])
    one.show("first", line(1))
    assert "first" not in two.get_state()
    assert two.get_state()["names"] == ["second", "third"]


def test_front_end_holds_plotly_once_and_imports_nothing(panel):
    assert panel._esm.count(get_plotlyjs()) == 1
    own = panel._esm.replace(get_plotlyjs(), "")
    assert "http:" not in own
    assert "https:" not in own
    assert "import" not in own.replace("important", "")
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
