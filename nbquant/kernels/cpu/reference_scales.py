"""Kernels of the encoders of ggml that fit a scale to codes in float32: sums in the order in which ggml adds."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray


@compiled()
def fit_by_square(weight: Array, codes: Array, level: Array, scale: Array) -> None:
    """Fit the scale of each block to its codes by least squares, each weight weighted by its square.

    s = Σ w² q w / Σ w² q²

    Args:
        weight: Weights w, blocks × length.
        codes: Codes, blocks × length.
        level: Level q of each code.
        scale: Output; 0 where the sums vanish.
    """
    for b in range(weight.shape[0]):
        product, square = np.float32(0), np.float32(0)
        for j in range(weight.shape[1]):
            w, q = weight[b, j], level[codes[b, j]]
            product += w * w * q * w
            square += w * w * q * q
        scale[b] = product / square if square != 0 else np.float32(0)
