"""Kernels of the trellis: conversion between integers and levels, and the Viterbi search down each column."""

import numpy as np
from jaxtyping import Float, Int, Int32, Int64, UInt8

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.path import NEAREST


@compiled()
def _packed(transition, parity):  # type: ignore[no-untyped-def]
    """Pack the next states after levels of one parity, 4 bits each: a shift takes the place of a look-up."""
    found = np.int64(0)
    for s in range(8):
        found |= np.int64(transition[s, parity]) << (4 * s)
    return found


@compiled()
def levels(
    integers: Int[np.ndarray, "rows cols"],
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    out: Int[np.ndarray, "rows cols"],
) -> int:
    """Compute the levels k of the integers m; returns the number of integers on no path, rounded towards zero.

    The outer loop is over rows, in memory order: a row of states is small. The inner one is free of branches and
    look-ups, so that LLVM vectorizes it.
    """
    wrong = np.int64(0)
    even, odd = _packed(transition, 0), _packed(transition, 1)
    for i in range(integers.shape[0]):
        for j in range(integers.shape[1]):
            m, s = np.int64(integers[i, j]), np.int64(state[j])
            size, upper = abs(m), s >> 2
            wrong += (size + upper) & 1 & int(size > 0)
            size = (size + upper) >> 1
            out[i, j] = -size if m < 0 else size
            state[j] = ((odd if size & 1 else even) >> (4 * s)) & 7
    return int(wrong)


@compiled()
def integers(
    level: Int[np.ndarray, "rows cols"],
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    out: Int[np.ndarray, "rows cols"],
) -> None:
    """Compute the integers m of the levels k."""
    even, odd = _packed(transition, 0), _packed(transition, 1)
    for i in range(level.shape[0]):
        for j in range(level.shape[1]):
            k, s = np.int64(level[i, j]), np.int64(state[j])
            upper = s >> 2
            out[i, j] = 2 * k - (upper if k > 0 else 0) + (upper if k < 0 else 0)
            state[j] = ((odd if k & 1 else even) >> (4 * s)) & 7


@compiled()
def states(
    level: Int64[np.ndarray, "rows cols"],
    transition: UInt8[np.ndarray, "8 2"],
    state: UInt8[np.ndarray, " cols"],
    out: UInt8[np.ndarray, "rows cols"],
) -> None:
    """Compute the state before each of the levels k."""
    for i in range(level.shape[0]):
        for j in range(level.shape[1]):
            out[i, j] = state[j]
            state[j] = transition[state[j], level[i, j] & 1]


@compiled()
def viterbi(
    target: Float[np.ndarray, "cols rows"],
    weight: Float[np.ndarray, "cols rows"],
    step: float,
    price: Float[np.ndarray, "quantizers neighbours previous levels"],
    neighbour_class: UInt8[np.ndarray, "cols rows"],
    transition: UInt8[np.ndarray, "states 2"],
    out: Int32[np.ndarray, "cols rows"],
) -> None:
    """See :func:`nbquant.kernels.reference.viterbi`; a column is a row here, and ``price`` is λ times the bits.

    From a node (a state and a class of the level above) a path continues by one of few branches: a level with a class
    of its own, or the best of the other levels with each parity. The cost of a branch depends only on the quantizer and
    the class of the node, so that it is computed once for all states that share them.
    """
    cols, rows = target.shape
    states, quantizers, previous, most = len(transition), price.shape[0], price.shape[2], price.shape[3] - 1
    parities = 2 if states > 1 else 1
    rest = previous - 1  # from this level on, and so from this branch on, levels share a class
    nodes, branches = states * previous, rest + parities
    per = states // quantizers
    following = np.empty((states, branches), np.int64)
    for s in range(states):
        for b in range(branches):
            following[s, b] = transition[s, b & 1] * previous + min(b, rest)
    lowest = np.empty(price.shape[:3])
    for q in range(quantizers):
        for a in range(price.shape[1]):
            for p in range(previous):
                lowest[q, a, p] = price[q, a, p].min()
    cost, grown = np.empty(nodes), np.empty(nodes)
    best, level = np.empty((quantizers, previous, branches)), np.zeros((quantizers, previous, branches), np.int32)
    came, chosen = np.zeros((rows, nodes), np.uint8), np.zeros((rows, nodes), np.int32)
    for c in range(cols):
        cost[:] = np.inf
        cost[0] = 0.0
        for r in range(rows):
            x, u, a = abs(target[c, r]) / step, weight[c, r] * step * step, neighbour_class[c, r]
            for q in range(quantizers):
                last = (int(x) if states == 1 else int(x + q) >> 1) + 1
                best[q] = np.inf
                k = last
                while k >= rest:
                    off = x - (k if states == 1 else 2 * k - (q == 1 and k > 0))
                    loss = u * off * off
                    b = rest + ((k - rest) & 1 if parities == 2 else 0)
                    wins = off < 0
                    for p in range(previous):
                        total = loss + price[q, a, p, min(k, most)]
                        if total < best[q, p, b]:
                            best[q, p, b] = total
                            level[q, p, b] = k
                        for other in range(rest, branches):
                            wins |= loss + lowest[q, a, p] < best[q, p, other]
                    if not wins:  # and none below it does
                        break
                    k -= 1
                    if k == last - NEAREST:  # others that cost the same are farther
                        k = min(k, most - 1)
                for k in range(min(rest, last + 1)):
                    off = x - (k if states == 1 else 2 * k - (q == 1 and k > 0))
                    for p in range(previous):
                        best[q, p, k] = u * off * off + price[q, a, p, min(k, most)]
                        level[q, p, k] = k
            grown[:] = np.inf
            for s in range(states):
                q = s // per
                for p in range(previous):
                    if cost[s * previous + p] == np.inf:
                        continue
                    for b in range(branches):
                        total, to = cost[s * previous + p] + best[q, p, b], following[s, b]
                        if total < grown[to]:
                            grown[to] = total
                            came[r, to] = s * previous + p
                            chosen[r, to] = level[q, p, b]
            cost, grown = grown, cost
        node = cost.argmin()
        for r in range(rows - 1, -1, -1):
            k, before = chosen[r, node], came[r, node]
            m = k if states == 1 else 2 * k - (before // previous >= per and k > 0)
            out[c, r] = m if target[c, r] >= 0 else -m
            node = before
