"""Counts of what a format destroyed: zeros, signs, finite values."""

from dataclasses import dataclass

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
        relative_error: Σ (w − ŵ)² / Σ w²; 1 where all weights became zero, NaN without energy.
    """

    weights: int
    zeros: int
    zeros_lost: int
    negative_zeros: int
    signs_flipped: int
    not_finite: int
    relative_error: float


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
        relative_error=float(lost / energy) if energy else float("nan"),
    )
