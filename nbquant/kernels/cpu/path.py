"""Kernels of a Viterbi path through the trellis of 8 states, one weight at a time."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

from nbquant.kernels.compiled import compiled

STATES, CLASSES, BRANCHES = 8, 3, 4
"""Branches of a node: level 0, level 1, and the best level from 2 on of each parity."""

NEAREST = 4
"""Levels around a target that include the nearest two of each parity."""

EVEN: Int64[np.ndarray, " 8"] = np.array([0, 7, 1, 6, 2, 5, 3, 4])
"""The state that leads to each state by an even level."""

ODD: Int64[np.ndarray, " 8"] = np.array([2, 5, 3, 4, 0, 7, 1, 6])
"""The state that leads to each state by an odd level."""


@compiled()
def advance(
    x: float,
    u: float,
    price: Float[np.ndarray, "2 3 levels"],
    lowest: Float[np.ndarray, "2 3"],
    cost: Float[np.ndarray, "3 8"],
    grown: Float[np.ndarray, "3 8"],
    best: Float[np.ndarray, "2 3 4"],
    merged: Float[np.ndarray, "8 8"],
    came: UInt8[np.ndarray, " 24"],
    rest: Int32[np.ndarray, "2 3 2"],
) -> None:
    """Advance by one weight: costs of all nodes after it, their predecessors, and the levels from 2 on.

    Args:
        x: Magnitude of the target [steps].
        u: Cost of a squared error of one step.
        price: λ times the bits of each level, by quantizer and class of the level above.
        lowest: Least price.
        cost: Costs of the nodes so far, by class of the level above and state; infinite where there is no path.
        grown: Output: the costs after this weight.
        best: Workspace for the costs of branches.
        merged: Workspace for the best class above of each state and branch, and its cost.
        came: Output: the node and branch that led to each node, as 4 · node + branch.
        rest: Output: the level of the two last branches.
    """
    most = price.shape[2] - 1
    for q in range(2):
        last = (int(x + q) >> 1) + 1
        one = x - (2 - q)
        for p in range(CLASSES):
            best[q, p, 0] = u * x * x + price[q, p, 0]
            best[q, p, 1] = u * one * one + price[q, p, min(1, most)]
            best[q, p, 2] = np.inf
            best[q, p, 3] = np.inf
        k = last
        while k > 1:
            off = x - (2 * k - q)
            loss = u * off * off
            b = 2 + (k & 1)
            wins = off < 0
            for p in range(CLASSES):
                total = loss + price[q, p, min(k, most)]
                if total < best[q, p, b]:
                    best[q, p, b] = total
                    rest[q, p, b - 2] = k
                least = loss + lowest[q, p]
                wins |= (least < best[q, p, 2]) | (least < best[q, p, 3])
            if not wins:  # and none below it does
                break
            k -= 1
            if k == last - NEAREST:  # others that cost the same are farther
                k = min(k, most - 1)
    # Eight states at once: the best class above for each branch, then the two branches that meet in a node.
    for b in range(BRANCHES):
        for q in range(2):
            first, second, third = best[q, 0, b], best[q, 1, b], best[q, 2, b]
            for s in range(4 * q, 4 * q + 4):
                least, above = cost[0, s] + first, 0.0
                other = cost[1, s] + second
                above = 1.0 if other < least else above
                least = min(other, least)
                other = cost[2, s] + third
                above = 2.0 if other < least else above
                merged[b, s] = min(other, least)
                merged[4 + b, s] = above
    for s in range(STATES):
        even, odd = EVEN[s], ODD[s]
        grown[0, s], came[s] = merged[0, even], 4 * (8 * int(merged[4, even]) + even)
        grown[1, s], came[8 + s] = merged[1, odd], 4 * (8 * int(merged[5, odd]) + odd) + 1
        if merged[3, odd] < merged[2, even]:
            grown[2, s], came[16 + s] = merged[3, odd], 4 * (8 * int(merged[7, odd]) + odd) + 3
        else:
            grown[2, s], came[16 + s] = merged[2, even], 4 * (8 * int(merged[6, even]) + even) + 2


@compiled()
def retrace(
    node: Any,
    came: UInt8[np.ndarray, "rows 24"],
    rest: Int32[np.ndarray, "rows 2 3 2"],
    target: Float[np.ndarray, " rows"],
    out: Int32[np.ndarray, " rows"],
) -> None:
    """Trace the integers of the path that ends in a node, with the signs of the targets."""
    for r in range(len(out) - 1, -1, -1):
        code: Any = np.int64(came[r, node])
        node, b = code >> 2, code & 3
        q = (node & 7) >> 2
        k = b if b < 2 else rest[r, q, node >> 3, b - 2]
        m = 2 * k - (q == 1 and k > 0)
        out[r] = m if target[r] >= 0 else -m


@compiled()
def best_path(
    target: Float[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"],
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    lowest: Float[np.ndarray, "2 neighbours 3"],
    neighbour_class: UInt8[np.ndarray, " rows"],
    out: Int32[np.ndarray, " rows"],
    came: UInt8[np.ndarray, "rows 24"],
    rest: Int32[np.ndarray, "rows 2 3 2"],
) -> None:
    """Find the integers of least cost down one column, with targets in steps.

    Args:
        target: Targets [steps].
        weight: Costs of a squared error of one step.
        price: λ times the bits, by quantizer, class of the neighbour, class of the level above, and level.
        lowest: Least price over the levels.
        neighbour_class: Class of the level to the left.
        out: Output: the integers.
        came: Workspace for at least as many rows.
        rest: Likewise.
    """
    cost, grown = np.full((CLASSES, STATES), np.inf), np.empty((CLASSES, STATES))
    best, merged = np.empty((2, CLASSES, BRANCHES)), np.empty((2 * BRANCHES, STATES))
    cost[0, 0] = 0.0
    for r in range(len(target)):
        a = neighbour_class[r]
        advance(abs(target[r]), weight[r], price[:, a], lowest[:, a], cost, grown, best, merged, came[r], rest[r])
        cost, grown = grown, cost
    retrace(cost.ravel().argmin(), came, rest, target, out)


@compiled()
def best_paths(
    target: Float[np.ndarray, "cols rows"],
    weight: Float[np.ndarray, "cols rows"],
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    neighbour_class: UInt8[np.ndarray, "cols rows"],
    out: Int32[np.ndarray, "cols rows"],
) -> None:
    """See :func:`nbquant.kernels.reference.viterbi`, of 8 states; a column is a row here, ``price`` is λ · bits."""
    cols, rows = target.shape
    lowest = least_prices(price)
    x, u = np.empty(rows), np.empty(rows)
    came, rest = np.empty((rows, CLASSES * STATES), np.uint8), np.empty((rows, 2, CLASSES, 2), np.int32)
    for c in range(cols):
        for r in range(rows):
            x[r], u[r] = target[c, r] / step, weight[c, r] * step * step
        best_path(x, u, price, lowest, neighbour_class[c], out[c], came, rest)


@compiled()
def best_paths_in_strips(
    target: Float[np.ndarray, "cols rows"],
    weight: Float[np.ndarray, "cols rows"],
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    left: UInt8[np.ndarray, "strips rows"],
    length: int,
    out: Int32[np.ndarray, "cols rows"],
) -> None:
    """See :func:`nbquant.kernels.reference.viterbi_in_strips`; a column is a row here, ``price`` is λ · bits."""
    cols, rows = target.shape
    lowest, classes = least_prices(price), price.shape[1] - 1
    x, u, near = np.empty(rows), np.empty(rows), np.empty(rows, np.uint8)
    came, rest = np.empty((rows, CLASSES * STATES), np.uint8), np.empty((rows, 2, CLASSES, 2), np.int32)
    for c in range(cols):
        for r in range(rows):
            x[r], u[r] = target[c, r] / step, weight[c, r] * step * step
            near[r] = left[c // length, r] if c % length == 0 else min((abs(out[c - 1, r]) + 1) >> 1, classes)
        best_path(x, u, price, lowest, near, out[c], came, rest)


@compiled()
def path_sums(
    target: Float[np.ndarray, " n"], weight: Float[np.ndarray, " n"], integers: Int32[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """See :func:`nbquant.kernels.reference.path_sums`."""
    a = b = c = 0.0
    for i in range(len(target)):
        t, m = np.float64(target[i]), np.float64(integers[i])
        scaled, step = np.float64(weight[i]) * t, np.float64(weight[i]) * m
        a += scaled * t
        b += scaled * m
        c += step * m
    return a, b, c


@compiled()
def least_prices(price: Float[np.ndarray, "2 neighbours 3 levels"]) -> Float[np.ndarray, "2 neighbours 3"]:
    """Compute the least price over the levels."""
    lowest = np.empty(price.shape[:3])
    for q in range(price.shape[0]):
        for a in range(price.shape[1]):
            for p in range(price.shape[2]):
                lowest[q, a, p] = price[q, a, p].min()
    return lowest
