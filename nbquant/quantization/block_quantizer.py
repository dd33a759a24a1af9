"""Block formats of other libraries as a quantization method: one format, or the best of several for each layer."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from nbquant.progress import Cancelled, Progress, track
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
from nbquant.registry import nearest

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
        layer_formats: Formats of single layers by name, as a mapping, pairs, or text such as "fc1=q8_0,fc2=q4_k": they
            are not chosen.
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
    layer_formats: tuple[tuple[str, str], ...] = ()
    search: bool = True
    weighted: bool = True
    coding: str = "fixed"

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit", allow_zero=True)
        if not isinstance(self.formats, str | Iterable):
            raise TypeError(f"formats must be names of block formats, such as ['q4_k'], but got {self.formats!r}"[:300])
        names = tuple(_parts(self.formats) if isinstance(self.formats, str) else self.formats)
        object.__setattr__(self, "formats", names)
        if not names:
            raise ValueError("at least one block format is required, but formats is empty.")
        pairs = _pairs(self.layer_formats)
        object.__setattr__(self, "layer_formats", pairs)
        for name in (*names, *dict(pairs).values()):
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


def _parts(text: str) -> list[str]:
    """Parts of text between commas; spaces around them and empty parts do not count."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(given: object) -> tuple[tuple[str, str], ...]:
    """Formats of single layers in the order of the layers' names, so that equal ones are equal."""
    found = given
    if isinstance(given, str):
        found = [tuple(part.strip() for part in pair.rsplit("=", 1)) for pair in _parts(given)]
    elif isinstance(given, Mapping):
        found = list(given.items())
    if not isinstance(found, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str) for pair in found
    ):
        raise TypeError(f"layer_formats must map layers to block formats, but got {given!r}"[:300])
    layers = [pair[0] for pair in found]
    if len(set(layers)) < len(layers):
        raise ValueError(f"layer_formats must name a layer once, but got {given!r}"[:300])
    return tuple(sorted((layer, form) for layer, form in found))


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

_choices: "WeakKeyDictionary[Selection, dict[tuple[str, BlockQuantizer], Choice]]" = WeakKeyDictionary()


def choices_of(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> Choices:
    """Encode each layer in each of its formats; kept for the selection, whatever λ.

    Raises:
        ValueError: Formats of a layer that is not selected.
        nbquant.progress.Cancelled: By ``progress``.
    """
    return _choices_among(quantizer, selection, _options(quantizer, selection), progress)


def all_choices(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> Choices:
    """Encode each layer in all formats and its own, as if none had one of its own; see :func:`choices_of`."""
    own = _options(quantizer, selection)
    wanted = {group: tuple(dict.fromkeys([*quantizer.formats, *names])) for group, names in own.items()}
    return _choices_among(quantizer, selection, wanted, progress)


def known_choices(quantizer: BlockQuantizer, selection: Selection) -> Choices | None:
    """Look up what :func:`all_choices` found; None if it has not been called for these formats."""

    def stop(done: int, total: int | None) -> None:
        raise Cancelled

    try:
        return all_choices(quantizer, selection, stop)
    except Cancelled:
        return None


def _options(quantizer: BlockQuantizer, selection: Selection) -> dict[str, tuple[str, ...]]:
    """Formats that each group may have."""
    groups, own = groups_of(selection, quantizer.per_layer), dict(quantizer.layer_formats)
    for layer in own:
        if layer not in groups:
            known = ", ".join(map(repr, groups))
            near = nearest(layer, list(groups))
            raise ValueError(f"layer_formats must name selected layers ({known[:300]}), but got {layer!r:.100}{near}")
    return {group: (own[group],) if group in own else quantizer.formats for group in groups}


def _choices_among(
    quantizer: BlockQuantizer, selection: Selection, wanted: Mapping[str, Sequence[str]], progress: Progress
) -> Choices:
    known = _choices.setdefault(selection, {})
    groups = groups_of(selection, quantizer.per_layer)
    alone = {
        name: replace(quantizer, lmbda=0.0, formats=(name,), layer_formats=())
        for names in wanted.values()
        for name in names
    }
    jobs = [(group, name) for group, names in wanted.items() for name in names if (group, alone[name]) not in known]
    for group, name in track(jobs, "block formats", progress) if jobs else ():
        known[group, alone[name]] = _choice(quantizer, formats.named(name), groups[group])
    return {group: {name: known[group, alone[name]] for name in names} for group, names in wanted.items()}


def _choice(quantizer: BlockQuantizer, form: BlockFormat, members: Iterable[SelectedTensor]) -> Choice:
    bits = loss = 0.0
    counts = np.zeros(len(form.levels), np.int64)
    for t in members:
        encoded = _encoded(quantizer, form, t)
        counts += symbol_counts(encoded.codes.reshape(-1), len(counts))
        bits += sum(part.values.size * part.bits for part in encoded.parts)
        loss += _loss(_restored(form, encoded, t), t)
    used = counts[counts > 0]
    bits += math.ceil(used @ codes.named(quantizer.coding).lengths(used)) + len(form.levels)
    return Choice(bits, loss)


def corners(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> list[float]:
    """List values of λ, one for each choice of formats on the convex hull, from coarse to fine."""
    slopes = set()
    all_choices(quantizer, selection, progress)  # so that another format of a layer is known when it is asked for
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
    chosen = chosen_formats(quantizer, selection, progress)
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


def chosen_formats(quantizer: BlockQuantizer, selection: Selection, progress: Progress = False) -> dict[str, str]:
    """Choose the format of each group: its own, or that of least loss + λ · bits; of equal costs the earlier one."""
    options = _options(quantizer, selection)
    if all(len(names) == 1 for names in options.values()):
        return {group: names[0] for group, names in options.items()}
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
