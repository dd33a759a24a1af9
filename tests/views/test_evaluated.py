"""Measured points: what is shown, their errors, and what is left out."""

import numpy as np
import pytest

from nbquant.views.evaluated import EvaluatedPoint, draw_evaluated, evaluated_data, evaluated_table
from nbquant.views.still import still


def point(ratio, lost=1.0, error=0.5, divergence=0.02, **others):
    known = {"method": "kmeans", "weighted": True, "rate": 32 / ratio, "predicted_loss": 0.1}
    known |= {"divergence_error": 0.001, "labels": 500}
    return EvaluatedPoint(
        compression_ratio=ratio, accuracy_lost=lost, accuracy_error=error, divergence=divergence, **(known | others)
    )


def test_points_stand_at_their_values_by_rising_ratio():
    found = evaluated_data([point(20, 2.0, 0.7), point(10, -0.5, 0.25)], "accuracy", (5, 40))
    assert found.value.tolist() == [-0.5, 2.0]
    assert found.error.tolist() == [0.25, 0.7]
    assert found.limits == (-0.75, 2.7)
    bars, marks = draw_evaluated(found)["data"]
    assert marks["x"] == [10, 20]
    assert marks["y"] == [-0.5, 2.0]
    np.testing.assert_array_equal(bars["y"][:2], [-0.75, -0.25])
    np.testing.assert_allclose(bars["y"][3:5], [1.3, 2.7])


def test_what_was_not_measured_is_not_drawn_but_counted():
    found = evaluated_data([point(10, None, None), point(20)], "accuracy", unmeasured=3)
    assert [p.compression_ratio for p in found.points] == [20]
    figure = draw_evaluated(found)
    assert "1 point measured, ± standard error · 3 pinned, not measured" in figure["layout"]["title"]["text"]
    none = draw_evaluated(evaluated_data([], "divergence"))
    assert none["data"] == []
    assert "nothing measured yet" in none["layout"]["title"]["text"]


def test_divergences_have_a_logarithmic_axis_with_none_at_its_foot():
    found = evaluated_data([point(10, divergence=0.0, divergence_error=0.0), point(20, divergence=0.1)], "divergence")
    figure = draw_evaluated(found)
    low, high = figure["layout"]["yaxis"]["range"]
    _, marks = figure["data"]
    assert marks["y"] == [pytest.approx(10**low), 0.1]
    assert marks["marker"]["symbol"] == ["triangle-down", "circle"]
    assert low < np.log10(0.1) < high


def test_methods_have_their_own_traces_and_unweighted_ones_are_hollow():
    _, first, second = draw_evaluated(
        evaluated_data([point(10), point(12, method="uniform", weighted=False)], "accuracy")
    )["data"]
    assert first["marker"]["color"] != second["marker"]["color"]
    assert second["marker"]["symbol"] == ["square-open"]


def test_it_has_a_table_and_a_still_picture():
    found = evaluated_data([point(10, label="A"), point(20)], "accuracy")
    table = evaluated_table(found)
    assert table["accuracy lost [points]"].tolist() == [1.0, 1.0]
    assert table["pin"].tolist() == ["A", ""]
    assert still(draw_evaluated(found)).axes


def test_unknown_quantity_is_refused():
    with pytest.raises(ValueError, match="quantity must be one of accuracy, divergence"):
        evaluated_data([], "loss")


def test_much_that_is_lost_hides_nothing_elsewhere():
    figure = draw_evaluated(evaluated_data([point(10, 0.2), point(12, 0.3), point(30, 82.0)], "accuracy"))
    _, high = figure["layout"]["yaxis"]["range"]
    assert high < 6
    marks = figure["data"][1]
    assert marks["y"] == [0.2, 0.3, high]
    assert marks["marker"]["symbol"] == ["circle", "circle", "triangle-up"]
    assert "▲ more" in figure["layout"]["title"]["text"]
