"""Entropy-coded trellis-coded quantization with a sensitivity for every weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from nbquant.coding.ledger import Ledger
from nbquant.kernels import dispatch
from nbquant.progress import Progress, track
from nbquant.quantization.fitting import _plain, groups_of
from nbquant.quantization.members import index_dtype
from nbquant.quantization.paths import FIXED, MOST_TURNS, Matrix, Paths, find_paths, matrix_shape
from nbquant.quantization.quantized import PRUNED, Codebook, Quantized, QuantizedTensor
from nbquant.quantization.quantizer import Coding, Quantizer, Weights, check_options, check_positive
from nbquant.quantization.rate import code_ledger, is_mostly_zero, lengths_for, position_ledger, tensor_gaps
from nbquant.quantization.selection import SelectedTensor, Selection
from nbquant.quantization.steps import Steps, check_steps, mean_sensitivity, step_of_layers
from nbquant.quantization.validate import (
    require_finite_weight,
    require_positive_somewhere,
    require_valid_sensitivity,
)

SLOPE = 0.2  # λ over h̄Δ², about what is best from 0.5 to 4 bits a weight


@dataclass(frozen=True)
class Trellis:
    """Two grids in turn, by a trellis of 8 states, with the rate in the choice: 1 of the 1.53 dB between ECSQ and R(D).

    Minimises J = ½ Σ h (w − mΔ)² + λ · bits over the integers m of a path down each column, what levels cost, and Δ, in
    turn. Bits are those of levels given the quantizer in force and the levels above and to the left. Each level of one
    grid has one on every second integer; see :mod:`nbquant.coding.trellis`.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit]; larger gives fewer bits.
        step: Δ [weight], kept as it is (for a layer with the selection's mean h, if slopes are equal); None finds it.
        weighted: Weigh by sensitivity, or by its mean (λ keeps its unit).
        coding: How levels are coded.
        per_layer: A codebook for each layer, or one for the whole selection.
        steps: "joint" is one step for all layers; "equal slope" one for each, all with the same dD/dR = −λ.

    Raises:
        ValueError: ``lmbda`` or ``step`` not above 0; steps a layer without codebooks a layer.

    Source: Fischer and Wang 1992; Joshi, Crump and Fischer 1995 (entropy-coded trellis-coded quantization).
    """

    method: ClassVar[str] = "trellis"
    parameter: ClassVar[str] = "lmbda"
    needs_rows: ClassVar[bool] = True

    lmbda: float
    step: float | None = None
    weighted: bool = True
    coding: Coding = "huffman"
    per_layer: bool = True
    steps: Steps = "equal slope"

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit")
        if self.step is not None:
            check_positive("step", self.step, "weight")
        check_options(self.weighted, self.coding, self.per_layer)
        check_steps(self.steps, self.per_layer)

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`; weights that were pruned stay exactly zero."""
        selection = _checked(weight, sensitivity)
        return _quantized(self, selection, self.paths(selection, progress))

    def paths(self, selection: Selection, progress: Progress = False) -> Paths:
        """The integers themselves, with the bits that an ideal code of their levels takes.

        Args:
            selection: Weights that are finite, with sensitivities that are so too, non-negative and positive somewhere.
            progress: See :data:`nbquant.progress.Progress`; counts tensors of the most turns that there may be.

        Raises:
            ValueError: A step too small for the weights.
            Cancelled: By ``progress``.
        """
        h = mean_sensitivity(selection)
        step = self.step or math.sqrt(self.lmbda / (SLOPE * h))
        step_of = step_of_layers(selection, step, self.steps)
        groups = groups_of(selection, self.per_layer)
        code = {t.name: group for group, members in groups.items() for t in members}
        fixed = FIXED * self.lmbda if _is_pruned(selection) else 0.0
        matrices = [
            Matrix(
                target=t.weight.reshape(matrix_shape(t.weight.shape)),
                weight=_squared_error(t, None if self.weighted else h, fixed, step_of),
                group=t.layer if self.steps == "equal slope" else "",
                code=code[t.name],
                step=step_of[t.layer],
            )
            for t in selection
        ]
        ticks = track(range(len(matrices) * MOST_TURNS), "trellis", progress)
        paths = find_paths(matrices, self.lmbda, self.step is not None, ticks)
        for _ in ticks:  # turns that were not needed
            pass
        return paths


def _checked(weight: Weights, sensitivity: Float[Tensor, "..."] | None) -> Selection:
    """The selection, or that of a plain tensor; its entries looked at."""
    if not isinstance(weight, Selection):
        return _plain(weight, sensitivity)
    if sensitivity is not None:
        raise TypeError("sensitivity comes with the selection: pass it to select(), not to fit()")
    for t in weight:
        require_finite_weight(t.weight, t.name)
        if t.sensitivity is not None:
            require_valid_sensitivity(t.sensitivity, t.name)
    if all(t.sensitivity is not None for t in weight):
        require_positive_somewhere([t.sensitivity for t in weight if t.sensitivity is not None])
    return weight


def _squared_error(
    tensor: SelectedTensor, constant: float | None, fixed: float, step_of: Mapping[str, float]
) -> Float[Tensor, "rows cols"]:
    """½h of each weight; of pruned ones so much that they stay where they are."""
    h = tensor.sensitivity
    if constant is not None:
        half = torch.full_like(tensor.weight, 0.5 * constant, dtype=torch.float32)
    else:
        half = torch.full_like(tensor.weight, 0.5, dtype=torch.float32) if h is None else 0.5 * h
    if fixed:
        half = torch.where(tensor.weight == 0, fixed / step_of[tensor.layer] ** 2, half.float())
    return half.reshape(matrix_shape(tensor.weight.shape))


def _is_pruned(selection: Selection) -> bool:
    return is_mostly_zero(sum(t.weight.numel() - int(t.weight.count_nonzero()) for t in selection), len(selection))


def _quantized(quantizer: Trellis, selection: Selection, paths: Paths) -> Quantized:
    """Codebooks of the values in use, and every bit they cost."""
    pruned = _is_pruned(selection)
    groups = groups_of(selection, quantizer.per_layer)
    found = {t.name: m for t, m in zip(selection, paths.matrices, strict=True)}
    tensors: dict[str, QuantizedTensor] = {}
    codebooks: dict[str, Codebook] = {}
    loss, ledger = 0.0, Ledger()
    for group, members in groups.items():
        dtype = reduce(torch.promote_types, (t.weight.dtype for t in members))
        step = found[members.tensors[0].name].step
        flat = {t.name: _integers(found[t.name]) for t in members}
        if pruned:
            left_out = {t.name: t.weight.reshape(-1) == 0 for t in members}
            used = torch.cat([flat[t.name][~left_out[t.name]] for t in members])
        else:
            left_out, used = {}, torch.cat(list(flat.values()))
        integer = torch.unique(used)
        value, index = torch.unique((integer.double() * step).to(dtype), return_inverse=True)
        counts = torch.zeros(len(value), dtype=torch.int64, device=used.device)
        counts.index_add_(0, index[torch.searchsorted(integer, used)], torch.ones_like(used, dtype=torch.int64))
        n = counts.cpu().numpy()
        length = lengths_for(n, quantizer.coding) if len(n) else n
        codebooks[group] = Codebook(value, counts, torch.from_numpy(length).to(counts.device))
        ledger += code_ledger(n, length, quantizer.coding, torch.finfo(dtype).bits)
        for t in members:
            # A pruned weight need not be on a value of this codebook.
            at = torch.searchsorted(integer, flat[t.name]).clamp(max=max(len(integer) - 1, 0))
            assignment = index[at] if len(integer) else torch.full_like(at, PRUNED)
            if pruned:
                assignment = torch.where(left_out[t.name], PRUNED, assignment)
            assignment = assignment.to(index_dtype(len(value)))
            own = value.to(t.weight.dtype)
            tensors[t.name] = QuantizedTensor(own, assignment, t.weight.shape)
            h = None if t.sensitivity is None else t.sensitivity.reshape(-1)
            loss += float(dispatch.cluster_losses(t.weight.reshape(-1), h, own, assignment)[:, 2].sum())
    if pruned:
        ledger += position_ledger([tensor_gaps(t.weight) for t in selection])
    return Quantized(
        quantizer=cast(Quantizer, quantizer),  # it has no clusters
        tensors={t.name: tensors[t.name] for t in selection},
        codebooks=codebooks,
        ledger=ledger,
        distortion=loss / len(selection),
        source_bits=selection.source_bits,
        unselected_bits=selection.unselected_bits,
        record=selection.record,
    )


def _integers(matrix: Matrix) -> Int32[Tensor, " n"]:
    assert matrix.integers is not None
    return matrix.integers.reshape(-1)
