"""Numbers and drawing of where the bits of a quantized file go."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import nbquant as nq
from nbquant.views.spent import draw_spent, spent_data
from nbquant.views.still import still


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


def test_a_file_without_block_formats_is_refused():
    with pytest.raises(ValueError, match=r"rows of nbquant.inspect with tensors in block formats are required"):
        spent_data(inspection(False)[1:2])


def test_plot_chooses_by_the_columns():
    assert nq.plot.formats(inspection(True)).layout.title.text.startswith("<b>Where the bits go")
