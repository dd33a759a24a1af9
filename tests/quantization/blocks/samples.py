"""Weights that golden files were made from, and others with what formats stumble on."""

import numpy as np

ROWS, COLUMNS = 24, 512


def weights() -> np.ndarray:
    """Rows of Gaussian weights, some with zeros, ties, outliers, one sign, or unusual magnitudes."""
    rng = np.random.default_rng(18)
    weight = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(0.02)
    weight[1] = 0
    weight[2, ::3] = 0
    weight[3, ::2] = -0.0
    weight[4] *= np.float32(1e-5)
    weight[5] *= np.float32(1e4)
    weight[6] = np.abs(weight[6])
    weight[7] = -np.abs(weight[7])
    weight[8] = np.round(weight[8] * 50) / 50
    weight[9] = 0.125
    weight[10, 5] = 3
    weight[11] = np.sign(weight[11])
    weight[12, :256] = 0
    return weight


def padded_weights() -> np.ndarray:
    """Rows of 100 weights, which fill no block of 32."""
    return np.ascontiguousarray(weights()[:, :100])


def sensitivities(shape: tuple[int, ...]) -> np.ndarray:
    """Exponentially distributed sensitivities."""
    return np.random.default_rng(1).exponential(1.0, shape).astype(np.float32)
