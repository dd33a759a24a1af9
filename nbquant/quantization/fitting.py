"""What all quantizers share in fitting: groups, pruned weights, real code lengths, distortion."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.coding.ledger import Ledger
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.quantized import PRUNED, Codebook, Quantized, QuantizedTensor
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.rate import code_ledger, is_mostly_zero, lengths_for, position_ledger, tensor_gaps
from nbquant.quantization.selection import SelectedTensor, Selection
from nbquant.quantization.validate import checked_sensitivity, checked_weight, require_positive_somewhere

WHOLE = "all"


def groups_of(selection: Selection, per_layer: bool) -> dict[str, Selection]:
    """Those weights that share a codebook."""
    return selection.by_layer() if per_layer else {WHOLE: selection}


def fit_quantizer(
    quantizer: Quantizer,
    weight: Selection | Float[Tensor, "..."],
    sensitivity: Float[Tensor, "..."] | None = None,
    start: Mapping[str, Clusters] | None = None,
) -> Quantized:
    """Quantize a selection, or a plain tensor with its sensitivity; without sensitivities h is 1.

    Args:
        quantizer: How.
        weight: A selection; or weights of any shape, floating point and finite.
        sensitivity: Hessian diagonal of the same shape, for plain weights only.
        start: Clusters of each group, if they are already known from histograms.

    Raises:
        TypeError: Neither a selection nor a floating-point tensor.
        ValueError: No weights; NaN or infinite entries; a sensitivity of another shape, negative or all zero.
    """
    if isinstance(weight, Selection):
        if sensitivity is not None:
            raise TypeError("sensitivity comes with the selection: pass it to select(), not to fit()")
        selection = weight
    else:
        selection = _plain(weight, sensitivity)
    pruned = is_mostly_zero(sum(int((t.weight == 0).sum()) for t in selection), len(selection))
    tensors: dict[str, QuantizedTensor] = {}
    codebooks: dict[str, Codebook] = {}
    loss, ledger = 0.0, Ledger()
    for group, members in groups_of(selection, quantizer.per_layer).items():
        known = start.get(group) if start else None  # none for a layer of zeros
        book, assignment, group_loss = _fit_group(quantizer, members, pruned, known)
        codebooks[group] = book
        tensors |= _split(members, book.value, assignment)
        counts, lengths = book.counts.cpu().numpy(), book.codeword_length.cpu().numpy()
        ledger += code_ledger(counts, lengths, quantizer.coding, torch.finfo(book.value.dtype).bits)
        loss += group_loss
    if pruned:
        ledger += position_ledger([tensor_gaps(t.weight) for t in selection])
    return Quantized(
        quantizer=quantizer,
        tensors=tensors,
        codebooks=codebooks,
        ledger=ledger,
        distortion=loss / len(selection),
        source_bits=selection.source_bits,
        unselected_bits=selection.unselected_bits,
    )


def _plain(weight: object, sensitivity: object) -> Selection:
    weight = checked_weight(weight, "weight")
    if sensitivity is not None:
        sensitivity = checked_sensitivity(sensitivity, weight, "weight")
        require_positive_somewhere([sensitivity])
    return Selection((SelectedTensor("weight", "weight", weight, sensitivity),))


def mass_of(sensitivity: Float[Tensor, " n"], weighted: bool) -> Float[Tensor, " n"]:
    """What each weight counts: h, or everywhere the mean of h."""
    if weighted and bool((sensitivity > 0).any()):
        return sensitivity
    mean = sensitivity.double().mean()
    return torch.full_like(sensitivity, float(mean) if mean > 0 else 1.0)


def _fit_group(
    quantizer: Quantizer, selection: Selection, pruned: bool, start: Clusters | None
) -> tuple[Codebook, Int64[Tensor, " n"], float]:
    weight = selection.weight
    given = selection.sensitivity
    sensitivity = torch.ones_like(weight) if given is None else given
    kept = weight != 0 if pruned else torch.ones_like(weight, dtype=torch.bool)
    assignment = torch.full(weight.shape, PRUNED, dtype=torch.int64, device=weight.device)
    if not bool(kept.any()):
        empty = torch.zeros(0, dtype=torch.int64, device=weight.device)
        return Codebook(weight.new_zeros(0), empty, empty), assignment, 0.0
    w, h = (weight[kept], sensitivity[kept]) if pruned else (weight, sensitivity)
    mass = mass_of(h, quantizer.weighted)
    values, found = quantizer.assign(w, mass, start or quantizer.clusters(_cells(w, mass, quantizer.needs_rows)))
    # What is stored is rounded to the weights' dtype, which may make two values one.
    codebook, merged = torch.unique(torch.from_numpy(values).to(w.device).to(w.dtype), return_inverse=True)
    counts = torch.bincount(merged[found], minlength=len(codebook))
    renumber = torch.cumsum(counts > 0, 0) - 1
    found, codebook, counts = renumber[merged[found]], codebook[counts > 0], counts[counts > 0]
    length = lengths_for(counts.cpu().numpy(), quantizer.coding)
    assignment[kept] = found
    loss = 0.5 * (h.double() * (w.double() - codebook[found].double()) ** 2).sum()
    return Codebook(codebook, counts, torch.from_numpy(length).to(w.device)), assignment, float(loss)


def _cells(weight: Float[Tensor, " n"], mass: Float[Tensor, " n"], rows: bool) -> Cells:
    """The solvers' view of weights: one by one where they are few, else of their histogram."""
    return Cells.of_histogram(Histogram.of(weight, mass), True, rows)


def _split(
    selection: Selection, codebook: Float[Tensor, " k"], assignment: Int64[Tensor, " n"]
) -> dict[str, QuantizedTensor]:
    sizes = [t.weight.numel() for t in selection]
    dtype = torch.int16 if len(codebook) < np.iinfo(np.int16).max else torch.int32
    parts = assignment.to(dtype).split(sizes)
    return {
        t.name: QuantizedTensor(codebook.to(t.weight.dtype), part, t.weight.shape)
        for t, part in zip(selection, parts, strict=True)
    }
