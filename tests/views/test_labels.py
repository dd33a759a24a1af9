from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.views import labels as module
from nbquant.views.labels import place_labels

SPOT = st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7))


def boxes(points, labels, lettering=module.LARGE):
    """Boxes of the labels that have a place."""
    places = place_labels([x for x, _ in points], [y for _, y in points], labels, lettering)
    named = [(p, t, w) for p, t, w in zip(points, labels, places, strict=True) if w]
    return [module._label_box(*p, t, module._PLACES[w], lettering) for p, t, w in named]


@given(st.lists(SPOT, min_size=2, max_size=3))
def test_labels_of_few_points_never_overlap(points):
    found = boxes(points, ["97.31%"] * len(points))
    assert len(found) == len(points)
    assert max(module._overlap(a, b) for a, b in combinations(found, 2)) < 1e-12


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40),
    st.sampled_from([module.LARGE, module.SMALL]),
)
def test_labels_of_any_number_of_pins_never_overlap(points, lettering):
    found = boxes(points, [f"pin {i}" for i in range(len(points))], lettering)
    assert found
    assert all(module._overlap(a, b) == 0 for a, b in combinations(found, 2))


def test_a_hundred_pins_at_one_place_have_as_many_labels_as_fit_around_it():
    found = boxes([(0.5, 0.5)] * 100, ["A"] * 100, module.SMALL)
    assert 6 <= len(found) <= 8
    assert all(module._overlap(a, b) == 0 for a, b in combinations(found, 2))


def test_label_keeps_off_a_curve_where_it_can():
    rising = np.linspace(0, 1, 200)
    curve = np.stack([rising, 0.46 + 0 * rising], 1)  # runs through the place below to the right
    (place,) = place_labels([0.5], [0.5], ["pin"], module.SMALL, curve)
    box = module._label_box(0.5, 0.5, "pin", module._PLACES[place], module.SMALL)
    assert module._inside(box, curve) == 0


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
    assert len(module.short("hessian-weighted k-means at 20 bits")) <= 22
    assert module.short("short") == "short"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_labels_that_must_be_clear_cover_no_marker_and_stay_inside(points):
    x, y = (list(each) for each in zip(*points, strict=True))
    labels = [f"format {i}" for i in range(len(points))]
    places = place_labels(x, y, labels, module.SMALL, most_covered=0)
    across, down = module.SMALL.marker
    markers = [(a - across, b - down, a + across, b + down) for a, b in points]
    for number, (label, place) in enumerate(zip(labels, places, strict=True)):
        if place:
            box = module._label_box(*points[number], label, module._PLACES[place], module.SMALL)
            assert module._outside(box) == 0
            assert all(module._overlap(box, m) == 0 for i, m in enumerate(markers) if i != number)


def test_a_label_with_no_clear_place_is_left_out():
    assert place_labels([0.5, 0.501], [0.5, 0.501], ["a", "b"]) == ["bottom right", "top left"]
    assert place_labels([0.02], [0.5], ["a very long label of a point"], module.SMALL, most_covered=0) != [""]
    assert place_labels([0.5], [0.5], ["a label longer than the plot is wide" * 2], module.SMALL, most_covered=0) == [
        ""
    ]
