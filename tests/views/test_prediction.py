import numpy as np
import plotly.graph_objects as go
import pytest

from nbquant.views.prediction import PredictedPoint, draw_prediction, prediction_data, prediction_table

GOOD = PredictedPoint("20×", 20.0, 0.001, 0.02, 0.03, 0.04)
BETTER = PredictedPoint("5×", 5.0, -0.002, 1e-4, 0.001, -1e-3)
NO_HESSIAN = PredictedPoint("10×", 10.0, 0.0, 0.002, np.nan, 0.003)


def test_quadratic_is_both_terms_and_markers_are_where_they_belong():
    line, diagonal, quadratic = go.Figure(draw_prediction(prediction_data([GOOD]))).data
    assert (diagonal.x, diagonal.y) == ((0.02,), (0.04,))
    assert quadratic.x[0] == pytest.approx(0.031)
    assert quadratic.y == (0.04,)
    assert line.x == line.y
    assert diagonal.marker.symbol != quadratic.marker.symbol


def test_what_logarithmic_axes_cannot_show_is_counted_and_in_the_table():
    data = prediction_data([BETTER, NO_HESSIAN, GOOD])
    assert data.not_shown == 3  # both of one whose loss fell, and one without a Hessian
    figure = go.Figure(draw_prediction(data))
    assert "3 not positive or too small to show" in figure.layout.title.text
    assert [len(t.x) for t in figure.data[1:]] == [2, 1]
    table = prediction_table(data)
    assert table["measured [loss]"].tolist() == [-1e-3, 0.003, 0.04]
    assert table["gᵀδ + ½δᵀHδ [loss]"].tolist()[0] == pytest.approx(-0.001)
    assert table["what"].tolist() == ["5×", "10×", "20×"]


def test_limits_hold_all_that_is_shown_and_end_six_decades_down():
    assert prediction_data([GOOD, NO_HESSIAN]).limits == (0.002, 0.04)
    tiny = PredictedPoint("200", 1.5, 0.0, 1e-12, 1e-12, 1e-12)
    data = prediction_data([GOOD, tiny])
    assert data.limits == (pytest.approx(4e-8), 0.04)
    assert data.not_shown == 2


def test_both_axes_are_logarithmic_with_one_range():
    layout = go.Figure(draw_prediction(prediction_data([GOOD, NO_HESSIAN]))).layout
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "log")
    assert layout.xaxis.range == layout.yaxis.range


def test_nothing_measured_is_drawn_and_said():
    figure = go.Figure(draw_prediction(prediction_data([])))
    assert "nothing measured yet" in figure.layout.title.text
    assert len(prediction_table(prediction_data([]))) == 0
