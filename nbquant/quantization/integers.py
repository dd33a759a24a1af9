"""Quantized tensors from trellis integers: codebooks of integers times steps, and all their bits."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from nbquant.coding import codes
from nbquant.coding.ledger import Ledger
from nbquant.coding.levels import MOST_SPAN, matrix_shape
from nbquant.kernels import dispatch
from nbquant.quantization.clustering import groups_of
from nbquant.quantization.codebook import PRUNED, Codebook, Lattice, QuantizedTensor
from nbquant.quantization.members import index_dtype
from nbquant.quantization.paths import Matrix, Paths, costs_of
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.rate import is_mostly_zero, lengths_for, position_ledger, tensor_gaps
from nbquant.quantization.selection import Selection
from nbquant.quantization.streams import coded

DENSE = 1 << 20  # span of integers up to which a table is fast
CHUNK = 1 << 20  # weights counted at a time


def is_pruned(selection: Selection) -> bool:
    """Whether zeros of a selection are left out and stay exactly zero."""
    return is_mostly_zero(sum(t.weight.numel() - int(t.weight.count_nonzero()) for t in selection), len(selection))


def quantized_paths(quantizer: Quantizer, selection: Selection, paths: Paths) -> Quantized:
    """Make the quantized selection of trellis paths.

    Args:
        quantizer: The quantizer that found the paths.
        selection: Their selection, in the same order.
        paths: Integers and steps; tensors of a group share a step.
    """
    pruned = is_pruned(selection)
    groups = groups_of(selection, quantizer.per_layer)
    found = {t.name: m for t, m in zip(selection, paths.matrices, strict=True)}
    tensors: dict[str, QuantizedTensor] = {}
    codebooks: dict[str, Codebook] = {}
    loss = 0.0
    for group, members in groups.items():
        dtype = reduce(torch.promote_types, (t.weight.dtype for t in members))
        step = found[members.tensors[0].name].step
        flat = {t.name: _integers(found[t.name]) for t in members}
        if pruned:
            # If zeros are in the alphabet, a weight quantized to zero and a pruned one are the same.
            in_alphabet = codes.named(quantizer.coding).adaptive
            left_out = {t.name: (flat[t.name] if in_alphabet else t.weight.reshape(-1)) == 0 for t in members}
            used = [flat[t.name][~left_out[t.name]] for t in members]
        else:
            left_out, used = {}, list(flat.values())
        integer, place, occurring = _alphabet(used)
        value, index = torch.unique((integer.double() * step).to(dtype), return_inverse=True)
        counts = torch.zeros(len(value), dtype=torch.int64, device=index.device).index_add_(0, index, occurring)
        n = counts.cpu().numpy()
        length = lengths_for(n, quantizer.coding)
        span = int(integer[-1] - integer[0]) if len(integer) else 0
        # Two integers may round to one value, which is then on no path.
        known = len(value) == len(integer) and span < MOST_SPAN
        lattice = Lattice(step, integer.long(), dependent=True) if known else None
        codebooks[group] = Codebook(value, counts, torch.from_numpy(length).to(counts.device), lattice)
        for t in members:
            assignment = torch.full_like(flat[t.name], PRUNED, dtype=index_dtype(len(value)))
            for begin in range(0, len(assignment) if len(integer) else 0, CHUNK):
                part = slice(begin, begin + CHUNK)
                assignment[part] = index[place(flat[t.name][part])]
            if pruned:  # such a weight need not have a value in this codebook
                assignment[left_out[t.name]] = PRUNED
            own = value.to(t.weight.dtype)
            tensors[t.name] = QuantizedTensor(own, assignment, t.weight.shape)
            h = None if t.sensitivity is None else t.sensitivity.reshape(-1)
            loss += float(dispatch.cluster_losses(t.weight.reshape(-1), h, own, assignment)[:, 2].sum())

    def of_positions() -> Ledger:
        return position_ledger([tensor_gaps(t.weight) for t in selection])

    tensors, ledger = coded(tensors, codebooks, quantizer.coding, of_positions if pruned else None)
    in_order = {t.name: tensors[t.name] for t in selection}
    return Quantized.of(quantizer, selection, in_order, codebooks, ledger, loss)


Place = Callable[[Int32[Tensor, " n"]], Int64[Tensor, " n"]]


def _alphabet(used: Sequence[Int32[Tensor, " n"]]) -> tuple[Int32[Tensor, " k"], Place, Int64[Tensor, " k"]]:
    """The distinct integers, a function from integers to their places among them (others go anywhere), and counts."""
    some = [part for part in used if len(part)]
    least, most = min((int(m.min()) for m in some), default=0), max((int(m.max()) for m in some), default=0)
    if not some or most - least >= DENSE:
        integer, counts = torch.unique(torch.cat(list(used)), return_counts=True)
        last = max(len(integer) - 1, 0)
        return integer, lambda m: torch.searchsorted(integer, m).clamp(max=last), counts
    parts = (part for of_tensor in some for part in of_tensor.split(CHUNK))
    occurring = sum(torch.bincount((part - least).long(), minlength=most - least + 1) for part in parts)
    assert isinstance(occurring, Tensor)
    present = occurring > 0
    table = (present.cumsum(0) - 1).clamp(min=0)
    integer = (torch.nonzero(present)[:, 0] + least).to(torch.int32)
    return integer, lambda m: table[(m.clamp(least, most) - least).long()], occurring[present]


def ideal_bits(quantized: Quantized) -> float:
    """Compute the ideal bits of the levels of a result on trellis paths, given the levels to the left and above.

    Args:
        quantized: The result; every codebook must have a lattice.

    Raises:
        ValueError: Values that are no integers times a step.
    """
    matrices, none = [], torch.zeros(1, 1)
    for name, tensor in quantized.tensors.items():
        group = quantized.group_of(name)
        lattice = quantized.codebooks[group].lattice
        if lattice is None:
            raise ValueError(f"the values of {group!r} must be integers times a step, but are not")
        values = torch.cat([lattice.integer.cpu(), torch.zeros(1, dtype=torch.int64)])  # PRUNED, −1, is the last entry
        integer = values[tensor.assignment.long().cpu()].int()
        matrices.append(Matrix(none, none, group, group, lattice.step, integer.reshape(matrix_shape(tensor.shape))))
    return costs_of(matrices)[1]


def _integers(matrix: Matrix) -> Int32[Tensor, " n"]:
    assert matrix.integers is not None
    return matrix.integers.reshape(-1).contiguous()
