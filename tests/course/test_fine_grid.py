"""A grid with one scale: its entropy, its error, and those of the format with blocks."""

import numpy as np
import pytest

from nbquant.course.fine_grid import BITS, draw_fine_grid, fine_grid_data, grid_codes, show
from nbquant.quantization.blocks.formats import named

WEIGHT = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)


def test_codes_by_hand():
    codes, step = grid_codes(np.array([3.0, -1.4, 0.4]), 3)
    assert (codes.tolist(), step) == ([3, -1, 0], 1.0)
    codes, step = grid_codes(np.array([6.0, -1.4, 0.4]), 3, share=50)
    assert (codes.tolist(), step) == ([3, -1, 0], 1.0)


def test_entropy_and_error_are_those_of_the_codes():
    data = fine_grid_data(WEIGHT, 5, 100)
    q, step = grid_codes(WEIGHT.astype(np.float64), 5)
    p = np.unique(q, return_counts=True)[1] / q.size
    assert data.entropy == pytest.approx(-(p * np.log2(p)).sum())
    assert data.error == pytest.approx(((q * step - WEIGHT) ** 2).sum() / (WEIGHT.astype(np.float64) ** 2).sum())
    assert data.probability.sum() == pytest.approx(1)
    assert data.probability[data.level == 0] == pytest.approx((q == 0).mean())


def test_a_further_bit_is_a_bit_of_entropy_and_a_quarter_of_the_error():
    data = fine_grid_data(WEIGHT, 5, 100)
    assert np.diff(data.entropies)[1:] == pytest.approx(1, abs=0.1)
    assert data.errors[2:-1] / data.errors[3:] == pytest.approx(4, rel=0.2)
    assert len(data.entropies) == len(BITS)


def test_blocks_are_those_of_the_package():
    data = fine_grid_data(WEIGHT, 5, 100)
    form = named("q4_0")
    restored = form.decode_bytes(form.encode_bytes(WEIGHT), WEIGHT.shape)
    assert data.block_error == pytest.approx(((restored - WEIGHT) ** 2).sum() / (WEIGHT**2).sum(), rel=1e-4)
    assert data.block_rates[0] == 4.5 > data.block_rates[1]


def test_the_puzzle():
    """On normal weights: the finer grid takes fewer bits at about the same error."""
    data = fine_grid_data(WEIGHT, 5, 100)
    assert data.entropy < data.block_rates[1] < 5
    assert data.error < 1.1 * data.block_error


def test_picture_follows_the_sliders():
    live = show(WEIGHT)
    live.controls["bits"].value = 3
    live.controls["share"].value = 40
    assert "int3 with one scale" in live.box.children[1].value
    left, _ = draw_fine_grid(fine_grid_data(WEIGHT, 3, 40)).axes
    assert len(left.patches) == 7
