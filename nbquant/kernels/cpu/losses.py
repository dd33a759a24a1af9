"""Kernel that sums count, sensitivity and loss of each cluster."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray


@compiled()
def add_losses(weight: Array, sensitivity: Array, codebook: Array, assignment: Array, sums: Array) -> None:
    """See :func:`nbquant.kernels.reference.cluster_losses`.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h.
        codebook: Reconstruction values c in float64, and a last one of 0 for weights assigned −1.
        assignment: Index of each weight's codeword.
        sums: Incremented.
    """
    last = len(codebook) - 1
    for i in range(len(weight)):
        j = assignment[i] if assignment[i] >= 0 else last
        h = np.float64(sensitivity[i])
        error = np.float64(weight[i]) - codebook[j]
        sums[j, 0] += 1.0
        sums[j, 1] += h
        sums[j, 2] += 0.5 * h * error * error
