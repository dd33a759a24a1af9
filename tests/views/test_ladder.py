import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from nbquant.views.ladder import draw_ladder, ladder_data
from nbquant.views.still import still

STEPS = pd.DataFrame(
    {
        "step": ["certified bound", "reached R(D)", "best scalar quantizer", "context code", "codebook"],
        "part": ["bound", "bound", "scalar", "payload", "codebook"],
        "change": [1.0, 0.01, 0.2, -0.3, 0.004],
        "reason": ["a", "b", "c", "d", "e"],
    }
)


def test_steps_lie_end_to_end():
    data = ladder_data(STEPS)
    np.testing.assert_allclose(data.start, [0, 1, 1.01, 1.21, 0.91])
    assert data.total == pytest.approx(0.914)


def test_bars_begin_where_the_step_before_ended_and_the_last_is_all():
    figure = go.Figure(draw_ladder(ladder_data(STEPS)))
    bars = figure.data[1]
    np.testing.assert_allclose(np.array(bars.base, float), [0, 1, 1.01, 1.21, 0.91, 0])
    np.testing.assert_allclose(bars.x, [1, 0.01, 0.2, -0.3, 0.004, 0.914])
    assert [t.strip() for t in figure.data[2].text] == ["1.0000", "+0.0100", "+0.2000", "−0.3000", "+0.0040", "0.9140"]
    assert list(figure.layout.yaxis.ticktext) == [*STEPS["step"], "total"]
    assert bars.customdata[3][1] == "d"
    assert figure.layout.xaxis.range[1] > 1.21, "the longest bar has room for its number"


def test_what_is_gained_is_said():
    title = go.Figure(draw_ladder(ladder_data(STEPS))).layout.title.text
    assert "0.9140 bit/weight stored, −0.0960 above R(D)" in title
    assert "gained: context code −0.3000" in title
    assert "gained" not in go.Figure(draw_ladder(ladder_data(STEPS[:3]))).layout.title.text


def test_still_picture_has_the_bars_where_they_belong():
    (axes,) = still(draw_ladder(ladder_data(STEPS))).axes
    spans = [(p.get_x(), p.get_width()) for p in axes.patches]
    np.testing.assert_allclose(spans[3], (1.21, -0.3))
    np.testing.assert_allclose(spans[-1], (0, 0.914))
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the bound is at the top"
    assert len({p.get_facecolor() for p in axes.patches}) >= 4


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least one step"):
        ladder_data(STEPS[:0])
