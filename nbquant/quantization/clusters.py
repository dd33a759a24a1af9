"""Clusters of a scalar quantizer: codebook, counts, loss and boundaries."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64


@dataclass(frozen=True)
class Clusters:
    """A codebook with its counts, loss and boundaries.

    Attributes:
        codebook: Reconstruction values c, ascending.
        counts: Number of weights n_j in each cluster, all positive.
        loss: Predicted loss increase ½ Σ h (w − c)², summed over the weights.
        threshold: Boundaries between neighbouring cells; None where they depend on h (ECSQ).
    """

    codebook: Float[np.ndarray, " k"]
    counts: Int64[np.ndarray, " k"]
    loss: float
    threshold: Float[np.ndarray, " k-1"] | None

    @staticmethod
    def of_sums(
        codebook: Float[np.ndarray, " k"],
        true: Float[np.ndarray, "k 4"],
        threshold: Float[np.ndarray, " k-1"] | None = None,
    ) -> "Clusters":
        """Make clusters from their sums n, Σh, Σhw, Σhw²; empty clusters are dropped."""
        used = true[:, 0] > 0
        c, (n, s0, s1, s2) = codebook[used], true[used].T
        loss = 0.5 * np.maximum(s2 - 2 * c * s1 + c * c * s0, 0).sum()
        return Clusters(c, np.rint(n).astype(np.int64), float(loss), threshold)


def centres(
    mass: Float[np.ndarray, " k"], moment: Float[np.ndarray, " k"], otherwise: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Compute centres Σ(mass·w) / Σ(mass); ``otherwise`` for clusters without mass, whose centre is arbitrary."""
    return np.where(mass > 0, moment / np.where(mass > 0, mass, 1), otherwise)
