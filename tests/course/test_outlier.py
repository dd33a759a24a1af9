"""An outlier raises the error of its own block, and of no other."""

import numpy as np
import pytest

from nbquant.course.outlier import LENGTHS, PLACE, SIZES, draw_outlier, outlier_data, rounded, show

WEIGHT = np.random.default_rng(0).normal(size=256).astype(np.float32)


def test_rounding_by_hand():
    assert rounded(np.array([7.0, 3.4, -3.6, 0.2]), 4, 4).tolist() == [7, 3, -4, 0]
    assert rounded(np.array([7.0, 3.4, 0, 0]), 2, 4).tolist() == [7, 3, 0, 0]


@pytest.mark.parametrize("length", LENGTHS)
def test_only_the_block_of_the_outlier_breaks(length):
    data = outlier_data(WEIGHT, 20, length)
    same = np.arange(256 // length) != data.block
    assert (data.after[same] == data.before[same]).all()
    assert data.after[data.block] > 10 * data.before[data.block]
    assert data.restored[PLACE] == pytest.approx(20 * WEIGHT.std(), rel=1e-6)


def test_error_is_of_the_other_weights():
    data = outlier_data(WEIGHT, 20, 32)
    others = [i for i in range(32 * data.block, 32 * data.block + 32) if i != PLACE]
    square = [(data.restored[i] - WEIGHT[i]) ** 2 for i in others]
    assert data.after[data.block] == pytest.approx(sum(square) / 31 / WEIGHT.var(), rel=1e-5)


def test_nothing_changes_without_an_outlier():
    data = outlier_data(WEIGHT, 0, 32)
    assert (data.after == data.before).all()
    assert data.after.mean() == pytest.approx(((data.restored - WEIGHT) ** 2).mean() / WEIGHT.var(), rel=1e-5)
    assert "no outlier" in data.summary


def test_a_larger_outlier_never_helps():
    found = [outlier_data(WEIGHT, size, 32).after.mean() for size in SIZES if size == 0 or size >= 6]
    assert (np.diff(found) > -1e-3).all()


def test_lengths_must_divide():
    with pytest.raises(ValueError, match="256 weights and a length that divides them"):
        outlier_data(WEIGHT, 0, 48)
    with pytest.raises(ValueError, match="256 weights"):
        outlier_data(WEIGHT[:64], 0, 32)


def test_picture_follows_the_controls():
    live = show(WEIGHT)
    live.controls["length"].value = 256
    live.controls["size"].value = 40
    assert "scale for 256 weights" in live.box.children[1].value
    bars = draw_outlier(outlier_data(WEIGHT, 40, 64)).axes[1].patches
    assert len(bars) == 4
