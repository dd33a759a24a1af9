"""Extreme weights of blocks, from which libraries compute scales."""

import numpy as np
from jaxtyping import Float32

from nbquant.kernels.cpu import block_codes as kernels

Blocks = Float32[np.ndarray, "blocks length"]
PerBlock = Float32[np.ndarray, " blocks"]


def signed_extremes(weight: Blocks) -> PerBlock:
    """Find the weight of largest magnitude of each block, with its sign; the first of several."""
    extreme = np.empty(len(weight), np.float32)
    kernels.largest_magnitudes(weight.view(np.int32), extreme.view(np.int32))
    return extreme


def largest_magnitudes(weight: Blocks) -> PerBlock:
    """Find the largest magnitude of each block; not finite where a weight is not."""
    return np.abs(signed_extremes(weight))


def ranges(weight: Blocks) -> tuple[PerBlock, PerBlock]:
    """Find the least and the greatest weight of each block."""
    least, most = np.empty((2, len(weight)), np.float32)
    kernels.extremes(weight, least, most)
    return least, most
