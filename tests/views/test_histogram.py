import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.views.histogram import draw_histogram, histogram_data, histogram_table


def one_cluster(bin_weight, bin_count, **kwargs):
    return histogram_data(bin_weight, bin_count, [0.0], [int(np.sum(bin_count))], [1.0], **kwargs)


def mass(data):
    return data.bar_height * np.diff(data.bar_edge) / data.bar_width


def fine_bins(weight, shift=15):
    pattern, index = np.unique(weight.astype(np.float32).view(np.uint32) >> shift, return_inverse=True)
    count = np.bincount(index, minlength=len(pattern))
    position = np.bincount(index, weights=weight) / count
    order = np.argsort(position)
    return position[order], count[order]


@given(
    st.lists(st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1, unique=True),
    st.integers(1, 1000),
    st.integers(1, 50),
)
def test_bars_and_outside_add_to_all_weights(position, count, bars):
    data = one_cluster(np.sort(np.array(position)), np.full(len(position), count), bars=bars)
    assert mass(data).sum() + data.outside == pytest.approx(count * len(position))
    assert (data.bar_height >= 0).all()


def test_bars_match_a_histogram_of_the_weights_themselves():
    weight = np.random.default_rng(0).normal(0, 0.05, 200_000)
    data = one_cluster(*fine_bins(weight), bars=60)
    expected, _ = np.histogram(weight, data.bar_edge)
    # A weight may be a bin away: on the greater bars that is a few per cent at most.
    big = expected > 2000
    assert big.sum() > 20
    np.testing.assert_allclose(data.bar_height[big], expected[big], rtol=0.05)


def test_bins_of_float_patterns_leave_no_comb():
    # An even density over [1, 2), whose bins are 1/128 wide: bars of 1/100 catch one bin or two.
    weight = np.linspace(1, 2, 100_000, endpoint=False)
    data = one_cluster(*fine_bins(weight, shift=16), bars=100)
    inside = data.bar_height[5:-5]
    assert inside.max() / inside.min() < 1.02


def test_weights_of_few_values_stay_sharp_when_empty_bins_are_left_out():
    data = one_cluster(np.array([-1.0, 0.0, 1.0]), np.array([10, 20, 10]), bars=99)
    assert (data.bar_height > 0).sum() <= 6
    assert mass(data).sum() + data.outside == pytest.approx(40)


def test_range_ignores_far_weights_and_says_how_many():
    position = np.concatenate([np.linspace(-1, 1, 10_000), [50.0, 1000.0]])
    data = one_cluster(position, np.ones(len(position)))
    assert data.bar_edge[-1] < 1.1
    assert data.outside == pytest.approx(2, abs=1)


def test_range_widens_for_near_centres_but_not_for_far_ones():
    position, count = np.linspace(-1, 1, 2001), np.ones(2001)
    data = histogram_data(position, count, [-1.5, 0.0, 1.4, 40.0], [1, 1997, 2, 1], [3, 1, 2, 3])
    assert data.bar_edge[0] < -1.5
    assert 1.4 < data.bar_edge[-1] < 2
    assert data.centres_outside == 1


def test_bars_are_cut_at_cell_boundaries_and_keep_their_height():
    position, count = np.linspace(-1, 1, 20_001), np.ones(20_001)
    boundary = [-0.7, -0.1234, 0.505]
    data = histogram_data(position, count, [-0.8, -0.5, 0, 0.9], [1] * 4, [2] * 4, thresholds=boundary, bars=40)
    assert set(boundary) <= set(data.bar_edge)
    np.testing.assert_allclose(data.bar_height[3:-3], data.bar_height[3:-3].mean(), rtol=0.05)
    middle = (data.bar_edge[1:] + data.bar_edge[:-1]) / 2
    np.testing.assert_array_equal(data.bar_cell, np.digitize(middle, boundary))


def test_weights_of_one_value_have_a_range():
    data = one_cluster(np.array([0.25]), np.array([7]))
    assert data.bar_edge[0] < 0.25 < data.bar_edge[-1]
    assert mass(data).sum() == pytest.approx(7)


