"""Triton kernels that assign weights to codewords and sum the clusters, in one pass."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from nbquant.kernels import reference
from nbquant.kernels.cuda.choice import (
    BIN_SHIFT,
    Candidates,
    candidates_of,
    cheapest,
    cheapest_of,
    intervals,
    search,
    table_of_candidates,
)
from nbquant.kernels.cuda.sample import exponents
from nbquant.kernels.keys import ROW_SHIFT
from nbquant.kernels.reference import CHUNK

BLOCK = 512  # weights per program
MATRIX_BLOCK = 128  # the same with matrix products: with more, registers spill
SLAB = 1 << 30  # weights per launch: offsets within it fit 32 bits
PROGRAMS = 8  # per multiprocessor
FEW_LEVELS = 16  # codewords up to which trying all is faster than a table of candidates
FEW_WEIGHTS = 1 << 18  # weights up to which the table does not pay
MATRIX_LEVELS = 64  # codewords up to which sums use matrix products, beyond atomic updates
COPIES_BELOW = 1 << 15  # clusters below which sums are kept in several copies, so that fewer updates collide
LISTED_PART, LISTED_LEAST = 16, 256  # size of the list of weights that the table does not decide
WIDTH = 8  # columns of the sums: n, w, h, hw, hw², and three that fill the row


@triton.jit
def assign_kernel(  # type: ignore[no-untyped-def]
    weight, sensitivity, out, sums, edges, codes, values, prices, candidates, lattice, listed, listed_count,
    n, levels, copies, room, first_bin, bins, first_row, rows, w_scale, h_scale,
    BLOCK: tl.constexpr, CHOICE: tl.constexpr, DEPTH: tl.constexpr, LISTED: tl.constexpr, WEIGHTED: tl.constexpr,
    SKIP_ZEROS: tl.constexpr, MATRIX: tl.constexpr, BIN_SHIFT: tl.constexpr, ROW_SHIFT: tl.constexpr,
):  # fmt: skip
    """Assign weights, or the listed ones, and add them to the sums; list those that the table does not decide."""
    program = tl.program_id(0)
    sums += (program % copies) * levels * 8
    total = tl.zeros((MATRIX if MATRIX > 0 else 1, 8), tl.float64)
    for block in range(program, tl.cdiv(n, BLOCK), tl.num_programs(0)):
        at = block * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        if LISTED:
            at = tl.load(listed + at, mask=inside, other=0)
        w = tl.load(weight + at, mask=inside, other=0).to(tl.float32)
        h = tl.full((BLOCK,), 1.0, tl.float32)
        if WEIGHTED:
            h = tl.load(sensitivity + at, mask=inside, other=0).to(tl.float32)
        kept = inside
        if SKIP_ZEROS:
            kept &= w != 0
        decided = inside
        if CHOICE == "search":
            index = search(w, edges, codes, DEPTH)
        elif CHOICE == "all":
            index = cheapest(w, h, values, prices, levels)
        elif CHOICE == "table":
            few = candidates_of(w, h, candidates, first_bin, bins, first_row, rows, BIN_SHIFT, ROW_SHIFT)
            index = cheapest_of(w, h, few, values, prices)
            undecided = kept & (few < 0)
            decided = inside & ~undecided
            kept &= decided
            count = tl.sum(undecided.to(tl.int32))
            if count > 0:
                place = tl.atomic_add(listed_count, count, sem="relaxed") + tl.cumsum(undecided.to(tl.int32), 0) - 1
                tl.store(listed + place, at, mask=undecided & (place < room))
        else:
            # Adding and taking away 1.5·2⁵² rounds a float64 to the nearest integer, halves to the even one.
            step = w.to(tl.float64) / tl.load(lattice) - tl.load(lattice + 1)
            index = ((step + 6755399441055744.0) - 6755399441055744.0 - tl.load(lattice + 2)).to(tl.int32)
            index = tl.minimum(tl.maximum(index, 0), levels - 1)
        tl.store(out + at, tl.where(kept, index, -1).to(out.dtype.element_ty), mask=decided)
        if MATRIX > 0:
            w = tl.where(kept, w * w_scale, 0.0)
            h = tl.where(kept, h * h_scale, 0.0)
            part = _columns(kept.to(tl.float32), w, h, BLOCK)
            chosen = (tl.arange(0, MATRIX)[:, None] == index[None, :]).to(tl.float32)
            total += tl.dot(chosen, part, input_precision="tf32x3").to(tl.float64)
        else:
            part = _columns(kept.to(tl.float64), w.to(tl.float64), h.to(tl.float64), BLOCK)
            column = tl.arange(0, 8)[None, :]
            to = sums + (index[:, None] * 8 + column)
            mask = kept[:, None] & (column < 5)
            # Flat, so that neighbouring threads hold the sums of one weight.
            tl.atomic_add(
                tl.reshape(to, (BLOCK * 8,)),
                tl.reshape(part, (BLOCK * 8,)),
                mask=tl.reshape(mask, (BLOCK * 8,)),
                sem="relaxed",
            )
    if MATRIX > 0:
        row, column = tl.arange(0, MATRIX)[:, None], tl.arange(0, 8)[None, :]
        tl.atomic_add(sums + row * 8 + column, total, mask=(row < levels) & (column < 5), sem="relaxed")


@triton.jit
def _columns(one, w, h, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    none = tl.zeros_like(w)
    hw = h * w
    even = tl.join(tl.join(one, hw * w), tl.join(h, none))
    odd = tl.join(tl.join(w, none), tl.join(hw, none))
    return tl.reshape(tl.join(even, odd), (BLOCK, 8))


@dataclass(frozen=True)
class _Choice:
    """The way codewords are found, with its inputs to the kernel."""

    kind: str
    levels: int
    tables: dict[str, Tensor]
    depth: int = 0
    candidates: Candidates | None = None


def assign(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    codebook: Float[np.ndarray, " k"],
    codeword_length: Float[np.ndarray, " k"],
    lmbda: float,
    out: Tensor,
    constant: float | None = None,
    skip_zeros: bool = False,
) -> Float[np.ndarray, "k 5"]:
    """See :func:`nbquant.kernels.reference.assign`; ``out`` receives the assignment, the sums are returned.

    Thresholds are exact; costs are float32, so that codewords whose costs differ by a relative 10⁻⁶ count as equal.
    """
    codebook, length = np.asarray(codebook, np.float64), np.asarray(codeword_length, np.float64)
    device = weight.device
    if _is_double(weight, sensitivity):
        values, lengths = torch.from_numpy(codebook).to(device), torch.from_numpy(length).to(device)
        return _by_reference(reference.assign, weight, sensitivity, out, (values, lengths, lmbda, constant, skip_zeros))
    price = lmbda * length if lmbda > 0 else np.zeros(len(codebook))
    same = constant if constant is not None else 1.0 if sensitivity is None or not lmbda > 0 else None
    if same is not None:
        edges, codes, depth = intervals(codebook, price, same if lmbda > 0 else 1.0)
        tables = {"edges": torch.from_numpy(edges).to(device), "codes": torch.from_numpy(codes).to(device)}
        return _run(_Choice("search", len(codebook), tables, depth), weight, sensitivity, out, skip_zeros, codebook)
    tables = {
        "values": torch.from_numpy(codebook).float().to(device),
        "prices": torch.from_numpy(price).float().to(device),
    }
    choice = _Choice("all", len(codebook), tables)
    if sensitivity is not None and len(weight) > FEW_WEIGHTS and FEW_LEVELS < len(codebook) < 1 << 15:
        found = table_of_candidates(sensitivity, tables["values"], tables["prices"])
        choice = _Choice("table", len(codebook), tables | {"candidates": found.packed}, candidates=found)
    return _run(choice, weight, sensitivity, out, skip_zeros, codebook)


def assign_grid(
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    step: float,
    offset: float,
    first: int,
    cells: int,
    out: Tensor,
    skip_zeros: bool = False,
) -> Float[np.ndarray, "cells 5"]:
    """See :func:`nbquant.kernels.reference.assign_grid`; ``out`` receives the assignment, the sums are returned."""
    if _is_double(weight, sensitivity):
        return _by_reference(
            reference.assign_grid, weight, sensitivity, out, (step, offset, first, cells, skip_zeros), cells
        )
    lattice = torch.tensor([step, offset, first], dtype=torch.float64, device=weight.device)
    edge = step * np.abs([first + offset, first + cells + offset])
    return _run(_Choice("grid", cells, {"lattice": lattice}), weight, sensitivity, out, skip_zeros, edge)


def _run(
    choice: _Choice,
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    out: Tensor,
    skip_zeros: bool,
    scale: Float[np.ndarray, " m"],
) -> Float[np.ndarray, "k 5"]:
    """Assign slab by slab; a slab whose sums exceed float32 is repeated with atomic updates."""
    assert weight.shape == out.shape, f"{tuple(out.shape)} indices for {tuple(weight.shape)} weights"
    total = np.zeros((choice.levels, 5))
    for start in range(0, len(weight), SLAB):
        slab = slice(start, start + SLAB)
        w, to = weight[slab].contiguous(), out[slab]
        h = None if sensitivity is None else sensitivity[slab].contiguous()
        sums = _slab(choice, w, h, to, skip_zeros, scale, choice.levels <= MATRIX_LEVELS)
        if not np.isfinite(sums).all():
            sums = _slab(choice, w, h, to, skip_zeros, scale, False)
        total += sums
    return total


def _slab(
    choice: _Choice,
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    out: Tensor,
    skip_zeros: bool,
    scale: Float[np.ndarray, " m"],
    matrix: bool,
) -> Float[np.ndarray, "k 5"]:
    n, device, levels = len(weight), weight.device, choice.levels
    copies = 1 if matrix else max(1, COPIES_BELOW // levels)
    sums = torch.zeros(copies, levels, WIDTH, dtype=torch.float64, device=device)
    # Powers of two, so that products stay within float32 whatever the units of w and h.
    largest = float(np.abs(scale).max(initial=0))
    w_scale = 2.0 ** -np.clip(np.frexp(largest)[1], -100, 100) if matrix else 1.0
    h_scale = 2.0 ** (127 - exponents(sensitivity)[1]) if matrix and sensitivity is not None else 1.0
    listed = torch.empty(n // LISTED_PART + LISTED_LEAST, dtype=torch.int32, device=device)
    count = torch.zeros(1, dtype=torch.int32, device=device)
    block = MATRIX_BLOCK if matrix else BLOCK
    table = choice.candidates
    arguments: dict[str, Any] = {
        **dict.fromkeys(("edges", "codes", "values", "prices", "candidates", "lattice"), weight),
        **choice.tables,
        "listed": listed, "listed_count": count, "levels": levels, "copies": copies, "room": len(listed),
        "first_bin": table.first_bin if table else 0, "bins": table.bins if table else 0,
        "first_row": table.first_row if table else 0, "rows": table.rows if table else 0,
        "w_scale": w_scale, "h_scale": h_scale,
        "BLOCK": block, "DEPTH": choice.depth, "WEIGHTED": sensitivity is not None, "SKIP_ZEROS": skip_zeros,
        "MATRIX": max(16, triton.next_power_of_2(levels)) if matrix else 0,
        "BIN_SHIFT": BIN_SHIFT, "ROW_SHIFT": ROW_SHIFT,
    }  # fmt: skip

    def launch(kind: str, n: int, of_list: bool) -> None:
        programs = min(triton.cdiv(n, block), _programs(device))
        h = weight if sensitivity is None else sensitivity
        assign_kernel[(programs,)](weight, h, out, sums, n=n, CHOICE=kind, LISTED=of_list, num_stages=1, **arguments)

    launch(choice.kind, n, False)
    left = int(count) if choice.kind == "table" else 0
    if left > len(listed):
        sums.zero_()
        launch("all", n, False)
    elif left:
        launch("all", left, True)
    w, h = 1 / w_scale, 1 / h_scale
    return sums.sum(dim=0)[:, :5].cpu().numpy() * [1, w, h, h * w, h * w * w]


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


def _is_double(weight: Tensor, sensitivity: Tensor | None) -> bool:
    return weight.dtype == torch.float64 or (sensitivity is not None and sensitivity.dtype == torch.float64)


def _by_reference(
    kernel: Any,
    weight: Float[Tensor, " n"],
    sensitivity: Float[Tensor, " n"] | None,
    out: Tensor,
    arguments: tuple[Any, ...],
    levels: int | None = None,
) -> Float[np.ndarray, "k 5"]:
    levels = len(arguments[0]) if levels is None else levels
    total = torch.zeros(levels, 5, dtype=torch.float64, device=weight.device)
    for start in range(0, len(weight), CHUNK):
        part = slice(start, start + CHUNK)
        found, sums = kernel(weight[part], None if sensitivity is None else sensitivity[part], *arguments)
        out[part] = found.to(out.dtype)
        total += sums
    return total.cpu().numpy()
