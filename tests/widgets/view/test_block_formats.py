"""Block formats and quantized files in the explorer's widget: controls, bars, clicks, tables and panels."""

import pytest
from torch import nn

import nbquant as nq
from nbquant.quantization.blocks import formats
from nbquant.views.spent import SpentData
from nbquant.widgets.panels import panels
from nbquant.widgets.panels.file_tensors import FILE_TENSORS
from nbquant.widgets.panels.rate_distortion import clickable
from tests.widgets.samples import WAIT, of_blocks, sensitivities

SOME = ("q4_0", "q8_0")


@pytest.fixture
def explorer(monkeypatch):
    monkeypatch.setattr(formats, "BLOCK_FORMATS", tuple(map(formats.named, SOME)))
    model = of_blocks()
    explorer = nq.explore(
        model,
        sensitivity=sensitivities(model),
        method="blocks",
        formats=SOME,
        ratio=3.0,
        all_formats=True,
    )
    assert explorer.state.wait(WAIT)
    return explorer


def written(path, name="1"):
    """A file with a layer of the network in q4_0, under any name."""
    model = of_blocks()
    model = model if name == "1" else nn.ModuleDict({name: model[1]})
    nq.export(nq.fit(nq.select(model, layers=[f"{name}.weight"]), "q4_0", progress=False), path, model, progress=False)
    return str(path)


def test_formats_are_text_that_is_taken_or_put_back(explorer):
    assert explorer.formats_text == "q4_0, q8_0"
    explorer.formats_text = "q8_0"
    assert explorer.state.wait(WAIT)
    assert explorer.state.formats == ("q8_0",)
    assert [len(each["steps"]) for each in explorer.layer_bits] == [1, 1, 1]
    for wrong in ("q8_0, q77", ""):
        explorer.formats_text = wrong
        assert explorer.problem
        assert explorer.formats_text == "q8_0"
        assert explorer.state.formats == ("q8_0",)
    explorer.formats_text = "q4_0,  q8_0"  # as people type it
    assert not explorer.problem
    assert explorer.state.formats == ("q4_0", "q8_0")


def test_bars_are_pulled_and_reset_by_messages(explorer):
    assert explorer.blocked["free_layers"]
    explorer._handle_custom_msg({"kind": "layer format", "layer": "1", "format": "q8_0"}, [])
    assert explorer.state.wait(WAIT)
    assert [each["own"] for each in explorer.layer_bits] == [False, True, False]
    assert explorer.layer_bits[1]["format"] == "q8_0"
    assert "free_layers" not in explorer.blocked
    explorer._handle_custom_msg({"kind": "act", "name": "free_layers"}, [])
    assert explorer.state.wait(WAIT)
    assert not any(each["own"] for each in explorer.layer_bits)


def test_a_click_on_a_format_chooses_it(explorer):
    points = explorer.state.format_points
    assert len(points) == 2 * len(SOME)
    curves = clickable(explorer.state)
    trace = len(curves) - 1
    data = explorer.rate_distortion["data"][trace]
    assert data["name"] == "block formats, best scales"
    point = curves[trace][0]
    assert data["hovertext"][0] == point.name
    place = {"curve": trace, "point": 0, "x": point.compression_ratio, "y": 1.0}
    explorer.clicked = {"figure": "rate_distortion", **place, "serial": 1}
    assert explorer.state.wait(WAIT)
    assert explorer.state.formats == (point.name,)
    assert explorer.state.exact.predicted_loss_increase == pytest.approx(point.predicted_loss)
    assert "format: q8_0" in set(panels.named("rate_distortion").frame(explorer.state)["point"])


def test_file_shows_in_its_table_and_figures_and_goes_again(explorer, tmp_path):
    explorer.quantized_file = written(tmp_path / "a.gguf")
    assert explorer.state.wait(WAIT)
    assert explorer.problem == ""
    table = explorer.tables["file"]
    assert table.focused == explorer.state.file_tensor == "1.weight"
    (row,) = [row for row in table.rows if row["name"] == "1.weight"]
    assert row["stored"] > row["entropy"]
    drawn = explorer.file_tensors["data"]
    assert "chosen" in [trace["name"] for trace in drawn]
    assert explorer.file_codes["layout"]["title"]["text"].startswith("<b>Codes – 1.weight")
    assert len(FILE_TENSORS.frame(explorer.state)) >= 1
    table.focused = "0.weight"
    assert explorer.state.wait(WAIT)
    assert explorer.state.tensor_codes.name == "0.weight"
    stored = next(i for i, trace in enumerate(drawn) if trace["name"] == "bound")
    explorer.clicked = {"figure": "file_tensors", "curve": stored, "point": 0, "x": 1.0, "y": 1.0, "serial": 1}
    assert explorer.state.wait(WAIT)
    assert table.focused == "1.weight"
    explorer.quantized_file = ""
    assert "data" not in explorer.file_tensors
    assert "data" not in explorer.file_codes
    assert explorer.blocked["file"]


def test_without_distortion_the_bits_are_drawn(explorer, tmp_path):
    explorer.quantized_file = written(tmp_path / "a.gguf", "other")
    assert explorer.state.wait(WAIT)
    assert isinstance(FILE_TENSORS.data(explorer.state, True), SpentData)
    assert explorer.file_tensors["data"][0]["hovertext"] == ["other.weight"]
    assert len(FILE_TENSORS.frame(explorer.state)) == 1
