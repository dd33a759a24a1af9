from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.views import single_points as module
from nbquant.views.single_points import place_labels

SPOT = st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7))


def boxes(points, labels):
    places = place_labels([x for x, _ in points], [y for _, y in points], labels)
    return [module._label_box(*p, t, module._PLACES[w]) for p, t, w in zip(points, labels, places, strict=True)]


@given(st.lists(SPOT, min_size=2, max_size=3))
def test_labels_of_few_points_never_overlap(points):
    found = boxes(points, ["97.31%"] * len(points))
    assert max(module._overlap(a, b) for a, b in combinations(found, 2)) < 1e-12


def test_a_row_of_close_points_keeps_its_labels_apart():
    found = boxes([(0.3 + 0.04 * i, 0.5) for i in range(6)], ["97.31%"] * 6)
    assert sum(module._overlap(a, b) for a, b in combinations(found, 2)) == pytest.approx(0, abs=1e-3)


@given(st.floats(0, 1), st.floats(0, 1))
def test_labels_stay_inside(x, y):
    (box,) = boxes([(x, y)], ["a label of mine"])
    assert module._outside(box) == pytest.approx(0, abs=1e-3 * len("a label of mine"))


def test_the_first_place_is_below_to_the_right_where_no_curve_runs():
    assert place_labels([0.5], [0.5], ["a"]) == ["bottom right"]


def test_long_labels_are_cut():
    assert len(module._short("hessian-weighted k-means at 20 bits")) <= 22
    assert module._short("short") == "short"
