"""Kernels of error feedback: columns of a layer quantized on trellis paths, compensating each other's errors."""

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.path import CLASSES, STATES, best_path, least_prices
from nbquant.kernels.reference import FIXED


@compiled()
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
    """See :func:`nbquant.kernels.reference.compensate`."""
    groups, n, rows = target.shape
    total = groups * rows
    lowest = least_prices(price)
    x, u, around = np.empty(total), np.empty(total), np.zeros(total, np.uint8)
    most = min(restart, total)
    came, rest = np.empty((most, CLASSES * STATES), np.uint8), np.empty((most, 2, CLASSES, 2), np.int32)
    change = np.empty(rows, target.dtype)
    classes = price.shape[1] - 1
    for j in range(n):
        column = columns[j]
        for g in range(groups):
            share, energy = 1.0 / coupling[g, j, j], curvature[g, j] * step * step
            for r in range(rows):
                x[g * rows + r] = (target[g, j, r] + carried[g, j, r] * share) / step
                u[g * rows + r] = outputs[g, r] * energy
        if column > 0 and classes > 0:
            for i in range(total):
                around[i] = min((abs(integers[column - 1, i]) + 1) >> 1, classes)
        else:
            around[:] = 0
        if len(fixed):
            for i in range(total):
                if fixed[column, i]:
                    x[i], u[i] = 0.0, FIXED
        for begin in range(0, total, restart):
            end = min(begin + restart, total)
            part = slice(begin, end)
            best_path(x[part], u[part], price, lowest, around[part], integers[column, part], came, rest)
        for g in range(groups):
            for r in range(rows):
                now = target[g, j, r] - np.float32(step * integers[column, g * rows + r])
                change[r] = now - off[g, j, r]
                off[g, j, r] = now
            for i in range(j + 1, n):
                c = coupling[g, j, i]
                for r in range(rows):
                    carried[g, i, r] += change[r] * c


@compiled()
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
    """See :func:`nbquant.kernels.reference.compensate_along`."""
    n, cols = target.shape
    most, classes = price.shape[3] - 1, price.shape[1] - 1
    toward = coupling.T.copy()
    cost, grown = np.empty(STATES), np.empty(STATES)
    kind, next_kind = np.empty(STATES, np.int64), np.empty(STATES, np.int64)
    error, next_error = np.empty((STATES, n), target.dtype), np.empty((STATES, n), target.dtype)
    path, next_path = np.empty((STATES, n), np.int32), np.empty((STATES, n), np.int32)
    came, level = np.empty(STATES, np.int64), np.empty(STATES, np.int64)
    aim = np.empty(STATES)
    for c in range(cols):
        cost[:] = np.inf
        cost[state[c]] = 0.0
        kind[state[c]] = above[c]
        for j in range(n):
            if (first + j) % restart == 0:  # a new block of rows begins
                cheapest = cost.argmin()
                error[0, :j], path[0, :j] = error[cheapest, :j].copy(), path[cheapest, :j].copy()
                least = cost[cheapest]
                cost[:] = np.inf
                cost[0], kind[0] = least, 0
            a = 0 if c == 0 else min((abs(integers[j, c - 1]) + 1) >> 1, classes)
            u = outputs[c] * coupling[j, j] * coupling[j, j] * step * step
            held = len(fixed) > 0 and fixed[j, c] != 0
            grown[:] = np.inf
            for s in range(STATES):
                if cost[s] == np.inf:
                    continue
                pull = carried[j, c]
                for i in range(j):
                    pull += error[s, i] * toward[j, i]
                aim[s] = 0.0 if held else (target[j, c] + pull / coupling[j, j]) / step
                x, q, p = abs(aim[s]), s >> 2, kind[s]
                last = 0 if held else (int(x + q) >> 1) + 1
                for parity in range(2):
                    least, k = np.inf, -1
                    top = last - ((last ^ parity) & 1)
                    for t in range(3):  # the two nearest of a parity, and the lowest
                        candidate = parity if t == 2 else top - 2 * t
                        if candidate < parity or candidate > last:
                            continue
                        distance = x - (2 * candidate - (q == 1 and candidate > 0))
                        total = u * distance * distance + price[q, a, p, min(candidate, most)]
                        if total < least:
                            least, k = total, candidate
                    to = transition[s, parity]
                    if k >= 0 and cost[s] + least < grown[to]:
                        grown[to], came[to], level[to] = cost[s] + least, s, k
            for s in range(STATES):
                if grown[s] == np.inf:
                    continue
                before, k = came[s], level[s]
                m = 2 * k - (before >= 4 and k > 0)
                m = m if aim[before] >= 0 else -m
                for i in range(j):
                    next_error[s, i], next_path[s, i] = error[before, i], path[before, i]
                next_error[s, j], next_path[s, j] = target[j, c] - np.float32(step * m), m
                next_kind[s] = min(k, CLASSES - 1)
            cost, grown = grown, cost
            kind, next_kind = next_kind, kind
            error, next_error = next_error, error
            path, next_path = next_path, path
        end = cost.argmin()
        state[c], above[c] = end, kind[end]
        for j in range(n):
            off[j, c], integers[j, c] = error[end, j], path[end, j]


@compiled()
def count_levels(
    integers: Int32[np.ndarray, "rows cols"],
    restart: int,
    transition: UInt8[np.ndarray, "8 2"],
    counts: Int64[np.ndarray, "2 3 3 levels"],
) -> None:
    """See :func:`nbquant.kernels.reference.count_levels`."""
    rows, cols = integers.shape
    most, classes = counts.shape[3] - 1, CLASSES - 1
    for c in range(cols):
        s, above = 0, 0
        for r in range(rows):
            if r % restart == 0:
                s, above = 0, 0
            k = (abs(integers[r, c]) + 1) >> 1
            a = 0 if c == 0 else min((abs(integers[r, c - 1]) + 1) >> 1, classes)
            counts[s >> 2, a, above, min(k, most)] += 1
            above = min(k, classes)
            s = transition[s, k & 1]
