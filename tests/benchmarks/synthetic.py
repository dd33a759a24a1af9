"""Weights and sensitivities as those of a trained AlexNet are distributed."""

import numpy as np
import torch
from torch import Tensor

SCALE = 0.03  # of the weights
SPREAD = 2.0  # σ of log h
CHUNK = 1 << 16  # drawn at once, so that the memory it takes is small beside the weights


def weights(n: int, spread: float = SPREAD, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n Laplacian weights w and log-normal sensitivities h, float32."""
    random = np.random.default_rng(seed)
    w, h = np.empty(n, np.float32), np.empty(n, np.float32)
    for begin in range(0, n, CHUNK):
        part = slice(begin, begin + CHUNK)
        size = len(w[part])
        w[part] = random.laplace(0, SCALE, size)
        h[part] = np.exp(spread * random.standard_normal(size, np.float32))
    return torch.from_numpy(w), torch.from_numpy(h)
