"""Triton kernels that choose codewords: by thresholds, by all costs, or among the candidates from a table.

Where every weight has the same h, codewords win intervals of w. Where h varies, the cost difference of two codewords
is bilinear in (h, w): a codeword that is not cheaper than another at any corner of a cell of the (h, w) plane is not
cheaper within. So a cell's candidates are those cheaper at some corner than the best at its centre.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from nbquant.kernels.cuda.sample import MANTISSA_BITS, exponents
from nbquant.kernels.keys import ROW_SHIFT

BIN_SHIFT = 16  # bits of w dropped for the columns of the table: 128 per octave
OCTAVES = 14  # octaves of the columns, below twice the largest codeword; smaller weights share the middle column
MANY_ROWS = 256
COLUMNS = 128  # per program


@triton.jit
def search(w, edges, codes, DEPTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Find the codeword whose interval contains each weight, among 2^DEPTH − 1 ascending edges."""
    at = tl.zeros_like(w).to(tl.int32)
    for i in tl.static_range(DEPTH):
        half = 1 << (DEPTH - 1 - i)
        at += tl.where(w > tl.load(edges + at + (half - 1)), half, 0)
    return tl.load(codes + at)


@triton.jit
def cheapest(w, h, values, prices, levels):  # type: ignore[no-untyped-def]
    """Find the codeword of least cost by trying all."""
    index = tl.zeros_like(w).to(tl.int32)
    best = tl.full(w.shape, float("inf"), tl.float32)
    for j in range(levels):
        off = w - tl.load(values + j)
        cost = 0.5 * h * (off * off) + tl.load(prices + j)
        index = tl.where(cost < best, j, index)
        best = tl.minimum(cost, best)
    return index


@triton.jit
def candidates_of(  # type: ignore[no-untyped-def]
    w, h, candidates, first_bin, bins, first_row, rows, BIN_SHIFT: tl.constexpr, ROW_SHIFT: tl.constexpr
):
    """Look up the four candidates of each weight's cell, 16 bits each; −1 if there are more, or outside the table."""
    bits = w.to(tl.int32, bitcast=True)
    column = tl.maximum(((bits & 0x7FFFFFFF) >> BIN_SHIFT) - first_bin + 1, 0)
    row = tl.maximum((h.to(tl.int32, bitcast=True) >> ROW_SHIFT) - first_row + 1, 0)
    cell = row * (2 * bins + 1) + bins + tl.where(bits < 0, -column, column)
    return tl.load(candidates + cell, mask=(column <= bins) & (row < rows), other=-1)


@triton.jit
def cheapest_of(w, h, candidates, values, prices):  # type: ignore[no-untyped-def]
    """Find the codeword of least cost among four candidates."""
    known = candidates >= 0
    index = (candidates & 0xFFFF).to(tl.int32)
    best = tl.full(w.shape, float("inf"), tl.float32)
    for i in tl.static_range(4):
        j = ((candidates >> (16 * i)) & 0xFFFF).to(tl.int32)
        off = w - tl.load(values + j, mask=known, other=0.0)
        cost = 0.5 * h * (off * off) + tl.load(prices + j, mask=known, other=0.0)
        index = tl.where((cost < best) | ((cost == best) & (j < index)), j, index)
        best = tl.minimum(cost, best)
    return index


@triton.jit
def candidates_kernel(  # type: ignore[no-untyped-def]
    values, prices, candidates, levels, first_bin, bins, first_row,
    COLUMNS: tl.constexpr, BIN_SHIFT: tl.constexpr, ROW_SHIFT: tl.constexpr,
):  # fmt: skip
    """Find the candidates of each cell."""
    slot = tl.program_id(0)
    at = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    column = at - bins
    beyond = tl.abs(column)
    far = ((first_bin + beyond) << BIN_SHIFT).to(tl.float32, bitcast=True)
    near = ((first_bin + beyond - 1) << BIN_SHIFT).to(tl.float32, bitcast=True)
    near = tl.where(column == 0, -far, near)
    sign = tl.where(column < 0, -1.0, 1.0)
    w0, w1 = sign * near, sign * far
    row = tl.zeros_like(column) + first_row + slot
    h1 = (row << ROW_SHIFT).to(tl.float32, bitcast=True)
    h0 = tl.where(slot == 0, 0.0, ((row - 1) << ROW_SHIFT).to(tl.float32, bitcast=True))
    middle = cheapest(0.5 * (w0 + w1), 0.5 * (h0 + h1), values, prices, levels)
    value, price = tl.load(values + middle), tl.load(prices + middle)
    a0, a1 = (w0 - value) * (w0 - value), (w1 - value) * (w1 - value)
    count = tl.zeros_like(middle) + 1
    wide = middle.to(tl.int64)
    packed = wide | (wide << 16) | (wide << 32) | (wide << 48)
    for j in range(levels):
        c, p = tl.load(values + j), tl.load(prices + j)
        b0, b1 = (w0 - c) * (w0 - c), (w1 - c) * (w1 - c)
        # Costs are rounded: codewords within that tolerance stay.
        slack = 1.000001
        stays = 0.5 * h0 * b0 + p < (0.5 * h0 * a0 + price) * slack
        stays |= 0.5 * h0 * b1 + p < (0.5 * h0 * a1 + price) * slack
        stays |= 0.5 * h1 * b0 + p < (0.5 * h1 * a0 + price) * slack
        stays |= 0.5 * h1 * b1 + p < (0.5 * h1 * a1 + price) * slack
        stays &= middle != j
        added = (j - wide) << (16 * tl.minimum(count, 3)).to(tl.int64)
        packed += tl.where(stays & (count < 4), added, 0)
        count += stays.to(tl.int32)
    tl.store(candidates + slot * (2 * bins + 1) + at, tl.where(count > 4, -1, packed), mask=at <= 2 * bins)


