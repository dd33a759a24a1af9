"""Reference kernels in plain torch, the definition of every hot loop: slow, readable, on any device.

The fast kernels have the same names and signatures and must agree with these.
One module, so that all definitions are read in one place.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64, UInt8
from torch import Tensor

from nbquant.kernels.keys import JOINT_SHIFT, LEAST_MASS, MARGINAL_SHIFT, ROW_KEYS, ROW_SHIFT, ROWS, ZERO_KEY

CHUNK = 1 << 16  # weights processed at once where an (n, k) table is formed
TRANSITION: UInt8[np.ndarray, "8 2"] = np.array(
    [[0, 4], [2, 6], [4, 0], [6, 2], [7, 3], [5, 1], [3, 7], [1, 5]], np.uint8
)
"""The trellis: next state by state and parity of the level; the states from 4 on have the odd integers and zero.

Ungerboeck's code of 8 states, with 1.11 dB of the 1.53 dB of possible granular gain; of the equally good codes, one in
which a run of zeros leads to state 0.
"""
TRANSITION.setflags(write=False)
FIXED = 1e30  # cost of a squared error of one step for weights that stay zero


def weight_key(weight: Float[Tensor, " n"], shift: int) -> Int64[Tensor, " n"]:
    """Compute the key of each weight's bin: its float32 bit pattern without ``shift`` bits, made monotone.

    Bins of the bit pattern need no range and keep their relative width, so that one outlier cannot spoil them. Exact
    zero has its own key. Bins of a smaller shift lie within those of a larger one, with keys comparable to theirs.
    """
    bits = weight.float().view(torch.int32).long()
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> shift << shift
    # Tested on the weight itself: a float64 that float32 rounds to zero is not zero, and goes to a bin next to it.
    return torch.where(weight == 0, ZERO_KEY, ordered + ZERO_KEY + (bits >= 0))


def sensitivity_row(sensitivity: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Compute the row of each sensitivity: half-octaves of h, ascending; row 0 for |h| below the float32 range.

    Negative sensitivities show as rows from ``ROWS / 2`` on.
    """
    row = (sensitivity.float().view(torch.int32).long() & 0xFFFFFFFF) >> ROW_SHIFT
    return torch.where(row == ROWS // 2, 0, row)


def marginal_histogram(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None, shift: int = MARGINAL_SHIFT
) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m 4"]]:
    """Sum over the occupied bins of w.

    Args:
        weight: Weights w.
        sensitivity: Non-negative sensitivities h; None for h = 1.
        shift: Bits dropped from the weights.

    Returns:
        Ascending keys of the bins from :func:`weight_key`; for each bin n, Σh, Σhw, Σhw² in float64. Weights
        or sensitivities that are not finite give sums that are not. Every h counts as h + ``LEAST_MASS``.
    """
    return _sums_by(weight_key(weight, shift), *_moments(weight, sensitivity))


def joint_histogram(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"], shift: int = JOINT_SHIFT
) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m 4"]]:
    """Sum over the occupied cells of the (h, w) grid, with keys ``row * ROW_KEYS + weight_key``.

    See :func:`marginal_histogram`.
    """
    key = sensitivity_row(sensitivity) * ROW_KEYS + weight_key(weight, shift)
    return _sums_by(key, *_moments(weight, sensitivity))


def gap_counts(weight: Float[Tensor, " n"]) -> tuple[Int64[Tensor, " g"], Int64[Tensor, " g"]]:
    """Count the zeros before each non-zero weight: the occurring gaps, ascending, and the count of each."""
    where = torch.nonzero(weight).reshape(-1)
    return torch.unique(torch.diff(where, prepend=where.new_tensor([-1])) - 1, return_counts=True)


def _moments(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    w = weight.double()
    h = torch.ones_like(w) if sensitivity is None else sensitivity.double() + LEAST_MASS
    return torch.ones_like(w), h, h * w, h * w * w


def _sums_by(key: Int64[Tensor, " n"], *terms: Float[Tensor, " n"]) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m c"]]:
    used, index = torch.unique(key, return_inverse=True)
    stacked = torch.stack(terms, dim=1)
    return used, torch.zeros(len(used), len(terms), dtype=torch.float64, device=key.device).index_add_(
        0, index, stacked
    )


def assign(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    codebook: Float[Tensor, " k"],
    codeword_length: Float[Tensor, " k"],
    lmbda: float,
    constant: float | None = None,
    skip_zeros: bool = False,
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "k 5"]]:
    """Assign each weight to the codeword of least Lagrangian cost, and sum up the clusters.

    a_i = argmin_j  ½ h_i (w_i − c_j)² + λ ℓ_j

    Args:
        weight: Weights w.
        sensitivity: Hessian diagonal h [loss/weight²], non-negative; None for h = 1.
        codebook: Reconstruction values c, ascending and distinct, float64.
        codeword_length: Codeword lengths ℓ [bit], float64.
        lmbda: Lagrange multiplier λ [loss/bit]; 0 gives the nearest codeword whatever h is.
        constant: Replaces every h in the choice; the sums still use h itself.
        skip_zeros: Leave out weights that are exactly zero: they are assigned −1 and in no sum.

    Returns:
        Indices into ``codebook``, ties to the lowest; and for each codeword n, Σw, Σh, Σhw, Σhw² in float64.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5.4.
    """
    c, length = codebook.double(), codeword_length.double()
    w = weight.double()
    h = torch.ones_like(w) if sensitivity is None else sensitivity.double()
    mass = h if constant is None else torch.full_like(w, constant)
    parts = [torch.zeros(0, dtype=torch.int64, device=w.device)]
    for w_part, mass_part in zip(w.split(CHUNK), mass.split(CHUNK), strict=True):
        cost = (w_part[:, None] - c) ** 2
        if lmbda > 0:
            cost = 0.5 * mass_part[:, None] * cost + lmbda * length
        parts.append(cost.argmin(dim=1))
    assignment = torch.cat(parts)
    if skip_zeros:
        assignment = torch.where(weight == 0, -1, assignment)
    return assignment, _cluster_sums(w, h, assignment, len(c))


def assign_grid(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    step: float,
    offset: float,
    first: int,
    cells: int,
    skip_zeros: bool = False,
) -> tuple[Int64[Tensor, " n"], Float[Tensor, "cells 5"]]:
    """Round each weight to a grid, and sum up the cells.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h; None for h = 1.
        step: Cell width [weight].
        offset: Offset of the grid, in steps: 0 centres a cell on zero.
        first: Index of the first cell, round(min w / step − offset); halves go to the even index.
        cells: Number of cells, up to that of the largest weight.
        skip_zeros: Leave out weights that are exactly zero: they are assigned −1 and in no sum.

    Returns:
        round(w / step − offset) − first; and for each cell n, Σw, Σh, Σhw, Σhw² in float64.
    """
    w = weight.double()
    h = torch.ones_like(w) if sensitivity is None else sensitivity.double()
    assignment = torch.round(w / step - offset).long() - first
    if skip_zeros:
        assignment = torch.where(weight == 0, -1, assignment)
    return assignment, _cluster_sums(w, h, assignment, cells)


def _cluster_sums(
    w: Float[Tensor, " n"], h: Float[Tensor, " n"], assignment: Int64[Tensor, " n"], levels: int
) -> Float[Tensor, "k 5"]:
    terms = torch.stack([torch.ones_like(w), w, h, h * w, h * w * w], dim=1)
    kept = assignment >= 0
    return torch.zeros(levels, 5, dtype=torch.float64, device=w.device).index_add_(0, assignment[kept], terms[kept])


def gather(codebook: Float[Tensor, " k"], assignment: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Look up the reconstruction value of each weight, in the codebook's dtype; an assignment of −1 is zero."""
    return torch.cat([codebook, codebook.new_zeros(1)])[assignment.long()]


def cluster_losses(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    codebook: Float[Tensor, " k"],
    assignment: Int64[Tensor, " n"],
) -> Float[Tensor, "k+1 3"]:
    """Compute count, Σh and loss of each cluster.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h; None for h = 1.
        codebook: Reconstruction values c.
        assignment: Index of each weight's codeword; −1 is zero.

    Returns:
        n, Σh, ½ Σ h (w − c)² of each codeword's weights in float64, and in a last row of those assigned −1.
    """
    w, c = weight.double(), torch.cat([codebook, codebook.new_zeros(1)]).double()
    h = torch.ones_like(w) if sensitivity is None else sensitivity.double()
    index = torch.where(assignment < 0, len(codebook), assignment.long())
    terms = torch.stack([torch.ones_like(w), h, 0.5 * h * (w - c[index]) ** 2], dim=1)
    return torch.zeros(len(c), 3, dtype=torch.float64, device=w.device).index_add_(0, index, terms)


def interval_costs(prefix: Float[Tensor, "m+1 3"]) -> Float[Tensor, "m+1 m+1"]:
    """Compute cost[i, j] of one cluster for the bins i … j−1: Σhw² − (Σhw)²/Σh; infinite for i ≥ j."""
    s0, s1, s2 = (prefix[None, :, c] - prefix[:, None, c] for c in range(3))
    cost = torch.where(s0 > 0, s2 - s1**2 / s0, torch.zeros(())).clamp(min=0)
    return cost.masked_fill(torch.ones_like(cost, dtype=torch.bool).tril(), torch.inf)


def kmeans_table(prefix: Float[Tensor, "m+1 3"], levels: int) -> tuple[Float[Tensor, " k"], Int64[Tensor, "k m+1"]]:
    """Solve one-dimensional k-means of sorted bins for every k at once, by dynamic programming.

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


def pinned_kmeans_table(
    prefix: Float[Tensor, "m+1 3"], levels: int
) -> tuple[Float[Tensor, " k"], Int64[Tensor, "k m+1"], Int64[Tensor, "k m+1"], Bool[Tensor, "k m+1"]]:
    """Solve the same problem as :func:`kmeans_table` with one of the centres fixed at zero.

    Returns:
        The least Σh(w − c)²; first bins of the last cluster if none of the clusters is the one at zero (as in
        :func:`kmeans_table`) and if one is; and whether, in the latter case, the last one is.
    """
    cost = interval_costs(prefix)
    at_zero = (prefix[None, :, 2] - prefix[:, None, 2]).masked_fill(cost.isinf(), torch.inf)
    free, best = cost[0], at_zero[0]
    free_start = torch.zeros(levels, len(prefix), dtype=torch.int64)
    start, is_zero = torch.zeros_like(free_start), torch.zeros_like(free_start, dtype=torch.bool)
    is_zero[0] = True
    total = [best[-1]]
    for k in range(1, levels):
        free_cost, free_start[k] = (free[:, None] + cost).min(dim=0)
        after, after_start = (best[:, None] + cost).min(dim=0)
        last, last_start = (free[:, None] + at_zero).min(dim=0)
        is_zero[k] = last < after
        start[k] = torch.where(is_zero[k], last_start, after_start)
        free, best = free_cost, torch.minimum(after, last)
        total.append(best[-1])
    return torch.stack(total), free_start, start, is_zero


def ecsq_iterate(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    codebook: Float[Tensor, " k"],
    codeword_length: Float[Tensor, " k"],
    lmbda: float,
    tolerance: float,
    most: int,
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"], list[float]]:
    """Iterate ECSQ on the weights themselves, which the histogram's cells approximate.

    Args:
        weight: Weights w.
        sensitivity: Sensitivities h; None for h = 1.
        codebook: Initial codewords, ascending and distinct.
        codeword_length: Initial ℓ [bit].
        lmbda: λ [loss/bit].
        tolerance: Stops when J falls by less than this share.
        most: Largest number of iterations.

    Returns:
        Codebook, ideal codeword lengths −log2 p, and J per weight after each iteration; empty clusters are
        dropped.

    Source: Choi et al. 2017 (arXiv:1612.01543), algorithm 1.
    """
    history: list[float] = []
    while len(history) < most:
        _, sums = assign(weight, sensitivity, codebook, codeword_length, lmbda)
        alive = sums[:, 0] > 0
        n, _, s0, s1, s2 = sums[alive].T
        # A cluster of zero sensitivity keeps its centre.
        centre = torch.where(s0 > 0, s1 / s0, codebook.double()[alive])
        length = -torch.log2(n / n.sum())
        loss = 0.5 * (s2 - 2 * centre * s1 + centre**2 * s0).clamp(min=0).sum()
        history.append(float((loss + lmbda * n @ length) / n.sum()))
        order = torch.argsort(centre)
        codebook, codeword_length = centre[order], length[order]
        if len(history) > 1 and history[-2] - history[-1] <= tolerance * history[-1]:
            break
    return codebook, codeword_length, history


def ecsq_intervals(prefix: Float[Tensor, "m+1 4"], lmbda: float) -> tuple[Int64[Tensor, " e"], float]:
    """Partition sorted bins into intervals of least J: a shortest path over all pairs of edges.

    An interval of n of the N weights costs ½(Σhw² − (Σhw)²/Σh) + λ n log2(N/n).

    Args:
        prefix: Running sums of n, Σh, Σhw, Σhw² before each bin and after the last; no bin is empty.
        lmbda: λ [loss/bit].

    Returns:
        Edges of the intervals, 0 to the number of bins; and J per weight.

    Source: Muresan and Effros 2008.
    """
    total = prefix[-1, 0]
    count = (prefix[None, :, 0] - prefix[:, None, 0]).clamp(min=1)
    cost = 0.5 * interval_costs(prefix[:, 1:]) + lmbda * count * torch.log2(total / count)
    best, start = [torch.zeros((), dtype=prefix.dtype)], [0]
    for j in range(1, len(prefix)):
        least, first = (torch.stack(best) + cost[:j, j]).min(dim=0)
        best.append(least)
        start.append(int(first))
    edges = [len(prefix) - 1]
    while edges[-1] > 0:
        edges.append(start[edges[-1]])
    return torch.tensor(edges[::-1]), float(best[-1] / total)


def viterbi(
    target: Float[Tensor, "rows cols"],
    weight: Float[Tensor, "rows cols"],
    step: float,
    costs: Float[Tensor, "quantizers neighbours previous levels"],
    neighbour_class: UInt8[Tensor, "rows cols"] | None,
    lmbda: float,
    states: int = 8,
) -> Int64[Tensor, "rows cols"]:
    """Find the integers m of least Lagrangian cost down each column, over all paths of the trellis.

    Σ_r  u_r (t_r − m_r Δ)² + λ b(q_r, a_r, min(|k_{r−1}|, P − 1), min(|k_r|, K))

    with the level k of m, the quantizer q in force and the class a of the neighbours. In the states 0 to 3 quantizer 0
    is in force, m = 2k; in 4 to 7 quantizer 1, m = 2k − sign(k); with one state m = k and quantizer 0. Levels are
    compared from zero to the first beyond the target: a larger one has more loss and no shorter code.

    Args:
        target: Targets t.
        weight: Non-negative weights u of the squared errors, ½h for a loss.
        step: Step Δ; in the trellis, integers of one quantizer lie two steps apart.
        costs: Bits b, sign included, of |k| by quantizer, class of the neighbours and the level above, which is zero
            for the first row; levels over K cost as K. P = 1 if the level above is ignored.
        neighbour_class: Class a of each weight's neighbours; None for class 0 everywhere.
        lmbda: λ [loss/bit].
        states: 8, or 1 for choices coupled by the costs alone.

    Source: Forney 1973; ITU-T H.266 for the two quantizers.
    """
    rows, cols = target.shape
    previous, most = costs.shape[2], costs.shape[3] - 1
    after = torch.from_numpy(TRANSITION.copy()).long() if states == 8 else torch.zeros(1, 2, dtype=torch.int64)
    quantizer = torch.arange(states) // 4
    t, u = target.detach().double().cpu() / step, weight.detach().double().cpu() * step**2
    price = lmbda * costs.double().cpu()
    around = torch.zeros(rows, cols, dtype=torch.int64) if neighbour_class is None else neighbour_class.long().cpu()
    level = torch.arange(int(t.abs().max() if t.numel() else 0) + 2)
    size = torch.stack([2 * level, 2 * level - level.sign()]) if states == 8 else level[None]
    largest = [(t.abs() / 2).long() + 1, ((t.abs() + 1) / 2).long() + 1] if states == 8 else [t.abs().long() + 1]
    # A node is a state and a class of the level above; an edge leaves it with a level.
    following = after[:, level % 2][:, None, :] * previous + level.clamp(max=previous - 1)
    following = following.expand(states, previous, len(level)).reshape(-1)
    cost = torch.full((cols, states * previous), torch.inf, dtype=torch.float64)
    cost[:, 0] = 0.0
    came = torch.zeros(rows, cols, states * previous, dtype=torch.int64)
    for r in range(rows):
        off = t[r].abs()[:, None, None] - size
        loss = u[r][:, None, None] * off**2
        loss = loss.masked_fill(level > torch.stack([last[r] for last in largest], 1)[:, :, None], torch.inf)
        branch = loss[:, :, None] + price[:, around[r]].transpose(0, 1)[:, : len(size)][..., level.clamp(max=most)]
        total = (cost.view(cols, states, previous, 1) + branch[:, quantizer]).reshape(cols, len(following))
        cost = torch.full_like(cost, torch.inf)
        for node in range(states * previous):
            edges = torch.nonzero(following == node)[:, 0]
            if len(edges):
                least, which = total[:, edges].min(dim=1)
                cost[:, node], came[r, :, node] = least, edges[which]
    at = cost.argmin(dim=1)
    found = torch.zeros(rows, cols, dtype=torch.int64)
    for r in reversed(range(rows)):
        edge = came[r].gather(1, at[:, None])[:, 0]
        at, k = edge // len(level), edge % len(level)
        found[r] = size[quantizer[at // previous], k] * t[r].sign().long()
    return found.to(target.device)


def viterbi_in_strips(
    target: Float[Tensor, "rows cols"],
    weight: Float[Tensor, "rows cols"],
    step: float,
    costs: Float[Tensor, "2 neighbours 3 levels"],
    left: UInt8[Tensor, "strips rows"],
    lmbda: float,
) -> Int64[Tensor, "rows cols"]:
    """Find paths as :func:`viterbi` with 8 states, each column given the path of the column to its left.

    Strips are runs of equally many columns (the last may have fewer), decided independently from left to right.

    Args:
        target: Targets t.
        weight: Weights u.
        step: Step Δ.
        costs: Bits b.
        left: Classes of the levels to the left of each strip's first column.
        lmbda: λ [loss/bit].
    """
    return column_by_column(viterbi, target, weight, step, costs, left, lmbda)


def column_by_column(
    viterbi: Callable[..., Tensor],
    target: Float[Tensor, "rows cols"],
    weight: Float[Tensor, "rows cols"],
    step: float,
    costs: Float[Tensor, "2 neighbours 3 levels"],
    left: UInt8[Tensor, "strips rows"],
    lmbda: float,
) -> Tensor:
    """Decide the first columns of all strips, then their second ones, and so on, by a given :func:`viterbi`."""
    cols = target.shape[1]
    length = max(-(-cols // len(left)), 1)
    found: list[Tensor] = []
    for c in range(min(length, cols)):
        around = left.T if not found else ((found[-1].abs() + 1) // 2).clamp(max=costs.shape[1] - 1).to(torch.uint8)
        places = torch.arange(c, cols, length, device=target.device)
        around = around[:, : len(places)].contiguous()
        found.append(viterbi(target[:, places], weight[:, places], step, costs, around, lmbda))
    out = torch.zeros(target.shape, dtype=found[0].dtype if found else torch.int64, device=target.device)
    for c, each in enumerate(found):
        out[:, c::length] = each
    return out


def path_sums(
    target: Float[Tensor, "rows cols"], weight: Float[Tensor, "rows cols"], integers: Int32[Tensor, "rows cols"]
) -> tuple[float, float, float]:
    """Sum Σ u t², Σ u t m and Σ u m² in float64: the loss Σ u (t − mΔ)² at any step Δ, and the step of least loss."""
    t, u, m = target.double(), weight.double(), integers.double()
    return float((u * t * t).sum()), float((u * t * m).sum()), float((u * m * m).sum())


def compensate(
    target: Float[np.ndarray, "groups n rows"],
    carried: Float[np.ndarray, "groups n rows"],
    coupling: Float[np.ndarray, "groups n n"],
    curvature: Float[np.ndarray, "groups n"],
    outputs: Float[np.ndarray, "groups rows"],
    off: Float[np.ndarray, "groups n rows"],
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    columns: Int64[np.ndarray, " n"],
    restart: int,
    fixed: UInt8[np.ndarray, "cols all_rows"],
    integers: Int32[np.ndarray, "cols all_rows"],
) -> None:
    """Quantize columns of a layer in turn, each on its best path down all rows, compensating the others' errors.

    The target of column j is t_j + (Σ_i e_i c_ij) / c_jj, over all columns i whose errors e_i are known.

    Args:
        target: Targets t.
        carried: Σ_i e_i c_ij of the columns outside these, and of these before the call; modified.
        coupling: c: the factor of the inputs' second moments, or the moments themselves.
        curvature: Cost of a squared error in each column, over ``outputs``.
        outputs: ½ s of each output.
        off: Errors t − mΔ before the call; replaced.
        step: Step Δ.
        price: λ times the bits of |k|, by quantizer, class of the level to the left, class of the level above.
        columns: Their indices in the layer.
        restart: Number of rows after which each path starts again.
        fixed: Non-zero for weights that stay zero; no rows if there are none.
        integers: Integers m of all columns. The column to the left is read, and those quantized here are replaced.
    """
    groups, _, rows = target.shape
    bits, classes = torch.from_numpy(np.ascontiguousarray(price)), price.shape[1] - 1
    for j, column in enumerate(columns):
        aim = (target[:, j] + carried[:, j] / coupling[:, j, j, None]).reshape(-1)
        cost = (outputs * curvature[:, j, None]).reshape(-1)
        if len(fixed):
            aim, cost = np.where(fixed[column], 0.0, aim), np.where(fixed[column], FIXED / step**2, cost)
        left = np.zeros(len(aim), np.uint8)
        if column > 0:
            left = ((np.abs(integers[column - 1]) + 1) // 2).clip(max=classes).astype(np.uint8)
        for begin in range(0, len(aim), restart):
            part = [torch.from_numpy(np.ascontiguousarray(x[begin : begin + restart, None])) for x in (aim, cost, left)]
            found = viterbi(part[0], part[1], step, bits, part[2], 1.0)
            integers[column, begin : begin + restart] = found[:, 0].numpy()
        now = target[:, j] - (step * integers[column]).astype(target.dtype).reshape(groups, rows)
        change, off[:, j] = now - off[:, j], now
        carried[:, j + 1 :] += change[:, None] * coupling[:, j, j + 1 :, None]


def compensate_along(
    target: Float[np.ndarray, "n cols"],
    carried: Float[np.ndarray, "n cols"],
    coupling: Float[np.ndarray, "n n"],
    outputs: Float[np.ndarray, " cols"],
    off: Float[np.ndarray, "n cols"],
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    first: int,
    restart: int,
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    above: UInt8[np.ndarray, " cols"],
    fixed: UInt8[np.ndarray, "n_or_0 cols"],
    integers: Int32[np.ndarray, "n cols"],
) -> None:
    """Quantize a layer whose weights have the inputs along their first axis, with paths along the inputs.

    The path to each state of the trellis carries its own errors, which its next weight compensates.
    The cost is that of errors and levels. The levels compared are zero or one and the two nearest below and
    above the target, of each parity.

    Args:
        target: Targets t, one row of weights after the other.
        carried: Σ_i e_i c_ij of the rows before these.
        coupling: c: the factor of the inputs' second moments.
        outputs: ½ s of each output.
        off: Output: the errors.
        step: Step Δ.
        price: λ times the bits of |k|, by quantizer, class of the level to the left, class of the level above.
        first: Index of the first row.
        restart: Number of rows after which each path starts again.
        transition: The trellis.
        state: State before the first row; replaced by the state after the last.
        above: Class of the level above the first row; likewise.
        fixed: Non-zero for weights that stay zero; no rows if there are none.
        integers: Output: the integers.

    Source: Raheli, Polydoros and Tzou 1995 (per-survivor processing).
    """
    n, cols = target.shape
    most, classes = price.shape[3] - 1, price.shape[1] - 1
    for c in range(cols):
        # Cost, class above, errors and integers of the path to each state.
        paths: dict[int, tuple[float, int, list[float], list[int]]] = {int(state[c]): (0.0, int(above[c]), [], [])}
        for j in range(n):
            if (first + j) % restart == 0:
                cost, _, errors, path = min(paths.values(), key=lambda p: p[0])
                paths = {0: (cost, 0, errors, path)}
            left = 0 if c == 0 else min((abs(int(integers[j, c - 1])) + 1) // 2, classes)
            held = len(fixed) > 0 and fixed[j, c] != 0
            grown: dict[int, tuple[float, int, list[float], list[int]]] = {}
            for s in sorted(paths):
                cost, p, errors, path = paths[s]
                pull = float(carried[j, c]) + sum(e * float(coupling[i, j]) for i, e in enumerate(errors))
                aim = 0.0 if held else (float(target[j, c]) + pull / float(coupling[j, j])) / step
                q = s // 4
                last = 0 if held else int(abs(aim) + q) // 2 + 1
                for parity in range(2):
                    top = last - (last - parity) % 2
                    levels = [k for k in (top, top - 2, parity) if parity <= k <= last]
                    if not levels:
                        continue
                    u = float(outputs[c]) * float(coupling[j, j]) ** 2 * step**2
                    totals = [
                        u * (abs(aim) - (2 * k - (q == 1 and k > 0))) ** 2 + float(price[q, left, p, min(k, most)])
                        for k in levels
                    ]
                    best = min(range(len(levels)), key=totals.__getitem__)
                    total, k = cost + totals[best], levels[best]
                    to = int(transition[s, parity])
                    if to not in grown or total < grown[to][0]:
                        m = (2 * k - (q == 1 and k > 0)) * (1 if aim >= 0 else -1)
                        error = float(target[j, c]) - step * m
                        grown[to] = total, min(k, price.shape[2] - 1), [*errors, error], [*path, m]
            paths = grown
        end = min(paths, key=lambda s: (paths[s][0], s))
        state[c], above[c] = end, paths[end][1]
        off[:, c], integers[:, c] = paths[end][2], paths[end][3]


def count_levels(
    integers: Int32[np.ndarray, "rows cols"],
    restart: int,
    transition: UInt8[np.ndarray, "8 2"],
    counts: Int64[np.ndarray, "2 3 3 levels"],
) -> None:
    """Count the levels of integers on paths down each column, by quantizer, class to the left and class above.

    Args:
        integers: Integers m.
        restart: Number of rows after which each path starts again.
        transition: The trellis.
        counts: Incremented; levels over the last one count as the last.
    """
    level = (np.abs(integers) + 1) // 2
    classes, most = counts.shape[1] - 1, counts.shape[3] - 1
    left = np.pad(level.clip(max=classes), ((0, 0), (1, 0)))[:, :-1]
    state, above = np.zeros(integers.shape[1], np.int64), np.zeros(integers.shape[1], np.int64)
    for r, k in enumerate(level):
        if r % restart == 0:
            state, above = np.zeros_like(state), np.zeros_like(above)
        np.add.at(counts, (state // 4, left[r], above, k.clip(max=most)), 1)
        above, state = k.clip(max=classes), transition[state, k & 1].astype(np.int64)
