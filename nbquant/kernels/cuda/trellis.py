"""Triton kernels of the Viterbi search down each column: a block of columns per program, node costs in registers.

As in the compiled kernel, a path leaves a node by one of few branches, whose costs depend only on the quantizer and the
class of the level above.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from nbquant.kernels.reference import TRANSITION

BLOCK = 32  # columns per program
SLAB = 1 << 28  # steps of nodes stored at once, five bytes each


@triton.jit
def forward_kernel(  # type: ignore[no-untyped-def]
    target, weight, around, price, lowest, from_node, from_branch, came, chosen, node, first, slab, cols, rows, step,
    neighbours, levels, LAST_EDGE: tl.constexpr, BLOCK: tl.constexpr, NODES: tl.constexpr, BRANCHES: tl.constexpr,
    PREVIOUS: tl.constexpr, PER: tl.constexpr, PARITIES: tl.constexpr,
):  # fmt: skip
    """Compute the costs of all nodes row by row, with their predecessors and levels."""
    REST: tl.constexpr = PREVIOUS - 1
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < slab
    n = tl.arange(0, NODES)
    branch = tl.arange(0, BRANCHES)
    q = branch // (PREVIOUS * PER)
    p = branch // PER % PREVIOUS
    b = branch % PER
    rest = (b >= REST)[None, :]
    # Padding has quantizers that do not exist, and no edge from them.
    q = tl.minimum(q, PARITIES - 1)
    cost = tl.where((n == 0)[None, :] & inside[:, None], 0.0, float("inf"))
    here = first + at.to(tl.int64)  # offsets may need more than 32 bits
    kept = at.to(tl.int64)
    for _ in range(rows):
        t = tl.load(target + here, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(weight + here, mask=inside, other=0.0).to(tl.float32) * step * step
        a = tl.load(around + here, mask=inside, other=0).to(tl.int32)
        x = (tl.abs(t) / step)[:, None]
        of = (q[None, :] * neighbours + a[:, None]) * PREVIOUS + p[None, :]
        low = tl.load(lowest + of)
        last = x.to(tl.int32) + 1
        if PARITIES == 2:
            last = ((x + q[None, :].to(tl.float32)).to(tl.int32) >> 1) + 1
        top = last - (last + b[None, :]) % PARITIES
        k = tl.where(rest, top, b[None, :])
        allowed = (k <= last) & (k >= tl.where(rest, REST, 0))
        off = x - k.to(tl.float32)
        if PARITIES == 2:
            off = x - (2 * k - ((q[None, :] == 1) & (k > 0)).to(tl.int32)).to(tl.float32)
        best = u[:, None] * off * off + tl.load(price + of * levels + tl.maximum(tl.minimum(k, levels - 1), 0))
        best = tl.where(allowed, best, float("inf"))
        level = k
        k -= PARITIES
        go = rest & (k >= REST)
        while tl.max(tl.max(go.to(tl.int32), axis=1), axis=0) > 0:
            off = x - k.to(tl.float32)
            if PARITIES == 2:
                off = x - (2 * k - ((q[None, :] == 1) & (k > 0)).to(tl.int32)).to(tl.float32)
            loss = u[:, None] * off * off
            total = loss + tl.load(price + of * levels + tl.maximum(tl.minimum(k, levels - 1), 0))
            better = go & (total < best)
            # Below the target losses grow: once none is small enough for the least price, none will be.
            fits = loss + low < best
            best = tl.where(better, total, best)
            level = tl.where(better, k, level)
            k -= PARITIES
            go = go & fits & (k >= REST)
        grown = tl.full((BLOCK, NODES), float("inf"), tl.float32)
        came_from = tl.zeros((BLOCK, NODES), tl.int32)
        by = tl.zeros((BLOCK, NODES), tl.int32)
        for e in tl.static_range(LAST_EDGE):
            whence = tl.load(from_node + e * NODES + n)
            way = tl.load(from_branch + e * NODES + n)
            known = (whence >= 0)[None, :]
            whence = tl.broadcast_to(tl.maximum(whence, 0)[None, :], (BLOCK, NODES))
            way = tl.broadcast_to(way[None, :], (BLOCK, NODES))
            total = tl.gather(cost, whence, 1) + tl.gather(best, way, 1)
            better = known & (total < grown)
            grown = tl.where(better, total, grown)
            came_from = tl.where(better, whence, came_from)
            by = tl.where(better, tl.gather(level, way, 1), by)
        # Float32 sums of long columns would lose the differences between paths.
        cost = grown - tl.where(inside, tl.min(grown, axis=1), 0.0)[:, None]
        place = kept[:, None] * NODES + n[None, :]
        tl.store(came + place, came_from.to(tl.uint8), mask=inside[:, None])
        tl.store(chosen + place, by, mask=inside[:, None])
        here += cols
        kept += slab
    tl.store(node + at, tl.argmin(cost, axis=1).to(tl.int32), mask=inside)


@triton.jit
def backward_kernel(  # type: ignore[no-untyped-def]
    target, came, chosen, node, out, first, slab, cols, rows, STATES_BY_CLASS: tl.constexpr, BLOCK: tl.constexpr,
    NODES: tl.constexpr, PARITIES: tl.constexpr,
):  # fmt: skip
    """Trace the integers of the paths from their ends."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < slab
    ends = tl.load(node + at, mask=inside, other=0)
    wide = at.to(tl.int64)
    here = (wide * 0 + rows - 1) * cols + first + wide
    kept = (wide * 0 + rows - 1) * slab + wide
    for _ in range(rows):
        place = kept * NODES + ends
        ends = tl.load(came + place, mask=inside, other=0).to(tl.int32)
        k = tl.load(chosen + place, mask=inside, other=0)
        m = k
        if PARITIES == 2:
            m = 2 * k - ((ends >= STATES_BY_CLASS) & (k > 0)).to(tl.int32)
        t = tl.load(target + here, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + here, tl.where(t < 0, -m, m), mask=inside)
        here -= cols
        kept -= slab