def test_share_counts_weights():
    data = histogram_data([0.0, 1.0], [3, 1], [0, 1], [3, 1], [1, 1], thresholds=[0.5], pruned_zeros=12)
    np.testing.assert_allclose(data.share, [0.75, 0.25])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bin_count": [0, 0]}, "at least one weight"),
        ({"bin_count": [1]}, r"shapes are \(2,\) and \(1,\)"),
        ({"bin_count": [1, np.nan]}, "at least one weight|must be finite"),
        ({"bin_weight": [1.0, 0.0]}, "must ascend, but 1 steps"),
        ({"codebook": [0.0]}, "have 1, 2 and 2"),
        ({"codebook": [0.0, np.nan]}, "codebook must be finite, but 1 of 2"),
        ({"thresholds": []}, "the 1 ascending boundaries between 2 cells, but got 0"),
        ({"thresholds": [np.nan, 1.0]}, "the 1 ascending boundaries"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {
        "bin_weight": [0.0, 1.0],
        "bin_count": [3, 1],
        "codebook": [0.0, 1.0],
        "counts": [3, 1],
        "codeword_length": [1, 1],
    }
    with pytest.raises(ValueError, match=message):
        histogram_data(**(good | change))


def example(**kwargs):
    position = np.linspace(-1, 1, 2001)
    settings = {"thresholds": [-0.25, 0.25]} | kwargs
    return histogram_data(position, np.ones(2001), [-0.5, 0, 0.5], [750, 501, 750], [2, 2, 1], **settings)


def test_tints_alternate_by_cell():
    first, second = go.Figure(draw_histogram(example())).data[:2]
    assert ((np.abs(first.x) > 0.25).all(), (np.abs(second.x) < 0.25).all()) == (True, True)
    assert first.marker.color != second.marker.color


def test_stems_end_at_codeword_lengths_and_hover_tells_the_centre():
    markers = go.Figure(draw_histogram(example())).data[-1]
    np.testing.assert_array_equal(markers.x, [-0.5, 0, 0.5])
    np.testing.assert_array_equal(markers.y, [2, 2, 1])
    np.testing.assert_allclose(markers.customdata[1], [1, 501, 100 * 501 / 2001])


def test_boundaries_are_solid_if_exact_dashed_if_not_and_absent_if_unknown():
    dashes = [
        [t.line.dash for t in go.Figure(draw_histogram(example(**k))).select_traces({"mode": "lines"})]
        for k in (
            {},
            {"thresholds_exact": False},
            {"thresholds": None},
        )
    ]
    assert dashes == [["solid", "solid"], ["dash", "solid"], ["solid"]]


def test_what_is_not_drawn_is_said():
    title = go.Figure(draw_histogram(example(pruned_zeros=12345, label="fc1", thresholds=None))).layout.title.text
    assert "12,345 pruned zeros not drawn" in title
    assert "fc1" in title
    assert "cells depend on h" in title


def test_axes_have_units_and_the_count_axis_may_be_logarithmic():
    linear, log = go.Figure(draw_histogram(example())), go.Figure(draw_histogram(example(), log_count=True))
    assert linear.layout.yaxis2.title.text == "codeword length [bit]"
    assert "weights per bar" in linear.layout.yaxis.title.text
    assert (linear.layout.yaxis.type, log.layout.yaxis.type) == (None, "log")
    assert linear.layout.yaxis.uirevision != log.layout.yaxis.uirevision


@pytest.mark.parametrize("log_count", [False, True])
def test_without_centres_there_are_bars_alone(log_count):
    position = np.linspace(-1, 1, 2001)
    data = histogram_data(position, np.ones(2001), [], [], [], pruned_zeros=7, label="fc1")
    figure = go.Figure(draw_histogram(data, log_count=log_count))
    (bars,) = figure.data
    assert (bars.type, bars.name) == ("bar", "weights")
    assert mass(data).sum() + data.outside == pytest.approx(2001)
    assert "2,001 weights · 7 pruned" in figure.layout.title.text
    assert "yaxis2" not in figure.layout
    assert figure.layout.margin == go.Figure(draw_histogram(example())).layout.margin
    with pytest.raises(ValueError, match="the 0 ascending boundaries between 0 cells, but got 1"):
        histogram_data(position, np.ones(2001), [], [], [], thresholds=[0.0])


def test_table_holds_the_bars_and_their_centres():
    data = example()
    table = histogram_table(data)
    assert table["weights"].sum() + data.outside == pytest.approx(2001)
    np.testing.assert_array_equal(table["weights per 0.013"], data.bar_height)
    inner = table[(table["from [weight]"] >= -0.25) & (table["to [weight]"] <= 0.25)]
    assert set(inner["centre [weight]"]) == {0}
    assert set(table["codeword length [bit]"][table["from [weight]"] >= 0.25]) == {1}
    assert "centre [weight]" not in histogram_table(example(thresholds=None))
    assert "centre [weight]" not in histogram_table(histogram_data([0.0], [1], [], [], []))
