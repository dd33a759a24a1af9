"""Triton kernel that fills the histogram in one pass, with one 32-byte atomic update per weight.

Triton has no scatter into shared memory, so every weight is added to a table in the L2 cache. To need
only one update, the table's cells are (row of h × fine bin of w); bins and the cells of the coarser grid are
sums of these. The table spans the octaves of a sample of the weights, and a margin; weights outside, and
invalid h, are listed and left to the reference.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.kernels import reference
from nbquant.kernels.cuda.sample import MANTISSA_BITS, exponents
from nbquant.kernels.keys import LEAST_MASS, ROW_KEYS, ROW_SHIFT, ZERO_KEY

BLOCK = 512  # weights per program
SLAB = 1 << 28  # weights per launch
MANY_CELLS = 1 << 23  # of 32 bytes each; beyond this the reference is used
COPIES_BELOW = 1 << 16  # cells below which the table is kept in several copies, so that fewer updates collide
LISTED_PART, LISTED_LEAST = 64, 256  # size of the list of outside weights: a share of the weights, and a minimum

Histograms = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@triton.jit
def histogram_kernel(  # type: ignore[no-untyped-def]
    weight, sensitivity, table, listed, listed_count, n, room, first_bin, bins, first_row, rows, copies, zero_copies,
    BLOCK: tl.constexpr, SHIFT: tl.constexpr, ROW_SHIFT: tl.constexpr, LEAST_MASS: tl.constexpr,
    WEIGHTED: tl.constexpr, JOINT: tl.constexpr,
):  # fmt: skip
    """Add n, h, hw, hw² of each weight to its cell; list those outside the table."""
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    w = tl.load(weight + at, mask=inside, other=0).to(tl.float32)
    bits = w.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    zero = magnitude == 0
    bin_ = (magnitude >> SHIFT) - first_bin
    fits = inside & (zero | ((bin_ >= 0) & (bin_ < bins)))
    row = tl.zeros_like(bits)
    mass = tl.full((BLOCK,), 1.0, tl.float64)
    if WEIGHTED:
        h = tl.load(sensitivity + at, mask=inside, other=0).to(tl.float32)
        mass = h.to(tl.float64) + LEAST_MASS
        if JOINT:
            # Row 0, for h = 0, is far from the others: it is the first row of the table wherever these are.
            row = h.to(tl.int32, bitcast=True) >> ROW_SHIFT
            none = (row == 0) | (h == 0)
            row = tl.where(none, 0, row - first_row + 1)
            fits &= none | ((row > 0) & (row < rows))
    # Zeros are the one value shared by very many weights: their cells have enough copies to avoid collisions.
    cell = ((program % copies) * rows + row) * 2 * bins + tl.where(bits < 0, bins, 0) + bin_
    cell = tl.where(zero, 2 * copies * rows * bins + (program % zero_copies) * rows + row, cell)
    wide = w.to(tl.float64)
    first = mass * wide
    sums = tl.join(tl.join(tl.full((BLOCK,), 1.0, tl.float64), first), tl.join(mass, first * wide))
    to = table + cell.to(tl.int64)[:, None] * 4 + tl.arange(0, 4)[None, :]
    mask = tl.broadcast_to(fits[:, None], (BLOCK, 4))
    # Flat, so that neighbouring threads hold the sums of one cell: a warp then updates eight whole sectors at once.
    tl.atomic_add(
        tl.reshape(to, (BLOCK * 4,)), tl.reshape(sums, (BLOCK * 4,)), mask=tl.reshape(mask, (BLOCK * 4,)), sem="relaxed"
    )
    outside = inside & ~fits
    count = tl.sum(outside.to(tl.int32))
    if count > 0:
        place = tl.atomic_add(listed_count, count, sem="relaxed") + tl.cumsum(outside.to(tl.int32), 0) - 1
        tl.store(listed + place, at, mask=outside & (place < room))


def histogram(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None, marginal_shift: int, joint_shift: int | None
) -> Histograms:
    """See the two histograms of :mod:`nbquant.kernels.reference`, made in one pass.

    Args:
        weight: Weights w, on a CUDA device; float64 is left to the reference.
        sensitivity: Sensitivities h; None for h = 1.
        marginal_shift: Bits dropped for the bins of w.
        joint_shift: Bits dropped for the bins of the joint grid; None leaves it out, and so does no sensitivity.

    Returns:
        Keys and sums of the bins, keys and sums of the cells of the grid; numpy arrays. The order of the additions
        differs from run to run, which changes the sums by float64 rounding.
    """
    joint_shift = None if sensitivity is None else joint_shift
    double = weight.dtype == torch.float64 or (sensitivity is not None and sensitivity.dtype == torch.float64)
    shift = marginal_shift if joint_shift is None else min(marginal_shift, joint_shift)
    window = None if double or not len(weight) else _window(weight, sensitivity, shift, joint_shift is not None)
    filled = None if window is None else _fill(weight, sensitivity, window)
    if window is None or filled is None:
        return _by_reference(weight, sensitivity, marginal_shift, joint_shift)
    table, zeros, listed = filled
    empty = np.zeros(0, np.int64), np.zeros((0, 4))
    found = *_occupied(table.sum(0, True), zeros.sum(0, True), window, marginal_shift), *empty
    if joint_shift is not None:
        found = *found[:2], *_occupied(table, zeros, window, joint_shift)
    if not len(listed):
        return found
    rest = _by_reference(
        weight[listed], None if sensitivity is None else sensitivity[listed], marginal_shift, joint_shift
    )
    return *_add(found[:2], rest[:2]), *_add(found[2:], rest[2:])


@dataclass(frozen=True)
class _Window:
    """Range of the table: some octaves of |w|, cut into bins; the row of h = 0, and some more rows."""

    shift: int
    first_bin: int
    bins: int
    first_row: int
    rows: int
    joint: bool

    @property
    def cells(self) -> int:
        return 2 * self.rows * self.bins

    @property
    def copies(self) -> int:
        return max(1, COPIES_BELOW // self.cells)

    @property
    def zero_copies(self) -> int:
        return max(64, COPIES_BELOW // self.rows)


def _window(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None, shift: int, joint: bool
) -> _Window | None:
    """Range of a sample with a margin; None if the table would be too large."""
    lowest, highest = exponents(weight)
    low, high = max(0, lowest - 4), min(254, highest + 2)
    first_row, last_row = 1, 0
    if joint and sensitivity is not None:
        lowest, highest = exponents(sensitivity)
        octave = 1 << (MANTISSA_BITS - ROW_SHIFT)
        first_row, last_row = octave * max(1, lowest - 2), octave * min(255, highest + 3) - 1
    # With bins wider than an octave, the first may begin below it.
    first_bin = (low << MANTISSA_BITS) >> shift
    bins = (((high + 1) << MANTISSA_BITS) - 1 >> shift) + 1 - first_bin
    window = _Window(shift, first_bin, bins, first_row, last_row - first_row + 2, joint)
    return window if window.cells <= MANY_CELLS else None


def _fill(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None, window: _Window
) -> tuple[Float[Tensor, "rows 2*bins 4"], Float[Tensor, "rows 1 4"], Int64[Tensor, " m"]] | None:
    """Sums of the cells and of the zeros of each row, and the weights outside; None if those are too many."""
    device, rows = weight.device, window.rows
    body = window.copies * window.cells
    table = torch.zeros(body + window.zero_copies * rows, 4, dtype=torch.float64, device=device)
    outside = [torch.zeros(0, dtype=torch.int64, device=device)]
    for start in range(0, len(weight), SLAB):
        w = weight[start : start + SLAB].contiguous()
        h = w if sensitivity is None else sensitivity[start : start + SLAB].contiguous()
        listed = torch.empty(len(w) // LISTED_PART + LISTED_LEAST, dtype=torch.int32, device=device)
        count = torch.zeros(1, dtype=torch.int32, device=device)
        histogram_kernel[(triton.cdiv(len(w), BLOCK),)](
            w, h, table, listed, count, len(w), len(listed),
            window.first_bin, window.bins, window.first_row, rows, window.copies, window.zero_copies,
            BLOCK=BLOCK, SHIFT=window.shift, ROW_SHIFT=ROW_SHIFT, LEAST_MASS=LEAST_MASS,
            WEIGHTED=sensitivity is not None, JOINT=window.joint,
        )  # fmt: skip
        if int(count) > len(listed):
            return None
        outside.append(listed[: int(count)].long() + start)
    cells = table[:body].view(window.copies, rows, 2 * window.bins, 4)
    zeros = table[body:].view(window.zero_copies, rows, 1, 4).sum(dim=0)
    return cells[0] if len(cells) == 1 else cells.sum(dim=0), zeros, torch.cat(outside)


def _occupied(
    table: Float[Tensor, "rows 2*bins 4"], zeros: Float[Tensor, "rows 1 4"], window: _Window, shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending keys and sums of the occupied cells, for bins of ``shift`` dropped bits."""
    rows, device = len(table), table.device
    magnitude = (torch.arange(window.bins, device=device) + window.first_bin << window.shift) >> shift
    coarse = magnitude - magnitude[0]
    bins = int(coarse[-1]) + 1
    if bins < window.bins:
        columns = torch.cat([coarse, coarse + bins])
        table = table.new_zeros(rows, 2 * bins, 4).index_add_(1, columns, table)
    first = (int(magnitude[0]) + torch.arange(bins, device=device)) << shift
    # Negative weights come first and backwards: the larger their magnitude, the lower their key.
    table = torch.cat([table[:, bins:].flip(1), zeros, table[:, :bins]], dim=1)
    negative = -(1 << shift) - first.flip(0)
    column = ZERO_KEY + torch.cat([negative, first.new_zeros(1), first + 1])
    slot = torch.arange(rows, device=device)
    row = torch.where(slot == 0, 0, slot + window.first_row - 1)
    used = (table[..., 0] > 0).nonzero(as_tuple=True)
    key = row[used[0]] * ROW_KEYS + column[used[1]]
    return key.cpu().numpy(), table[used].cpu().numpy()


def _by_reference(
    weight: Float[Tensor, " n"], sensitivity: Float[Tensor, " n"] | None, marginal_shift: int, joint_shift: int | None
) -> Histograms:
    marginal = reference.marginal_histogram(weight, sensitivity, marginal_shift)
    joint = marginal[0][:0], marginal[1][:0]
    if sensitivity is not None and joint_shift is not None:
        joint = reference.joint_histogram(weight, sensitivity, joint_shift)
    keys, sums, cells, joint_sums = (tensor.cpu().numpy() for tensor in (*marginal, *joint))
    return keys, sums, cells, joint_sums


def _add(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    key, index = np.unique(np.concatenate([a[0], b[0]]), return_inverse=True)
    sums = np.zeros((len(key), 4))
    np.add.at(sums, index, np.concatenate([a[1], b[1]]))
    return key, sums
