"""Kernels of Viterbi paths down many columns at once: strips of columns are the lanes of vector instructions.

Costs are float32, in bits. A strip is a run of neighbouring columns, decided from left to right, so that the level to
the left of a weight is known. Loops over lanes v are short and free of branches, so that LLVM vectorizes them; masks
such as ``& 7`` tell it that an index is not negative.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8

from nbquant.kernels.compiled import compiled
from nbquant.kernels.cpu.path import EVEN, ODD

LANES = 16
NODES = 24 * LANES  # costs of 8 states and 3 classes of the level above
BRANCHES = 12 * LANES  # costs for one quantizer, 3 classes of the level above and 4 branches
RESTS = 6 * LANES  # levels from 2 on for one quantizer, 3 classes of the level above and 2 parities
NEVER = np.float32(1e30)
TOGETHER = 64  # rows of a column that are copied at a time
RESET = 8  # rows after which the least cost is subtracted, so that float32 suffices


@compiled()
def _branches(
    quantizer: int,
    x: Float[np.ndarray, " 16"],
    u: Float[np.ndarray, " 16"],
    near: Int32[np.ndarray, " 16"],
    price: Float[np.ndarray, " 18_levels"],
    lowest: Float[np.ndarray, " 6"],
    levels: int,
    best: Float[np.ndarray, " 384"],
    rest: Int32[np.ndarray, " 192"],
    found: Float[np.ndarray, " 48"],
    level: Int32[np.ndarray, " 16"],
) -> None:
    """Compute the costs of level 0, of level 1, and of the best level from 2 on of each parity, for 16 weights.

    Args:
        quantizer: 0 or 1.
        x: Magnitudes of the targets [steps].
        u: Costs of a squared error of one step [bit].
        near: Classes of the levels to the left.
        price: Bits by quantizer, class to the left, class above and level.
        lowest: Least bits by quantizer and class to the left.
        levels: Number of levels with bits of their own.
        best: Output: costs by quantizer, class above, branch and lane.
        rest: Output: levels from 2 on, by quantizer, class above, parity and lane.
        found: Workspace.
        level: Workspace.
    """
    f, i = np.float32, np.int32
    quantizer, levels = quantizer & 1, levels & 0xFFFFF
    of, shift, most = quantizer * 9 * levels, f(quantizer), levels - 1
    base, second = quantizer * BRANCHES, min(1, most)
    for p in range(3):
        at, to = of + p * levels, base + 4 * LANES * p
        zero_0, zero_1, zero_2 = price[at], price[at + 3 * levels], price[at + 6 * levels]
        at += second
        one_0, one_1, one_2 = price[at], price[at + 3 * levels], price[at + 6 * levels]
        for v in range(LANES):
            a = near[v]
            zero = zero_0 if a == i(0) else zero_1
            zero = zero_2 if a == i(2) else zero
            one = one_0 if a == i(0) else one_1
            one = one_2 if a == i(2) else one
            off = x[v] - (f(2) - shift)
            best[to + v] = u[v] * x[v] * x[v] + zero
            best[to + LANES + v] = u[v] * off * off + one
            best[to + 2 * LANES + v] = NEVER
            best[to + 3 * LANES + v] = NEVER
    reached = False
    for v in range(LANES):
        reached |= x[v] + shift >= f(2)
    if not reached:
        return
    lowest_0, lowest_1, lowest_2 = lowest[3 * quantizer], lowest[3 * quantizer + 1], lowest[3 * quantizer + 2]
    for parity in range(2):
        at, to = base + (2 + parity) * LANES, quantizer * RESTS + parity * LANES
        down = i(0)
        while True:  # from the first level beyond the target down, until no lane can gain
            for v in range(LANES):
                last = (i(x[v] + shift) >> i(1)) + i(1)
                top = last - ((last ^ i(parity)) & i(1))
                # Of levels that cost alike, the two nearest are enough.
                shared = i(most) + i(4) + ((i(most) ^ i(parity)) & i(1))
                level[v] = (shared if down >= i(4) and top > shared else top) - down
            for v in range(LANES):
                k = np.int64(level[v])
                n = of + (np.int64(near[v]) & 3) * 3 * levels + (0 if k < 0 else most if k > most else k)
                found[v], found[LANES + v], found[2 * LANES + v] = price[n], price[n + levels], price[n + 2 * levels]
            more = i(0)
            for v in range(LANES):
                k, a = level[v], near[v]
                off = x[v] - f(i(2) * k - i(quantizer))
                loss = u[v] * off * off if k >= i(2) else NEVER
                best_0, best_1, best_2 = best[at + v], best[at + 4 * LANES + v], best[at + 8 * LANES + v]
                rest_0, rest_1, rest_2 = rest[to + v], rest[to + 2 * LANES + v], rest[to + 4 * LANES + v]
                total_0, total_1, total_2 = loss + found[v], loss + found[LANES + v], loss + found[2 * LANES + v]
                best_0, rest_0 = (total_0, k) if total_0 < best_0 else (best_0, rest_0)
                best_1, rest_1 = (total_1, k) if total_1 < best_1 else (best_1, rest_1)
                best_2, rest_2 = (total_2, k) if total_2 < best_2 else (best_2, rest_2)
                best[at + v], best[at + 4 * LANES + v], best[at + 8 * LANES + v] = best_0, best_1, best_2
                rest[to + v], rest[to + 2 * LANES + v], rest[to + 4 * LANES + v] = rest_0, rest_1, rest_2
                least = lowest_0 if a == i(0) else lowest_1
                least = (lowest_2 if a == i(2) else least) + loss
                worst = best_1 if best_1 > best_0 else best_0
                worst = best_2 if best_2 > worst else worst
                gains = i(1) if (off < f(0)) | (least < worst) else i(0)
                more |= gains if k >= i(4) else i(0)
            if more == i(0):
                break
            down += i(2)


@compiled()
def _advance(
    cost: Float[np.ndarray, " 384"],
    grown: Float[np.ndarray, " 384"],
    best: Float[np.ndarray, " 384"],
    came: UInt8[np.ndarray, " 384_rows"],
    row: int,
) -> None:
    """Advance 16 columns by one row: costs of all nodes after it, and their predecessors.

    Args:
        cost: Costs of the nodes so far, by class of the level above, state and lane.
        grown: Output: the costs after this row.
        best: Costs of the branches.
        came: Output: the node and branch that led to each node, as 4 · node + branch.
        row: Row of ``came``.
    """
    i = np.int32
    for s in range(8):
        even, odd = EVEN[s] & 7, ODD[s] & 7
        from_even, from_odd = even * LANES, odd * LANES
        of_even, of_odd = (even >> 2) * BRANCHES, (odd >> 2) * BRANCHES
        out, to = s * LANES, (row & 0xFFFFFFF) * NODES + s * LANES
        code_even, code_odd = i(4 * even), i(4 * odd)
        for v in range(LANES):
            even_0, odd_0 = cost[from_even + v], cost[from_odd + v]
            even_1, odd_1 = cost[from_even + 8 * LANES + v], cost[from_odd + 8 * LANES + v]
            even_2, odd_2 = cost[from_even + 16 * LANES + v], cost[from_odd + 16 * LANES + v]

            least, above = even_0 + best[of_even + v], i(0)
            other = even_1 + best[of_even + 4 * LANES + v]
            least, above = (other, i(32)) if other < least else (least, above)
            other = even_2 + best[of_even + 8 * LANES + v]
            least, above = (other, i(64)) if other < least else (least, above)
            grown[out + v], came[to + v] = least, np.uint8(above + code_even)

            least, above = odd_0 + best[of_odd + LANES + v], i(1)
            other = odd_1 + best[of_odd + 5 * LANES + v]
            least, above = (other, i(33)) if other < least else (least, above)
            other = odd_2 + best[of_odd + 9 * LANES + v]
            least, above = (other, i(65)) if other < least else (least, above)
            grown[out + 8 * LANES + v], came[to + 8 * LANES + v] = least, np.uint8(above + code_odd)

            least, above = even_0 + best[of_even + 2 * LANES + v], i(2) + code_even
            other = even_1 + best[of_even + 6 * LANES + v]
            least, above = (other, i(34) + code_even) if other < least else (least, above)
            other = even_2 + best[of_even + 10 * LANES + v]
            least, above = (other, i(66) + code_even) if other < least else (least, above)
            other = odd_0 + best[of_odd + 3 * LANES + v]
            least, above = (other, i(3) + code_odd) if other < least else (least, above)
            other = odd_1 + best[of_odd + 7 * LANES + v]
            least, above = (other, i(35) + code_odd) if other < least else (least, above)
            other = odd_2 + best[of_odd + 11 * LANES + v]
            least, above = (other, i(67) + code_odd) if other < least else (least, above)
            grown[out + 16 * LANES + v], came[to + 16 * LANES + v] = least, np.uint8(above)


@compiled()
def best_paths_in_strips(
    target: Float[np.ndarray, "cols rows"],
    weight: Float[np.ndarray, "cols rows"],
    step: float,
    cost_of_step: float,
    bits: Float[np.ndarray, "2 3 3 levels"],
    left: UInt8[np.ndarray, "strips rows"],
    length: int,
    out: Int32[np.ndarray, "cols rows"],
) -> None:
    """See :func:`nbquant.kernels.reference.viterbi_in_strips`; a column is a row here; at most 16 strips.

    Args:
        target: Targets.
        weight: Weights of the squared errors.
        step: Step Δ.
        cost_of_step: Δ² / λ: turns ``weight`` into bits.
        bits: Bits by quantizer, class to the left, class above and level.
        left: Classes of the levels left of each strip.
        length: Columns of a strip.
        out: Output: the integers.
    """
    cols, rows = target.shape
    strips, levels = len(left), bits.shape[3]
    price, lowest = bits.reshape(-1), np.empty(6, np.float32)
    for q in range(2):
        for a in range(3):
            lowest[3 * q + a] = bits[q, a].min()
    x, u = np.zeros(rows * LANES, np.float32), np.zeros(rows * LANES, np.float32)
    near = np.zeros(rows * LANES, np.int32)
    cost, grown = np.empty(NODES, np.float32), np.empty(NODES, np.float32)
    best, rest = np.empty(2 * BRANCHES, np.float32), np.zeros((rows, 2 * RESTS), np.int32)
    came = np.empty(rows * NODES, np.uint8)
    found, level = np.empty(3 * LANES, np.float32), np.empty(LANES, np.int32)
    node = np.zeros(LANES, np.int64)
    inverse, share = np.float32(1.0 / step), np.float32(cost_of_step)
    for v in range(strips):
        for r in range(rows):
            near[r * LANES + v] = left[v, r]
    for c in range(length):
        for begin in range(0, rows, TOGETHER):
            end = min(begin + TOGETHER, rows)
            for v in range(LANES):
                j = v * length + c
                if v < strips and j < cols:
                    for r in range(begin, end):
                        x[r * LANES + v] = abs(target[j, r]) * inverse
                        u[r * LANES + v] = weight[j, r] * share
                else:
                    for r in range(begin, end):
                        x[r * LANES + v] = np.float32(0)
        cost[:] = NEVER
        cost[:LANES] = np.float32(0)
        for r in range(rows):
            at = slice(r * LANES, (r + 1) * LANES)
            for q in range(2):
                _branches(q, x[at], u[at], near[at], price, lowest, levels, best, rest[r], found, level)
            _advance(cost, grown, best, came, r)
            cost, grown = grown, cost
            if r % RESET == RESET - 1:
                for v in range(LANES):
                    least = cost[v]
                    for n in range(1, 24):
                        least = min(least, cost[n * LANES + v])
                    for n in range(24):
                        cost[n * LANES + v] -= least
        used = 0
        for v in range(strips):
            if v * length + c < cols:
                used = v + 1
                node[v] = 0
                for n in range(24):
                    if cost[n * LANES + v] < cost[node[v] * LANES + v]:
                        node[v] = n
        for r in range(rows - 1, -1, -1):  # all lanes at once, as each waits for memory
            for v in range(used):
                code: Any = np.int64(came[r * NODES + (node[v] & 31) * LANES + v])
                node[v] = code >> 2
                b, q, p = code & 3, (code >> 4) & 1, code >> 5
                k: Any = b if b < 2 else np.int64(rest[r, q * RESTS + (2 * p + b - 2) * LANES + v])
                near[r * LANES + v] = min(k, 2)
                m = 2 * k - (q == 1 and k > 0)
                j = v * length + c
                out[j, r] = m if target[j, r] >= 0 else -m
