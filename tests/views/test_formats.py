"""Numbers and drawing of the figures of block formats."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import nbquant as nq
from nbquant.views.formats import draw_formats, draw_spent, formats_data, spent_data
from nbquant.views.still import still


def comparison():
    names = [f"f{i}" for i in range(30)]
    return pd.DataFrame(
        {
            "format": np.repeat(names, 2),
            "title": np.repeat(names, 2),
            "library": np.repeat(["gguf 0.19.0", "ggml, as published", "bitsandbytes 0.50.2"] * 10, 2),
            "search": [False, True] * 30,
            "rate": np.repeat(np.linspace(2, 8, 30), 2),
            "distortion": np.geomspace(1e-2, 1e-8, 60),
            "bound_rate": np.linspace(1, 7.5, 60),
            "bits_wasted": 1.0,
        }
    )


def inspection(bound):
    return pd.DataFrame(
        {
            "name": ["a", "norm", "b"],
            "rate": [5.0, 32.0, 8.5],
            "code_bits": [4.0, np.nan, 8.0],
            "side_bits": [1.0, np.nan, 0.5],
            "code_entropy": [3.5, np.nan, 7.5],
            "side_entropy": [0.75, np.nan, 0.25],
            "entropy": [4.25, np.nan, 7.75],
            "bound_rate": [3.25, np.nan, 7.0] if bound else np.nan,
        }
    )


def test_formats_are_grouped_by_library():
    data = formats_data(comparison())
    assert data.families == ("gguf", "bitsandbytes")
    assert (np.bincount(data.family) == [40, 20]).all()
    figure = draw_formats(data)
    assert [t["name"] for t in figure["data"]] == ["bound", *np.repeat(["gguf", "bitsandbytes"], 2)]
    for trace in figure["data"][1:]:
        hollow = trace["marker"]["symbol"].endswith("-open")
        assert len(trace["x"]) == len(trace["hovertext"])
        assert trace["mode"] == ("markers" if hollow else "markers+text")
    go.Figure(figure)
    assert still(figure).axes


def test_labels_lie_on_no_other_and_on_no_marker():
    rows = comparison().assign(rate=4.0, distortion=np.repeat([1e-3, 1e-5], 30))
    labels = [label for t in draw_formats(formats_data(rows))["data"][1:] for label in t["text"] if label]
    assert len(labels) <= 2
    spread = [label for t in draw_formats(formats_data(comparison()))["data"][1:] for label in t["text"] if label]
    assert len(spread) > 5


@pytest.mark.parametrize("bound", [False, True])
def test_parts_of_a_file_add_up_to_what_is_stored(bound):
    data = spent_data(inspection(bound))
    assert data.name == ("a", "b")
    np.testing.assert_allclose(data.rate.sum(0), [5.0, 8.5])
    assert data.rate.min() >= 0
    if bound:
        np.testing.assert_allclose(data.rate, [[3.25, 7.0], [1.0, 0.75], [0.5, 0.5], [0.25, 0.25]])
    figure = draw_spent(data)
    top = [t["base"] + t["y"] for t in figure["data"]][-1]
    np.testing.assert_allclose(top, [5.0, 8.5])
    go.Figure(figure)
    assert still(figure).axes


def test_rows_of_another_table_are_refused():
    with pytest.raises(ValueError, match=r"rows of nbquant.compare_formats are required, but title, library"):
        formats_data(comparison()[["format"]])
    with pytest.raises(ValueError, match="but there are none"):
        formats_data(comparison()[:0])
    with pytest.raises(ValueError, match=r"rows of nbquant.inspect with tensors in block formats are required"):
        spent_data(inspection(False)[1:2])


def test_plot_chooses_by_the_columns():
    assert nq.plot.formats(comparison()).layout.title.text.startswith("<b>Block formats")
    assert nq.plot.formats(inspection(True)).layout.title.text.startswith("<b>Where the bits go")
