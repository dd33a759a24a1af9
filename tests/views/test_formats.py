"""Numbers and drawing of the figures of block formats."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import nbquant as nq
from nbquant.views.formats import draw_formats, formats_data
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
    assert 2 <= len(labels) <= 16  # sides of two places
    spread = [label for t in draw_formats(formats_data(comparison()))["data"][1:] for label in t["text"] if label]
    assert len(spread) > 5


def test_rows_of_another_table_are_refused():
    with pytest.raises(ValueError, match=r"rows of nbquant.compare_formats are required, but title, library"):
        formats_data(comparison()[["format"]])
    with pytest.raises(ValueError, match="but there are none"):
        formats_data(comparison()[:0])


def test_plot_chooses_by_the_columns():
    assert nq.plot.formats(comparison()).layout.title.text.startswith("<b>Block formats")
