"""The definition of every hot loop, in plain torch: slow, readable, on any device.

The fast kernels have the same names and signatures and must agree with these.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

WEIGHT_SHIFT = 16  # a float32 without its lower half: 128 bins an octave, whatever the range
SENSITIVITY_SHIFT = 22  # exponent and first mantissa bit: two rows an octave
WEIGHT_BINS = (1 << 16) + 1  # one more than there are upper halves: exact zero has a bin of its own
ZERO_BIN = 1 << 15
CHUNK = 1 << 16  # weights handled at once where an (n, k) table is formed


def weight_bin(weight: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Bin of each weight: the upper half of its float32 bit pattern, made monotone; exact zero is alone in its bin.

    Bins on the bit pattern need no range and keep their relative width, so that one outlier cannot spoil them.
    """
    bits = weight.float().view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> WEIGHT_SHIFT
    bins = ordered + ZERO_BIN + (ordered >= 0)
    # Asked of the weight itself: a float64 that float32 rounds to zero is not zero, and goes to a bin beside it.
    return torch.where(weight == 0, ZERO_BIN, bins)


def sensitivity_row(sensitivity: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Row of each sensitivity: half-octaves of h, ascending; h = 0 is row 0, whatever its sign."""
    return (sensitivity.float().view(torch.int32).long() & 0x7FFFFFFF) >> SENSITIVITY_SHIFT


def joint_histogram(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"]
) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m 6"]]:
    """Sums over the occupied cells of the (h, w) grid.

    Args:
        weight: Finite weights w.
        sensitivity: Finite, non-negative sensitivities h.

    Returns:
        Ascending cell keys, ``row * WEIGHT_BINS + bin``, and for each cell n, Σw, Σw², Σh, Σhw, Σhw² in float64.
    """
    cell = sensitivity_row(sensitivity) * WEIGHT_BINS + weight_bin(weight)
    key, index = torch.unique(cell, return_inverse=True)
    w, h = weight.double(), sensitivity.double()
    terms = torch.stack([torch.ones_like(w), w, w * w, h, h * w, h * w * w], dim=1)
    return key, torch.zeros(len(key), 6, dtype=torch.float64, device=w.device).index_add_(0, index, terms)


def assign(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"],
    codebook: Float[Tensor, " k"],
    codeword_length: Float[Tensor, " k"],
    lmbda: float,
) -> Int64[Tensor, " n"]:
    """Assign each weight to the codeword of least Lagrangian cost.

    a_i = argmin_j  ½ h_i (w_i − c_j)² + λ ℓ_j

    Args:
        weight: Weights w.
        sensitivity: Hessian diagonal h [loss/weight²], non-negative.
        codebook: Reconstruction values c, ascending and distinct.
        codeword_length: Codeword lengths ℓ [bit].
        lmbda: Lagrange multiplier λ [loss/bit]; 0 gives the nearest codeword whatever h is.

    Returns:
        Indices into ``codebook``; ties go to the lowest.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5.4.
    """
    c, length = codebook.double(), codeword_length.double()
    parts = []
    for w, h in zip(weight.double().split(CHUNK), sensitivity.double().split(CHUNK), strict=True):
        cost = (w[:, None] - c) ** 2
        if lmbda > 0:
            cost = 0.5 * h[:, None] * cost + lmbda * length
        parts.append(cost.argmin(dim=1))
    return torch.cat(parts)


def cluster_sums(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"], assignment: Int64[Tensor, " n"], levels: int
) -> Float[Tensor, "k 4"]:
    """For each cluster n, Σw, Σh and Σhw, in float64."""
    w, h = weight.double(), sensitivity.double()
    terms = torch.stack([torch.ones_like(w), w, h, h * w], dim=1)
    return torch.zeros(levels, 4, dtype=torch.float64, device=w.device).index_add_(0, assignment.long(), terms)


def interval_costs(prefix: Float[Tensor, "m+1 3"]) -> Float[Tensor, "m+1 m+1"]:
    """Cost[i, j] of one cluster for the bins i … j−1: Σhw² − (Σhw)²/Σh; infinite for i ≥ j."""
    s0, s1, s2 = (prefix[None, :, c] - prefix[:, None, c] for c in range(3))
    cost = torch.where(s0 > 0, s2 - s1**2 / s0, torch.zeros(())).clamp(min=0)
    return cost.masked_fill(torch.ones_like(cost, dtype=torch.bool).tril(), torch.inf)


def kmeans_table(prefix: Float[Tensor, "m+1 3"], levels: int) -> tuple[Float[Tensor, " k"], Int64[Tensor, "k m+1"]]:
    """Optimal one-dimensional k-means of sorted bins, for every k at once, by dynamic programming.

    Args:
        prefix: Running sums of Σh, Σhw, Σhw² before each bin and after the last.
        levels: Largest number of clusters, at most the number of bins m.

    Returns:
        The least Σh(w − c)² with k = 1 … ``levels`` clusters, and ``start``: ``start[k-1, j]`` is the first bin of the
        last cluster when the bins 0 … j−1 are cut into k.
    """
    cost = interval_costs(prefix)
    best = cost[0]  # infinite for no bins: a cluster has at least one
    start = torch.zeros(levels, len(prefix), dtype=torch.int64)
    total = [best[-1]]
    for k in range(1, levels):
        best, start[k] = (best[:, None] + cost).min(dim=0)
        total.append(best[-1])
    return torch.stack(total), start
