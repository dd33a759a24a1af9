import numpy as np
import plotly.graph_objects as go
import pytest

from nbquant.views.rate_distortion import Curve, draw_rate_distortion, rate_distortion_data, rate_distortion_table
from nbquant.views.single_points import ChosenPoint, MeasuredPoint, PinnedPoint


def curve(method="kmeans", weighted=True, ratio=(8.0, 4.0, 16.0), loss=(0.01, 0.001, 0.1)):
    ratio, loss = np.array(ratio), np.array(loss)
    return Curve(method, weighted, 32 / ratio, ratio, loss, np.arange(len(ratio)) + 2.0)


CHOSEN = ChosenPoint("ecsq", False, 2.0, 16.0, 0.2)


def test_points_are_sorted_by_ratio_and_keep_their_parameter():
    (sorted_,) = rate_distortion_data([curve()]).curves
    np.testing.assert_array_equal(sorted_.compression_ratio, [4, 8, 16])
    np.testing.assert_array_equal(sorted_.predicted_loss, [0.001, 0.01, 0.1])
    np.testing.assert_array_equal(sorted_.rate, [8, 4, 2])
    np.testing.assert_array_equal(sorted_.parameter, [3, 2, 4])


def test_points_a_logarithmic_axis_cannot_show_are_left_out_and_counted():
    data = rate_distortion_data([curve(ratio=(2, 4, 8, 16), loss=(0, np.nan, np.inf, 0.1))])
    assert data.left_out == 3
    np.testing.assert_array_equal(data.curves[0].compression_ratio, [16])


def test_long_curves_are_thinned_but_keep_their_ends():
    ratio = np.geomspace(2, 100, 5000)
    (thin,) = rate_distortion_data([curve(ratio=ratio, loss=ratio**2)]).curves
    assert len(thin.rate) == 400
    assert (thin.compression_ratio[0], thin.compression_ratio[-1]) == (ratio[0], ratio[-1])


def test_range_holds_curves_point_and_target():
    data = rate_distortion_data([curve()], chosen=CHOSEN, target_ratio=40)
    assert data.ratio_range == (4, 40)
    assert data.loss_range == (0.001, 0.2)


def test_range_ends_seven_decades_below_the_greatest_loss():
    assert rate_distortion_data([curve(loss=(1, 1e-20, 0.1))]).loss_range == (1e-7, 1)


@pytest.mark.parametrize("curves", [[], [curve(ratio=(), loss=())], [curve(ratio=(8,), loss=(0.1,))]])
def test_nothing_or_a_single_point_is_drawn(curves):
    figure = go.Figure(draw_rate_distortion(rate_distortion_data(curves)))
    low, high = figure.layout.xaxis.range
    assert low < high


def test_no_loss_at_all_is_drawn():
    lossless = ChosenPoint("kmeans", True, 5.0, 6.0, 0.0)
    go.Figure(draw_rate_distortion(rate_distortion_data([curve(loss=(0, 0, 0))], chosen=lossless, target_ratio=6)))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="got 'lloyd'"):
        rate_distortion_data([curve(method="lloyd")])
    with pytest.raises(ValueError, match="kmeans has 3, 3, 2 and 3"):
        rate_distortion_data([curve(loss=(0.1, 0.2))])
    with pytest.raises(ValueError, match="target_ratio must be positive and finite, but got 0"):
        rate_distortion_data([curve()], target_ratio=0)


def test_curves_have_their_method_s_look_and_stand_in_its_column_of_the_legend():
    figure = go.Figure(draw_rate_distortion(rate_distortion_data([curve(), curve(weighted=False), curve("ecsq")])))
    weighted, plain, ecsq = figure.data
    assert (weighted.line.dash, plain.line.dash) == ("solid", "dash")
    assert weighted.line.color == plain.line.color != ecsq.line.color
    assert weighted.name == "Hessian-weighted k-means"
    assert (weighted.legend, plain.legend) == ("legend2", "legend")


