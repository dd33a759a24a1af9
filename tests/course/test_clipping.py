"""The error of a grid is clipping plus rounding, and the range balances them."""

import numpy as np
import pytest

from nbquant.course.clipping import SHARES, clipping_data, draw_clipping, show, split_error

WEIGHT = np.random.default_rng(0).normal(size=4000)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("limit", [0.5, 2.0, 10.0])
def test_parts_sum_to_the_error(bits, limit):
    most = 2 ** (bits - 1) - 1
    levels = np.linspace(-limit, limit, 2 * most + 1)
    nearest = ((WEIGHT[:, None] - levels) ** 2).min(axis=1).mean()
    clipping, rounding = split_error(WEIGHT, limit, bits)
    assert clipping + rounding == pytest.approx(nearest)
    assert (clipping == 0) == (limit > np.abs(WEIGHT).max())


def test_by_hand():
    """Levels −1, 0, 1: 3 is clipped by 2, and 0.4 is rounded by 0.4."""
    assert split_error(np.array([3.0, 0.4]), 1.0, 2) == pytest.approx((4 / 2, 0.16 / 2))


def test_clipping_falls_and_rounding_grows_with_the_range():
    data = clipping_data(WEIGHT, 60, 4)
    assert (np.diff(data.clipping) <= 0).all()
    assert (np.diff(data.rounding) > 0).all()
    assert data.clipping[-1] == 0
    assert data.limit == pytest.approx(0.6 * np.abs(WEIGHT).max())
    assert 0 < data.best < len(SHARES) - 1


def test_more_bits_clip_less():
    assert clipping_data(WEIGHT, 100, 2).best < clipping_data(WEIGHT, 100, 4).best < clipping_data(WEIGHT, 100, 8).best


def test_picture_follows_the_sliders():
    live = show(WEIGHT)
    live.controls["bits"].value = 2
    live.controls["share"].value = 30
    assert "int2 with levels up to" in live.box.children[1].value
    left, _ = draw_clipping(clipping_data(WEIGHT, 30, 2)).axes
    assert "3 levels" in left.get_title(loc="left")
