"""Counts of what a format destroyed: zeros, signs, finite values."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Damage:
    """What decoded weights lost against the original ones.

    Attributes:
        weights: Number of weights.
        zeros: Weights that were exactly zero.
        zeros_lost: … of them, that are not zero any more.
        negative_zeros: Decoded weights of −0.0.
        signs_flipped: Weights that came back with the other sign (to zero is not counted).
        not_finite: Decoded weights that are NaN or infinite.
        error: Σ (w − ŵ)².
        energy: Σ w².
    """

    weights: int
    zeros: int
    zeros_lost: int
    negative_zeros: int
    signs_flipped: int
    not_finite: int
    error: float
    energy: float

    @property
    def relative_error(self) -> float:
        """Σ (w − ŵ)² / Σ w²; 1 where all weights became zero, NaN without energy."""
        return self.error / self.energy if self.energy else float("nan")

    def __add__(self, other: "Damage") -> "Damage":
        """Add the counts of other weights."""
        return Damage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def damage(weight: Float[np.ndarray, "..."], decoded: Float[np.ndarray, "..."]) -> Damage:
    """Count what decoded weights lost.

    Raises:
        ValueError: Different shapes.
    """
    if weight.shape != decoded.shape:
        raise ValueError(f"decoded weights must have the shape {weight.shape}, but have {decoded.shape}.")
    zero = weight == 0
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.subtract(weight, decoded, dtype=np.float64)
        lost, energy = np.vdot(error, error), np.vdot(weight.astype(np.float64), weight.astype(np.float64))
    return Damage(
        weights=weight.size,
        zeros=int(zero.sum()),
        zeros_lost=int((zero & (decoded != 0)).sum()),
        negative_zeros=int(((decoded == 0) & np.signbit(decoded)).sum()),
        signs_flipped=int((((weight > 0) & (decoded < 0)) | ((weight < 0) & (decoded > 0))).sum()),
        not_finite=int((~np.isfinite(decoded)).sum()),
        error=float(lost),
        energy=float(energy),
    )


@dataclass(frozen=True)
class Clipping:
    """How far the largest weights of blocks were clipped.

    Attributes:
        clipped: Share of weights beyond the greatest decoded magnitude of their block by more than ``TOLERANCE``.
        least_peak: Greatest decoded over greatest true magnitude, of the block where that is least.
    """

    clipped: float
    least_peak: float


TOLERANCE = 1 / 16  # of a weight: half a step of four bits, which is rounding and not clipping


def clipping(weight: Float[np.ndarray, "blocks length"], decoded: Float[np.ndarray, "blocks length"]) -> Clipping:
    """Measure the clipping of blocks, which a format's name does not tell.

    Args:
        weight: Weights, blocks × length.
        decoded: Decoded weights, blocks × length.

    Raises:
        ValueError: Other shapes, or different ones.
    """
    if weight.ndim != 2 or weight.shape != decoded.shape:
        raise ValueError(f"blocks × length of both are required, but got {weight.shape} and {decoded.shape}.")
    magnitude = np.abs(weight)
    peak, true_peak = np.abs(decoded).max(axis=1), magnitude.max(axis=1)
    ratio = (peak[true_peak > 0] / true_peak[true_peak > 0]) if (true_peak > 0).any() else np.ones(1)
    return Clipping(float((magnitude * (1 - TOLERANCE) > peak[:, None]).mean()), float(ratio.min()))