def test_legends_of_a_wide_figure_begin_inside_the_plot():
    """A negative share of a plot 1,200 pixels wide is more than the margin of 64, and cuts the legend off."""
    layout = go.Figure(draw_rate_distortion(rate_distortion_data([curve()]))).layout
    assert layout.legend.x >= 0
    assert layout.legend2.x > layout.legend.x
    assert layout.legend.xanchor == layout.legend2.xanchor == "left"


def test_rate_and_parameter_show_on_hover():
    figure = go.Figure(draw_rate_distortion(rate_distortion_data([curve()])))
    np.testing.assert_array_equal(figure.data[0].customdata, [[8, 3], [4, 2], [2, 4]])
    assert "bit/weight" in figure.data[0].hovertemplate


def test_chosen_point_lies_on_top_and_the_target_is_a_vertical_line():
    figure = go.Figure(draw_rate_distortion(rate_distortion_data([curve()], chosen=CHOSEN, target_ratio=12)))
    target, chosen = figure.data[-2:]
    assert target.x == (12, 12)
    assert (chosen.x, chosen.y) == ((16.0,), (0.2,))
    assert "16.0×, 2.00 bit/weight" in figure.layout.title.text
    assert [a.text for a in figure.layout.annotations] == ["target 12×"]


def test_axes_are_logarithmic_and_ticks_are_ratios():
    layout = go.Figure(draw_rate_distortion(rate_distortion_data([curve()]))).layout
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "log")
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("compression ratio", "predicted loss increase")
    assert "8×" in layout.xaxis.ticktext


PIN = PinnedPoint("first try", "kmeans", True, 3.0, 10.0, 0.02)
MEASURED = MeasuredPoint("uniform", False, 2.5, 12.0, 0.1, 0.9731, 3.0)


def test_range_holds_pins_and_measured_losses():
    data = rate_distortion_data([curve()], pins=[PIN], measured=[MEASURED])
    assert data.loss_range == (0.001, 3.0)
    assert rate_distortion_data([], pins=[PIN], measured=[MEASURED]).ratio_range == (10, 12)
    with pytest.raises(ValueError, match="got 'lloyd'"):
        rate_distortion_data([], pins=[PinnedPoint("a", "lloyd", True, 1, 2, 3)])


def test_pins_are_hollow_and_measured_points_join_what_was_predicted():
    figure = go.Figure(
        draw_rate_distortion(rate_distortion_data([curve()], pins=[PIN], measured=[MEASURED], chosen=CHOSEN))
    )
    _, line, measured, pinned, chosen = figure.data
    assert (pinned.name, pinned.marker.symbol, pinned.text) == ("pinned", ("circle-open",), ("first try",))
    assert (measured.x, measured.y, measured.text, measured.marker.symbol) == ((12.0,), (3.0,), ("97.31%",), ("x",))
    assert tuple(line.y[:2]) == (0.1, 3.0)
    assert chosen.name == "chosen"
    assert "hollow: pinned · ✕ measured" in figure.layout.title.text


def test_a_loss_that_did_not_rise_stands_at_the_lower_edge_and_is_told():
    better = MeasuredPoint("ecsq", True, 2.5, 12.0, 0.1, None, -0.01)
    figure = go.Figure(draw_rate_distortion(rate_distortion_data([curve()], measured=[better])))
    measured = figure.data[-1]
    assert measured.marker.symbol == ("triangle-down",)
    assert np.log10(measured.y[0]) == pytest.approx(figure.layout.yaxis.range[0])
    assert "loss -0.01" in measured.customdata[0]
    assert "▼ no loss" in figure.layout.title.text


def test_table_has_all_points():
    table = rate_distortion_table(rate_distortion_data([curve()], chosen=CHOSEN, pins=[PIN], measured=[MEASURED]))
    assert table["point"].tolist() == ["chosen", "pinned: first try", "measured", "curve", "curve", "curve"]
    assert table["compression ratio"].tolist() == [16, 10, 12, 4, 8, 16]
    assert table["value"].tolist()[3:] == [3, 2, 4]
    assert table.loc[2, ["measured loss increase [loss]", "accuracy"]].tolist() == [3.0, 0.9731]
    assert len(rate_distortion_table(rate_distortion_data([]))) == 0