def edges(states: int, previous: int) -> tuple[Int32[np.ndarray, "edges nodes"], Int32[np.ndarray, "edges nodes"]]:
    """Find the predecessor of each edge into a node (−1 for none), and its branch among those of all quantizers."""
    transition = TRANSITION if states > 1 else np.zeros((1, 2), np.uint8)
    rest, parities = previous - 1, 2 if states > 1 else 1
    into: list[list[tuple[int, int]]] = [[] for _ in range(states * previous)]
    for s in range(states):
        for p in range(previous):
            for b in range(rest + parities):
                of = ((s * parities // states) * previous + p) * (rest + parities) + b
                into[int(transition[s, b & 1]) * previous + min(b, rest)].append((s * previous + p, of))
    nodes = triton.next_power_of_2(states * previous)
    found = np.full((2, max(map(len, into)), nodes), -1, np.int32)
    found[1] = 0
    for node, ways in enumerate(into):
        for e, way in enumerate(ways):
            found[:, e, node] = way
    return found[0], found[1]


def viterbi(
    target: Float[Tensor, "rows cols"],
    weight: Float[Tensor, "rows cols"],
    step: float,
    costs: Float[Tensor, "quantizers neighbours previous levels"],
    neighbour_class: UInt8[Tensor, "rows cols"] | None,
    lmbda: float,
    states: int = 8,
) -> Int32[Tensor, "rows cols"]:
    """See :func:`nbquant.kernels.reference.viterbi`; in float32."""
    rows, cols = target.shape
    device, parities = target.device, 2 if states > 1 else 1
    out = torch.empty(rows, cols, dtype=torch.int32, device=device)
    if not out.numel():
        return out
    price = (lmbda * costs.double()[:parities]).float().to(device).contiguous()
    _, neighbours, previous, levels = price.shape
    lowest = price.amin(dim=-1).contiguous()
    none = torch.zeros(rows, cols, dtype=torch.uint8, device=device)
    around = none if neighbour_class is None else neighbour_class.to(device).contiguous()
    whence, way = (torch.from_numpy(x).to(device) for x in edges(states, previous))
    last_edge, nodes = whence.shape
    branches = triton.next_power_of_2(parities * previous * (previous - 1 + parities))
    target, weight = target.contiguous(), weight.contiguous()
    width = min(cols, max(BLOCK, SLAB // (rows * nodes)))
    came = torch.empty(rows * width * nodes, dtype=torch.uint8, device=device)
    chosen = torch.empty(rows * width * nodes, dtype=torch.int32, device=device)
    node = torch.empty(width, dtype=torch.int32, device=device)
    for first in range(0, cols, width):
        slab = min(width, cols - first)
        grid = (triton.cdiv(slab, BLOCK),)
        forward_kernel[grid](
            target, weight, around, price, lowest, whence, way, came, chosen, node, first, slab, cols, rows, step,
            neighbours, levels, LAST_EDGE=last_edge, BLOCK=BLOCK, NODES=nodes, BRANCHES=branches, PREVIOUS=previous,
            PER=previous - 1 + parities, PARITIES=parities,
        )  # fmt: skip
        backward_kernel[grid](
            target, came, chosen, node, out, first, slab, cols, rows, STATES_BY_CLASS=states * previous // 2,
            BLOCK=BLOCK, NODES=nodes, PARITIES=parities,
        )  # fmt: skip
    return out
