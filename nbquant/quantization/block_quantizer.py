"""Block formats of other libraries as a quantization method: one format, or the best of several for each layer."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.coding import codes
from nbquant.coding.huffman import symbol_counts
from nbquant.progress import Progress, track
from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_codes import BlockCodes
from nbquant.quantization.blocks.block_format import BlockFormat
from nbquant.quantization.blocks.scaling import Scaling, block_matrix, ordered_codes
from nbquant.quantization.clustering import groups_of
from nbquant.quantization.codebook import BlockLevels, Codebook, QuantizedTensor
from nbquant.quantization.integers import is_pruned
from nbquant.quantization.members import index_dtype
from nbquant.quantization.method import Method
from nbquant.quantization.parameter import LMBDA, Parameter
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Weights, check_options, check_positive
from nbquant.quantization.selection import Selection, as_selection
from nbquant.quantization.streams import coded
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import require_valid

K_QUANTS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0")
USUAL = ("int2/tensor", "int3/tensor", "int4/tensor", *K_QUANTS)
"""Formats for layers of any size: blocks are too dear where rows are short."""


class ScaleOverflowError(ValueError):
    """Weights are too large for the type in which a format stores its scales."""


@dataclass(frozen=True)
class BlockQuantizer:
    """Weights in blocks that share a scale, in formats of other libraries.

    With several formats, each layer gets the one of least loss + λ · bits, so that all layers have equal slopes.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit] for the choice of formats; 0 chooses the least loss.
        formats: Names of formats, such as "nf4" or "int4/64", also as text with commas; see
            :mod:`nbquant.quantization.blocks.formats`.
        search: Search the stored scales of least weighted error, or round as the library does.
        weighted: Weight the search by sensitivity.
        coding: Name of the code of the indices: "fixed" as the library stores them.

    Raises:
        ValueError: An unknown format, none, a negative λ.
    """

    method: ClassVar[str] = "blocks"
    parameter: ClassVar[Parameter] = LMBDA
    per_layer: ClassVar[bool] = True

    lmbda: float = 0.0
    formats: tuple[str, ...] = USUAL
    search: bool = True
    weighted: bool = True
    coding: str = "fixed"

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit", allow_zero=True)
        names = tuple(self.formats.split(",")) if isinstance(self.formats, str) else tuple(self.formats)
        object.__setattr__(self, "formats", names)
        if not names:
            raise ValueError("at least one block format is required, but formats is empty.")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"formats must be names of block formats, but got {name!r}"[:300])
            formats.named(name)
        check_options(self.weighted, self.coding, self.per_layer)
        if not isinstance(self.search, bool):
            raise TypeError(f"search must be True or False, but got {self.search!r}")

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """Quantize a selection, or a plain tensor with its sensitivity; see :func:`quantize`."""
        return quantize_blocks(self, as_selection(weight, sensitivity), progress)


@dataclass(frozen=True)
class Choice:
    """What a layer takes and loses in a format.

    Attributes:
        bits: Stored bits.
        loss: ½ Σ h (w − ŵ)² [loss].
    """

    bits: float
    loss: float


Choices = Mapping[str, Mapping[str, Choice]]
"""Group → format → what it takes and loses there."""

_choices: "WeakKeyDictionary[Selection, dict[BlockQuantizer, Choices]]" = WeakKeyDictionary()


def choices_of(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> Choices:
    """Encode each layer in each format; kept for the selection, whatever λ.

    Raises:
        nbquant.progress.Cancelled: By ``progress``.
    """
    known = _choices.setdefault(selection, {})
    key = replace(quantizer, lmbda=0.0)
    if key not in known:
        groups = groups_of(selection, quantizer.per_layer)
        found: dict[str, dict[str, Choice]] = {group: {} for group in groups}
        jobs = [(group, name) for group in groups for name in quantizer.formats]
        for group, name in track(jobs, "block formats", progress):
            bits = loss = 0.0
            form = formats.named(name)
            counts = np.zeros(len(form.levels), np.int64)
            for t in groups[group]:
                encoded = _encoded(quantizer, form, t)
                counts += symbol_counts(encoded.codes.reshape(-1), len(counts))
                bits += sum(part.values.size * part.bits for part in encoded.parts)
                loss += _loss(_restored(form, encoded, t), t)
            used = counts[counts > 0]
            bits += math.ceil(used @ codes.named(quantizer.coding).lengths(used)) + len(form.levels)
            found[group][name] = Choice(bits, loss)
        known[key] = found
    return known[key]


def corners(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> list[float]:
    """List values of λ, one for each choice of formats on the convex hull, from coarse to fine."""
    slopes = set()
    for choices in choices_of(quantizer, selection, progress).values():
        hull = _hull(list(choices.values()))
        slopes |= {(a.loss - b.loss) / (b.bits - a.bits) for a, b in pairwise(hull)}
    ends = sorted(slopes, reverse=True)
    if not ends:
        return [1.0]
    between = [math.sqrt(a * b) for a, b in pairwise(ends)]
    return [2 * ends[0], *between, ends[-1] / 2]


def _hull(points: Sequence[Choice]) -> list[Choice]:
    """Lower convex hull of loss over bits, from few bits to many."""
    hull: list[Choice] = []
    for p in sorted(points, key=lambda p: (p.bits, p.loss)):
        if hull and p.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and (hull[-2].loss - hull[-1].loss) * (p.bits - hull[-1].bits) <= (
            hull[-1].loss - p.loss
        ) * (hull[-1].bits - hull[-2].bits):
            hull.pop()
        hull.append(p)
    return hull


def quantize_blocks(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> Quantized:
    """Quantize a selection in its formats. Zeros of a pruned selection are weights like any other, as they are there.

    Raises:
        ValueError: Weights or sensitivities that are not finite; ranks that hold shards.
        ScaleOverflowError: Weights that are not restored as finite numbers.
        nbquant.progress.Cancelled: By ``progress``.

    Warns:
        UserWarning: Zeros of a pruned selection that are not zero any more.
    """
    require_valid(selection)
    groups, pruned = groups_of(selection, quantizer.per_layer), is_pruned(selection)
    chosen = _chosen(quantizer, selection, progress)
    tensors: dict[str, QuantizedTensor] = {}
    codebooks: dict[str, Codebook] = {}
    loss, lost = 0.0, dict[str, int]()
    for group, members in track(list(groups.items()), "quantize", progress):
        form = formats.named(chosen[group])
        encoded = {t.name: _encoded(quantizer, form, t) for t in members}
        counts = sum(
            (symbol_counts(e.codes.reshape(-1), len(form.levels)) for e in encoded.values()),
            np.zeros(len(form.levels), np.int64),
        )
        order = ordered_codes(form, np.flatnonzero(counts).astype(np.uint8))
        place = np.zeros(len(form.levels), np.int64)
        place[order] = np.arange(len(order))
        value = torch.from_numpy(form.levels[order])
        length = codes.named(quantizer.coding).lengths(counts[order])
        codebooks[group] = Codebook(
            value, torch.from_numpy(counts[order]), torch.from_numpy(length), levels=BlockLevels(form.name, order)
        )
        kind = index_dtype(len(order))
        for t in members:
            index = torch.from_numpy(place[encoded[t.name].codes.reshape(-1)]).to(kind)
            scaling = Scaling(form.name, order, encoded[t.name].parts, t.weight.dtype)
            tensors[t.name] = QuantizedTensor(value, index, t.weight.shape, scaling=scaling)
            restored = _restored(form, encoded[t.name], t)
            loss += _loss(restored, t)
            if pruned:
                gone = (t.weight.cpu().reshape(-1) == 0) & (restored != 0)
                lost[form.name] = lost.get(form.name, 0) + int(gone.sum())
    if any(lost.values()):
        told = ", ".join(f"{count:,} in {name}" for name, count in lost.items() if count)
        warnings.warn(
            f"pruned weights should stay zero, but some do not ({told}): choose formats with an exact zero, or another "
            "method",
            stacklevel=2,
        )
    if not math.isfinite(loss):
        names = ", ".join(dict.fromkeys(chosen.values()))
        largest = max(float(t.weight.abs().max()) for t in selection)
        raise ScaleOverflowError(
            f"weights must be small enough for the scales of {names}, but those up to {largest:.3g} are not restored "
            "as finite numbers: choose another format, or search=True"
        )
    tensors, ledger = coded(tensors, codebooks, quantizer.coding, None, progress)
    in_order = {t.name: tensors[t.name] for t in selection}
    return Quantized.of(quantizer, selection, in_order, codebooks, ledger, loss)


def _chosen(quantizer: BlockQuantizer, selection: Selection, progress: Progress) -> dict[str, str]:
    """The format of each group: of equal costs the earlier one."""
    if len(quantizer.formats) == 1:
        return dict.fromkeys(groups_of(selection, quantizer.per_layer), quantizer.formats[0])
    found = {}
    for group, choices in choices_of(quantizer, selection, progress).items():
        found[group] = min(choices, key=lambda name: choices[name].loss + quantizer.lmbda * choices[name].bits)
    return found


def _encoded(quantizer: BlockQuantizer, form: BlockFormat, tensor: SelectedTensor) -> BlockCodes:
    shape = block_matrix(tensor.weight.shape)
    weight = tensor.weight.detach().float().cpu().numpy().reshape(shape)
    h = tensor.sensitivity
    weighs = quantizer.search and quantizer.weighted and h is not None
    return form.encode(
        weight, h.float().cpu().numpy().reshape(shape) if weighs and h is not None else None, quantizer.search
    )


def _restored(form: BlockFormat, encoded: BlockCodes, tensor: SelectedTensor) -> Float[Tensor, " n"]:
    """Restored weights in the tensor's own type."""
    return torch.from_numpy(form.decode(encoded)).to(tensor.weight.dtype).reshape(-1)


def _loss(restored: Float[Tensor, " n"], tensor: SelectedTensor) -> float:
    """½ Σ h (w − ŵ)²."""
    error = (tensor.weight.detach().cpu().reshape(-1).double() - restored.double()).square()
    if tensor.sensitivity is not None:
        error *= tensor.sensitivity.cpu().reshape(-1).double()
    return 0.5 * float(error.sum())


BLOCKS_METHOD = Method(
    make=BlockQuantizer,
    labels=("block formats", "Hessian-weighted block formats"),
    quantize=quantize_blocks,
    corners=corners,
)