@dataclass(frozen=True)
class Candidates:
    """Candidates of the cells of a table over rows of h and bins of w; the first row is for all smaller h."""

    packed: Int64[Tensor, " cells"]
    first_bin: int
    bins: int
    first_row: int
    rows: int


def table_of_candidates(
    sensitivity: Float[Tensor, " n"], values: Float[Tensor, " k"], prices: Float[Tensor, " k"]
) -> Candidates:
    """Make the table of candidates for weights in the range of the codewords.

    Args:
        sensitivity: Sensitivities h, whose range is estimated from a sample.
        values: Codewords c, float32.
        prices: λℓ of each codeword, float32.
    """
    top = max(OCTAVES, min(253, exponents(values)[1] + 1))
    bins = OCTAVES << (MANTISSA_BITS - BIN_SHIFT)
    first_bin = (top + 1 - OCTAVES) << (MANTISSA_BITS - BIN_SHIFT)
    lowest, highest = exponents(sensitivity)
    octave = 1 << (MANTISSA_BITS - ROW_SHIFT)
    last_row = octave * min(254, highest + 2) - 1
    first_row = max(octave * max(1, lowest), last_row - MANY_ROWS)
    rows = last_row - first_row + 2
    packed = torch.empty(rows * (2 * bins + 1), dtype=torch.int64, device=values.device)
    candidates_kernel[(rows, triton.cdiv(2 * bins + 1, COLUMNS))](
        values, prices, packed, len(values), first_bin, bins, first_row,
        COLUMNS=COLUMNS, BIN_SHIFT=BIN_SHIFT, ROW_SHIFT=ROW_SHIFT,
    )  # fmt: skip
    return Candidates(packed, first_bin, bins, first_row, rows)


def intervals(
    codebook: Float[np.ndarray, " k"], price: Float[np.ndarray, " k"], mass: float
) -> tuple[Float[np.ndarray, " edges"], Int32[np.ndarray, " codes"], int]:
    """Find the interval won by each codeword if all weights have the same h: the lower envelope of parabolas.

    Args:
        codebook: Reconstruction values c, ascending.
        price: λℓ of each codeword; zeros give the nearest codeword.
        mass: h, positive where prices differ.

    Returns:
        2^depth − 1 ascending edges, the last infinite, 2^depth codewords, and depth. A float32 w is above an edge
        as float32 if and only if it is above the exact one.
    """
    edges: list[float] = []
    if mass == 0:
        codes = [int(np.argmin(price))]
    else:
        codes = []
        for j in np.flatnonzero(np.isfinite(price)) if np.isfinite(price).any() else [0]:
            while codes:
                i = codes[-1]
                rise = (price[j] - price[i]) / (mass * (codebook[j] - codebook[i]))
                edge = (codebook[i] + codebook[j]) / 2 + rise
                if not edges or edge > edges[-1]:
                    edges.append(edge)
                    break
                codes.pop()
                edges.pop()
            codes.append(int(j))
    depth = int(np.ceil(np.log2(len(codes))))
    with np.errstate(over="ignore"):
        rounded = np.array(edges).astype(np.float32)
    down = np.where(rounded > edges, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    padded = np.full(max(1, (1 << depth) - 1), np.inf, np.float32)
    padded[: len(down)] = down
    return padded, np.pad(np.array(codes, np.int32), (0, (1 << depth) - len(codes)), mode="edge"), depth
