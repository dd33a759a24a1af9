"""Counts of zeros and of values that are not finite, against numpy."""

import numpy as np
import pytest

from nbquant.kernels.cpu.special import count_special


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_counts_are_numpy_s(size):
    rng = np.random.default_rng(size)
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -2.5, 1e-45, -1e-45, 3e38], np.float32)
    values = rng.choice(values, size)
    zero = values == 0
    expected = int(zero.sum()), int((zero & np.signbit(values)).sum()), int((~np.isfinite(values)).sum())
    assert count_special(values.view(np.uint32)) == expected
