"""Numbers and drawing of a file's tensors on the rate-distortion plane."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import nbquant as nq
from nbquant.views.file_tensors import draw_file_tensors, file_tensors_data, file_tensors_table
from nbquant.views.still import still

ROWS = pd.DataFrame(
    {
        "name": ["a", "norm", "b", "c"],
        "format": ["q4_0", "F32", "q8_0", "q4_0"],
        "rate": [4.5, 32.0, 8.5, 4.5],
        "entropy": [4.25, np.nan, 7.75, 4.0],
        "bound_rate": [3.5, np.nan, 7.0, np.nan],
        "distortion": [1e-4, 0.0, 1e-7, 2e-4],
        "code_entropy": 4.0,
    }
)


def test_tensors_that_differ_from_the_original_are_points():
    data = file_tensors_data(ROWS)
    assert data.name == ("a", "b", "c")
    assert data.kinds == ("q4_0", "q8_0")
    figure = draw_file_tensors(data, chosen="b")
    named = {t["name"]: t for t in figure["data"]}
    assert named["bound"]["hovertext"] == ["a", "b"]
    assert named["q4_0"]["hovertext"] == ["a", "c"]
    np.testing.assert_allclose(named["q4_0, entropy"]["x"], [4.25, 4.0])
    assert named["chosen"]["hovertext"] == ["b"]
    assert "chosen" not in {t["name"] for t in draw_file_tensors(data)["data"]}
    go.Figure(figure)
    assert still(figure).axes
    assert len(file_tensors_table(data)) == 3
    assert nq.plot.formats(ROWS, "plane").layout.title.text.startswith("<b>Tensors on")


def test_a_file_without_distortions_is_refused():
    with pytest.raises(ValueError, match="there are none"):
        file_tensors_data(ROWS.assign(distortion=np.nan))
