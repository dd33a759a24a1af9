"""Assignment of every weight to a codeword, and the sums of the clusters."""

import numpy as np
from numba import njit

Array = np.ndarray


@njit(cache=True, nogil=True)
def assign(weight: Array, sensitivity: Array, codebook: Array, codeword_length: Array, lmbda: float) -> Array:
    """See :func:`nbquant.kernels.reference.assign`; returns int32."""
    out = np.empty(len(weight), np.int32)
    k = len(codebook)
    if lmbda == 0:
        middle = np.empty(k - 1, np.float64)
        for j in range(k - 1):
            middle[j] = 0.5 * (codebook[j] + codebook[j + 1])
        for i in range(len(weight)):
            low, high = 0, k - 1
            while low < high:
                half = (low + high) >> 1
                if weight[i] <= middle[half]:
                    high = half
                else:
                    low = half + 1
            out[i] = low
        return out
    price = lmbda * codeword_length
    for i in range(len(weight)):
        w, half_h = np.float64(weight[i]), 0.5 * np.float64(sensitivity[i])
        best, least = 0, np.inf
        for j in range(k):
            error = w - codebook[j]
            cost = half_h * error * error + price[j]
            if cost < least:
                best, least = j, cost
        out[i] = best
    return out


@njit(cache=True, nogil=True)
def cluster_sums(weight: Array, sensitivity: Array, assignment: Array, levels: int) -> Array:
    """See :func:`nbquant.kernels.reference.cluster_sums`."""
    sums = np.zeros((levels, 4), np.float64)
    for i in range(len(weight)):
        w, h = np.float64(weight[i]), np.float64(sensitivity[i])
        row = sums[assignment[i]]
        row[0] += 1
        row[1] += w
        row[2] += h
        row[3] += h * w
    return sums
