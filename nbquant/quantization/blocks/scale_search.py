"""Search for the stored scales of least weighted error.

The scale is rounded to its stored type first, then codes are chosen for it.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from nbquant.kernels.cpu import block_search
from nbquant.quantization.blocks.grid import Blocks, Candidates

Rounding = Callable[[np.ndarray], Float32[np.ndarray, "..."]]
"""Rounds scales to the nearest value of the stored type."""

PIECE = 1 << 18  # weights whose candidates are in memory at a time

_TRIED = {2: (0.35, 1.15), 3: (0.55, 1.15), 4: (0.8, 1.15), 5: (0.92, 1.17), 6: (0.95, 1.17), 8: (0.985, 1.16)}
"""Range of factors by bits.

With few levels, clipping pays; with many, a somewhat larger scale often happens to be nearer to all weights.
"""


def factors(bits: int, count: int = 16) -> Float32[np.ndarray, " candidates"]:
    """List the factors of the scale that are tried, 1 first."""
    least, most = _TRIED[bits]
    return np.concatenate([[1], np.linspace(least, most, count - 1)]).astype(np.float32)


def two_sided_factors(bits: int) -> Float32[np.ndarray, " candidates"]:
    """List the factors of scales that map the extreme weight near −2^(b−1), and fewer near 2^(b−1) − 1."""
    half = 1 << (bits - 1)
    one, other = (11, 5) if bits < 8 else (20, 12)
    return np.concatenate([factors(bits, one), factors(bits, other) * np.float32(-half / (half - 1))])


class Grid(Protocol):
    """Levels to which scaled weights are rounded."""

    @property
    def levels(self) -> Float32[np.ndarray, " k"]:
        """Level of each code."""

    @property
    def neighbours(self) -> int:
        """Number of neighbours of a least-squares scale that are worth their time."""

    def errors(self, weight: Blocks, h: Blocks, scale: Candidates) -> Float64[np.ndarray, "blocks candidates"]:
        """Compute the weighted error of each candidate."""

    def codes(self, weight: Blocks, scale: Float32[np.ndarray, " blocks"]) -> UInt8[np.ndarray, "blocks length"]:
        """Round scaled weights to the nearest code."""


def pieces(weight: Blocks, sensitivity: Blocks | None) -> Iterator[tuple[slice, Blocks, Blocks]]:
    """Yield some blocks at a time: which, their weights, and sensitivities relative to the largest, or all 1."""
    most = 0.0 if sensitivity is None else float(sensitivity.max())
    unit = 1.0 / most if most else 1.0
    size = max(1, PIECE // weight.shape[1])
    for first in range(0, len(weight), size):
        part = slice(first, first + size)
        w = weight[part]
        yield (
            part,
            w,
            np.ones(w.shape, np.float32) if sensitivity is None else (sensitivity[part] * unit).astype(np.float32),
        )


def best_scales(
    weight: Blocks,
    sensitivity: Blocks | None,
    grid: Grid,
    start: Float32[np.ndarray, " blocks"],
    factors: Float32[np.ndarray, " candidates"],
    rounding: Rounding,
    refinements: int = 1,
) -> Float32[np.ndarray, " blocks"]:
    """Search for the scale of least Σ h (w − ŵ)² of each block, among values of the stored type.

    First ``factors`` times a start are compared, then the least-squares scale of the best codes so far and its
    neighbours; the best one stays.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h; None: all 1.
        grid: Levels.
        start: A scale of each block, mostly what maps its largest weight to the end of the grid.
        factors: What it is multiplied by; the first should be 1.
        rounding: Rounds to the stored type.
        refinements: How often the least-squares scale is tried.
    """
    found = np.empty(len(weight), np.float32)
    for part, w, h in pieces(weight, sensitivity):
        candidates = rounding(start[part, None] * factors)
        (best,), error = least_error((candidates,), grid.errors(w, h, candidates))
        for _ in range(refinements):
            fitted = least_squares_scale(w, h, grid.codes(w, best), grid.levels, best)
            candidates = rounding(fitted[:, None] * NEAR[: grid.neighbours])
            (better,), its_error = least_error((candidates,), grid.errors(w, h, candidates))
            best = np.where(its_error < error, better, best)
            error = np.minimum(error, its_error)
        found[part] = best
    return found


NEAR = 1 + np.array([0, -1, 1, -2, 2, -3, 3, -4, 4, -6, 6, -8, 8, -12, 12, 16], np.float32) / 1024
"""Neighbours of a least-squares scale that are tried with it, as factors: a step of float16 is 1/1024 or less."""


def least_squares_scale(
    weight: Blocks,
    h: Blocks,
    codes: UInt8[np.ndarray, "blocks length"],
    levels: Float32[np.ndarray, " k"],
    otherwise: Float32[np.ndarray, " blocks"],
) -> Float32[np.ndarray, " blocks"]:
    """Fit the scale of each block to its codes by weighted least squares; ``otherwise`` where all levels are 0."""
    sums = np.empty((len(weight), 5))
    block_search.moments(weight, h, codes, levels, sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 2] > 0, sums[:, 4] / sums[:, 2], otherwise).astype(np.float32)


def least_error(
    candidates: tuple[Candidates, ...], errors: Float64[np.ndarray, "blocks candidates"]
) -> tuple[tuple[Float32[np.ndarray, " blocks"], ...], Float64[np.ndarray, " blocks"]]:
    """Choose the candidate of least error of each block, the first of several; one that is not finite never wins."""
    chosen = np.empty(len(errors), np.int64)
    block_search.choose_least(errors, chosen)
    blocks = np.arange(len(errors))
    least = errors[blocks, chosen]
    return tuple(kind[blocks, chosen] for kind in candidates), np.where(np.isfinite(least), least, np.inf)
