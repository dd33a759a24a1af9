"""Drawing of the codes of one tensor."""

import numpy as np
import plotly.graph_objects as go
import pytest

from nbquant.analysis.tensor_codes import TensorCodes
from nbquant.views.still import still
from nbquant.views.tensor_codes import draw_tensor_codes, tensor_codes_table


def codes(levels, unused=1):
    count = np.full(levels, 10)
    count[:unused] = 0
    mean = np.where(count > 0, np.linspace(-1, 1, levels), np.nan) if levels else np.zeros(0)
    level = np.arange(levels, dtype=float)
    return TensorCodes("a.weight", "q4_0", level, count, mean, 0.1 * mean, np.linspace(-2, 2, 11), np.ones(10, int), 4)


@pytest.mark.parametrize("levels", [0, 1, 16, 256])
def test_codes_in_use_are_drawn(levels):
    data = codes(levels, unused=min(1, levels))
    figure = draw_tensor_codes(data)
    go.Figure(figure)
    assert still(figure).axes
    drawn = [t for t in figure["data"] if t["name"] == "codes"]
    assert [len(t["x"]) for t in drawn] == ([levels - 1] if levels > 1 else [])
    table = tensor_codes_table(data)
    assert len(table) == levels
    if levels == 16:
        assert "15 of 16 codes used" in figure["layout"]["title"]["text"]
        assert table["ideal length [bit]"][1] == pytest.approx(np.log2(15))
