import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from nbquant.views.decomposition import decomposition_data, draw_decomposition
from nbquant.views.still import still

ROWS = pd.DataFrame(
    {
        "label": ["fine", "coarse", "lucky"],
        "compression_ratio": [5.0, 20.0, 3.0],
        "gradient": [1e-4, 1e-3, -1e-3],
        "diagonal": [1e-3, 2e-3, 1e-3],
        "quadratic": [1e-3, 9e-3, 1e-3],
        "gauss_newton": [1.1e-3, 1.9e-2, 1e-3],
        "measured": [1.2e-3, 3e-2, -1e-4],
    }
)


def test_predictions_are_of_all_terms_and_marked_where_they_are_off():
    data = decomposition_data(ROWS)
    np.testing.assert_allclose(data.predicted["second_order"], [1.1e-3, 1e-2, 0])
    np.testing.assert_allclose(data.predicted["gauss_newton"], [1.2e-3, 2e-2, 0])
    assert data.off["diagonal"].tolist() == [False, True, True]
    assert data.off["gauss_newton"].tolist() == [False, False, True]
    assert data.off["second_order"].tolist() == [False, True, True]
    assert data.not_shown == 3
    assert data.limits == (1e-3, 3e-2)


def test_hollow_markers_are_those_that_are_off():
    traces = {t.name: t for t in go.Figure(draw_decomposition(decomposition_data(ROWS))).data}
    assert list(traces["½Σhδ²"].x) == [1e-3]
    assert list(traces["½Σhδ² (off)"].y) == [3e-2]
    assert traces["½Σhδ² (off)"].marker.symbol.endswith("-open")
    assert len(traces["gᵀδ + ½δᵀGδ (off)"].x) == 0
    assert traces["gᵀδ + ½δᵀHδ (off)"].customdata[0][0] == "coarse"
    symbols = {traces[n].marker.symbol for n in ("½Σhδ²", "gᵀδ + ½δᵀGδ", "gᵀδ + ½δᵀHδ")}
    assert len(symbols) == 3, "no figure relies on colour alone"


def test_each_quantization_is_labelled_once_beside_a_marker():
    labels = go.Figure(draw_decomposition(decomposition_data(ROWS))).data[-1]
    named = {text: (x, y) for text, x, y in zip(labels.text, labels.x, labels.y, strict=True) if text}
    assert named == {"fine": (1e-3, 1.2e-3), "coarse": (2e-3, 3e-2)}, "the third cannot be drawn on logarithmic axes"
    axes = still(draw_decomposition(decomposition_data(ROWS))).axes[0]
    assert {"fine", "coarse"} <= {text.get_text() for text in axes.texts}


def test_labels_of_equal_points_do_not_overlap():
    rows = pd.concat([ROWS[:1]] * 12)
    labels = go.Figure(draw_decomposition(decomposition_data(rows))).data[-1]
    places = [place for text, place in zip(labels.text, labels.textposition, strict=True) if text]
    assert 1 <= len(places) == len(set(places))


def test_lines_are_where_predictions_are_right_and_off_twofold():
    line, above, below = go.Figure(draw_decomposition(decomposition_data(ROWS))).data[:3]
    np.testing.assert_array_equal(line.x, line.y)
    np.testing.assert_allclose(above.y, 2 * np.array(above.x))
    np.testing.assert_allclose(below.y, np.array(below.x) / 2)


def test_rows_off_by_more_than_twofold_are_counted_in_the_title():
    data = decomposition_data(ROWS)
    assert data.off["second_order"].tolist() == [False, True, True]
    title = go.Figure(draw_decomposition(data)).layout.title.text
    assert "of 3: ½Σhδ² 1, gᵀδ + ½δᵀGδ 2, gᵀδ + ½δᵀHδ 1" in title
    assert "3 not positive" in title


def test_it_is_drawn_still_and_nothing_is_refused():
    (axes,) = still(draw_decomposition(decomposition_data(ROWS))).axes
    assert axes.get_xlim() == axes.get_ylim()
    with pytest.raises(ValueError, match="at least one row"):
        decomposition_data(ROWS[:0])


def test_a_prediction_that_is_off_everywhere_is_in_the_legend_all_the_same():
    shown = {t.name for t in go.Figure(draw_decomposition(decomposition_data(ROWS[1:2]))).data if t.showlegend}
    assert {"½Σhδ² (off)", "gᵀδ + ½δᵀGδ", "gᵀδ + ½δᵀHδ (off)"} <= shown
    shown = {t.name for t in go.Figure(draw_decomposition(decomposition_data(ROWS))).data if t.showlegend}
    assert {"½Σhδ²", "gᵀδ + ½δᵀGδ", "gᵀδ + ½δᵀHδ"} <= shown
    assert not any(name.endswith("(off)") for name in shown)
