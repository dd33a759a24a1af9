"""Numbers and drawing of the heat map of wasted bits."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import nbquant as nq
from nbquant.views.still import still
from nbquant.views.wasted import draw_wasted, wasted_data, wasted_table


def inspected(names, wasted=(1.0, np.nan, 0.5, 2.0), originals=None):
    return pd.DataFrame(
        {
            "name": names,
            "original": originals,
            "rate": [5.0, 32.0, 8.5, 4.5],
            "entropy": [4.5, np.nan, 8.25, 4.25],
            "bits_wasted": wasted,
            "code_entropy": 4.0,
        }
    )


NAMES = ["token_embd.weight", "norm.weight", "blk.0.attn_q.weight", "blk.10.ffn_up.weight"]


def test_parts_of_one_file_stand_in_their_layers():
    data = wasted_data(inspected(NAMES))
    assert data.row == ("token_embd", "blk.0", "blk.10")
    assert data.column == ("whole", "attn_q", "ffn_up")
    nan = np.nan
    np.testing.assert_array_equal(data.wasted, [[1.0, nan, nan], [nan, 0.5, nan], [nan, nan, 2.0]])
    assert (data.limit, data.of) == ("bound", "part")


def test_numbered_layers_are_in_the_order_of_their_numbers():
    names = [f"{part}.weight" for part in ("token_embd", "blk.1.q", "blk.10.q", "blk.2.q", "output", "blk.2.k")]
    rows = pd.DataFrame({"name": names, "rate": 5.0, "entropy": 4.0, "bits_wasted": 1.0})
    data = wasted_data(rows)
    assert data.row == ("token_embd", "blk.1", "blk.2", "blk.10", "output")


def test_without_a_bound_they_are_above_the_entropy():
    data = wasted_data(inspected(NAMES, wasted=np.nan))
    assert data.limit == "entropy"
    np.testing.assert_allclose(data.wasted[~np.isnan(data.wasted)], [0.5, 0.25, 0.25])


def test_files_are_matched_by_the_names_of_the_original():
    originals = ["embed", None, "layers.0.q", "layers.10.up"]
    a = inspected(NAMES, originals=originals)
    b = inspected(["embed", "x", "layers.10.up", "layers.0.q"], wasted=[0.1, np.nan, 0.2, 0.3])
    data = wasted_data({"a": a, "b": b})
    assert data.row == ("embed", "layers.0.q", "layers.10.up")
    np.testing.assert_allclose(data.wasted, [[1.0, 0.1], [0.5, 0.3], [2.0, 0.2]])
    without = wasted_data({"a": a, "b": b.assign(bits_wasted=np.nan)})
    assert without.limit == "entropy"
    assert list(wasted_table(data)) == ["layer", "a", "b"]


def test_formats_are_compared_in_each_layer():
    rows = pd.DataFrame(
        {
            "layer": ["a", "a", "b", "b"],
            "format": "nf4",
            "search": [False, True, False, True],
            "bits_wasted": [1.0, 0.5, 2.0, 0.75],
        }
    )
    data = wasted_data(rows)
    assert data.column == ("nf4",)
    np.testing.assert_allclose(data.wasted, [[0.5], [0.75]])


@pytest.mark.parametrize("layers", [1, 3, 100])
def test_it_is_drawn_from_top_to_bottom(layers):
    names = [f"blk.{i}.{part}.weight" for i in range(layers) for part in ("q", "k")]
    rows = pd.DataFrame({"name": names, "rate": 5.0, "entropy": 4.0, "bits_wasted": np.linspace(0.1, 1, 2 * layers)})
    figure = draw_wasted(wasted_data(rows))
    go.Figure(figure)
    assert still(figure).axes
    low, high = figure["layout"]["yaxis"]["range"]
    assert low > high
    assert len(figure["layout"]["yaxis"]["tickvals"]) <= 20
    assert f"most in blk.{layers - 1}, k: 1.00" in figure["layout"]["title"]["text"]


def test_rows_without_wasted_bits_are_refused():
    with pytest.raises(ValueError, match="there are none"):
        wasted_data(inspected(NAMES)[1:2])
    with pytest.raises(ValueError, match="bits_wasted is missing"):
        wasted_data(inspected(NAMES).drop(columns="bits_wasted"))


def test_plot_draws_what_is_asked_for():
    rows = inspected(NAMES)
    for asked in (nq.plot.formats(rows, "heatmap"), nq.plot.formats({"a": rows, "b": rows})):
        assert asked.layout.title.text.startswith("<b>Where bits are wasted")
    with pytest.raises(ValueError, match="view must be one of plane, bits, heatmap"):
        nq.plot.formats(rows, "map")
    with pytest.raises(ValueError, match="several files"):
        nq.plot.formats({"a": rows}, "plane")
    with pytest.raises(TypeError, match="table"):
        nq.plot.formats({"a": [1]})
