"""Estimate the rate of trellis paths at any λ from a sample of columns."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from nbquant.coding.levels import rows_of_block
from nbquant.kernels import dispatch
from nbquant.quantization.paths import (
    DESIGNED_ON,
    FIRST_SHARE,
    MOST_LEVELS,
    MOST_TURNS,
    Matrix,
    alternate,
    costs_of,
    first_costs,
    sample_of,
)

TURNS, NEAR = 3, 2.0  # turns from the steps and code lengths at a λ that differs by at most such a factor


class RateEstimate:
    """Estimates of the rate at any λ, each started from the last.

    Steps go with √λ. Side information such as codebooks is not counted.

    Args:
        matrices: The tensors with their initial steps at some λ.
        lmbda: This λ [loss/bit].
        fixed_step: Whether the steps stay fixed.
    """

    def __init__(self, matrices: Sequence[Matrix], lmbda: float, fixed_step: bool) -> None:
        self._total = sum(m.target.numel() for m in matrices)
        self._sizes = [m.target.numel() for m in matrices]
        self._samples: tuple[Matrix, ...] = tuple(sample_of(m, DESIGNED_ON / self._total) for m in matrices)
        self._costs: dict[str, Float[np.ndarray, "2 l p k"]] = {}
        self._lmbda, self._fixed_step = lmbda, fixed_step

    def __call__(self, lmbda: float) -> float:
        """Estimate the rate [bit/weight] at λ [loss/bit]."""
        factor = 1.0 if self._fixed_step else math.sqrt(lmbda / self._lmbda)
        moved = [replace(m, step=factor * m.step) for m in self._samples]
        if self._costs and 1 / NEAR <= lmbda / self._lmbda <= NEAR:
            costs, share, turns = self._costs, 1.0, TURNS
        else:
            costs, share, turns = first_costs(moved), FIRST_SHARE, MOST_TURNS
        paths = alternate(moved, costs, share, lmbda, self._fixed_step, iter(()), turns)
        self._samples, self._lmbda = paths.matrices, lmbda
        self._costs, _ = costs_of(paths.matrices)
        pairs = zip(paths.matrices, self._sizes, strict=True)
        return math.fsum(_bits(m, self._costs[m.code]) * n / m.target.numel() for m, n in pairs) / self._total


def _bits(matrix: Matrix, costs: Float[np.ndarray, "2 l p k"]) -> float:
    assert matrix.integers is not None
    rows = rows_of_block(matrix.integers.shape[1])
    counts = dispatch.count_levels(matrix.integers.cpu().numpy(), rows, MOST_LEVELS)
    return float((counts[..., : costs.shape[-1]] * costs).sum())
