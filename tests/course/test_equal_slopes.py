"""Formats by equal slopes: against all combinations."""

import numpy as np
import pytest

from nbquant.course.equal_slopes import cheapest, draw_equal_slopes, equal_slopes_data, lambdas, show, slopes

BITS = np.array([3.0, 4.5, 6.5, 8.5])
RANDOM = np.random.default_rng(0)
TABLE = {
    f"layer {i}": {
        name: (float(size * bits), float(loss))
        for name, bits, loss in zip("abcd", BITS, RANDOM.uniform(0.1, 10) * 4.0**-BITS, strict=True)
    }
    for i, size in enumerate((16384, 65536, 49152))
}


def test_by_hand():
    """One bit more saves 1 in the first layer and 3 in the second: at λ = 2 only the second takes it."""
    table = {"first": {"low": (1.0, 2.0), "high": (2.0, 1.0)}, "second": {"low": (1.0, 5.0), "high": (2.0, 2.0)}}
    data = equal_slopes_data(table, 2.0)
    assert data.formats == {"first": "low", "second": "high"}
    assert (data.bits[data.chosen], data.loss[data.chosen]) == (3, 4)
    assert slopes(table) == [3, 1]
    assert sorted(data.bits[data.reachable]) == [2, 3, 4]
    assert cheapest(table["first"], 0.5) == "high"


@pytest.mark.parametrize("lmbda", lambdas(TABLE)[::5])
def test_choice_is_the_least_lagrangian_and_the_best_of_its_size(lmbda):
    data = equal_slopes_data(TABLE, float(lmbda))
    assert len(data.bits) == 4**3
    cost = data.loss + lmbda * data.bits
    assert cost[data.chosen] == pytest.approx(cost.min())
    assert data.loss[data.chosen] == data.loss[data.bits <= data.bits[data.chosen]].min()
    assert data.chosen in data.reachable


def test_reachable_ones_are_the_convex_hull():
    data = equal_slopes_data(TABLE, 1e-6)
    bits, loss = data.bits[data.reachable], data.loss[data.reachable]
    assert bits[0] == data.bits.min()
    assert loss[-1] == data.loss.min()
    steps = np.diff(loss) / np.diff(bits)
    assert (np.diff(bits) > 0).all()
    assert (np.diff(steps) > 0).all()
    for b, c, slope in zip(bits, loss, steps, strict=False):
        assert (data.loss >= c + slope * (data.bits - b) - 1e-12).all()


def test_picture_follows_the_slider():
    live = show(TABLE, 0)
    assert "chooses layer 0 a, layer 1 a, layer 2 a" in live.summary
    live.controls["place"].value = 40
    assert "chooses layer 0 d, layer 1 d, layer 2 d" in live.box.children[1].value
    (axes,) = draw_equal_slopes(equal_slopes_data(TABLE, 1e-9)).axes
    assert "layer 1: " in axes.get_title(loc="left")
    assert len(axes.lines[0].get_xdata()) == 64
