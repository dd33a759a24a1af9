"""Entropy-coded trellis-coded quantization with error feedback: weights make up for each other's errors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nbquant.coding.levels import matrix_shape, rows_of_block
from nbquant.progress import Progress, track
from nbquant.quantization.compensation import BLOCK, problem_of
from nbquant.quantization.integers import is_pruned, quantized_paths
from nbquant.quantization.moments import Calibration, LayerMoments
from nbquant.quantization.paths import CLASSES, FIXED, MOST_TURNS, Matrix, Paths, best_paths, costs_of
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Coding, Weights, check_options, check_positive
from nbquant.quantization.selection import SelectedTensor, Selection
from nbquant.quantization.trellis import Trellis, checked_selection

SLOPE = 0.02  # λ over the mean of s/U² · Δ²; λ is that of high rate at ln 2 / 6, and these are low ones
PASSES = 2  # with error feedback, before columns are chosen one by one
SWEEPS = 2  # of those
TURNS = 1 + PASSES + SWEEPS  # the first without a price on bits, to see what levels there are


@dataclass(frozen=True)
class Feedback:
    """Integers on paths of the trellis, column by column, the errors of each made up for by those still to come.

    Minimises J = ½ Σ_r s_r E(w_r x − ŵ_r x̂)² + λ · bits of one layer after another, x what the layer sees and x̂ what
    it sees once the layers before it are quantized. Where :class:`Trellis` knows what an error of each weight alone
    costs, this knows what errors of a row's weights do together. Every layer has its own step and codebook, which
    its bias shares. Tensors of other kinds of layers, which have no moments, are quantized as by Trellis, before all
    others; so is everything in a selection without a calibration.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit]; larger gives fewer bits.
        damping: What is added to the diagonal of the inputs' second moments, over its mean.
        sequential: Whether a layer makes up for the errors of the layers before it too, which takes two runs of the
            network a layer.
        weighted: Whether outputs of a layer, and other weights, count by what the loss minds them, or all the same.
        coding: "context" for adaptive coding, which takes least; "huffman" or "fixed" codeword lengths.

    Raises:
        ValueError: ``lmbda`` or ``damping`` not above 0.

    Source: Frantar et al. 2023 (GPTQ, arXiv:2210.17323); the rate in the choice as in CERWU (arXiv:2505.18758).
    """

    method: ClassVar[str] = "feedback"
    parameter: ClassVar[str] = "lmbda"
    needs_rows: ClassVar[bool] = True
    per_layer: ClassVar[bool] = True

    lmbda: float
    damping: float = 0.01
    sequential: bool = True
    weighted: bool = True
    coding: Coding = "context"

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit")
        check_positive("damping", self.damping, "of the mean")
        check_options(self.weighted, self.coding, self.per_layer)
        if not isinstance(self.sequential, bool):
            raise TypeError(f"sequential must be True or False, but got {self.sequential!r}")

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`; weights that were pruned stay exactly zero."""
        selection = checked_selection(weight, sensitivity)
        return quantized_paths(self, selection, self.paths(selection, progress))

    def paths(self, selection: Selection, progress: Progress = False) -> Paths:
        """The integers themselves, with the bits that an ideal code of their levels takes.

        Its loss is Σ of what layers with moments predict, and ½ Σ h (w − mΔ)² of the other tensors.

        Args:
            selection: As for :meth:`Trellis.paths`.
            progress: See :data:`nbquant.progress.Progress`; counts blocks of columns, of all passes.

        Raises:
            ValueError: Moments that do not fit a layer.
            nbquant.progress.Cancelled: By ``progress``.
        """
        pruned = is_pruned(selection)
        layers = _layers(selection)
        others = _others(selection, layers, selection.calibration)
        blocks = {layer: -(-_columns(members) // BLOCK) * TURNS for layer, members in layers.items()}
        ticks = track(range(sum(blocks.values()) + len(others) * MOST_TURNS), "feedback", progress)
        found: dict[str, Matrix] = {}
        loss = bits = 0.0
        if others:
            trellis = Trellis(
                self.lmbda, weighted=self.weighted, coding=self.coding, per_layer=True, steps="equal slope"
            )
            paths = trellis.search(Selection(others), pruned, ticks)
            found |= {t.name: m for t, m in zip(others, paths.matrices, strict=True)}
            loss, bits = paths.loss, paths.bits
        calibration = selection.calibration
        even = _mean_output(layers, calibration) if calibration and not self.weighted else None
        for layer, members in layers.items():
            assert calibration
            changed = {t.name: _value(t, found[t.name]) for t in selection if t.name in found}
            moments = calibration.moments(layer, changed if self.sequential else {})
            if even is not None:
                moments = replace(moments, outputs=torch.full_like(moments.outputs, even))
            made = _Layer(self, members, moments, pruned)
            made.quantize(ticks)
            found |= {t.name: m for t, m in zip(members, made.matrices(), strict=True)}
            loss, bits = loss + made.loss(), bits + made.bits
        for _ in ticks:  # turns that were not needed
            pass
        return Paths(tuple(found[t.name] for t in selection), loss, bits)


class _Layer:
    """A layer's integers on their way."""

    def __init__(self, quantizer: Feedback, members: list[SelectedTensor], moments: LayerMoments, pruned: bool) -> None:
        weight, *bias = (t.weight.reshape(matrix_shape(t.weight.shape)) for t in members)
        columns = torch.cat([weight, *bias], 1)
        _check_fit(members[0], columns, moments, bool(bias))
        self.members, self.lmbda = members, quantizer.lmbda
        self.problem = problem_of(columns, moments, quantizer.damping, bool(bias))
        self.zero = columns == 0 if pruned else None
        self.weights = weight.shape[1]
        mean = float(self.problem.weight.mean())
        self.step = float(np.float32(math.sqrt(quantizer.lmbda / (2 * SLOPE * mean))))
        self.integers = torch.zeros(columns.shape, dtype=torch.int32, device=columns.device)
        self.costs = torch.zeros(2, 1, 1, 1)
        self.bits = 0.0

    def quantize(self, ticks: Iterator[object]) -> None:
        lmbda, self.lmbda = self.lmbda, 0.0
        for turn in range(TURNS):
            if turn <= PASSES:
                self.problem.in_turn(self.choose, ticks)
            else:
                self.problem.one_by_one(self.integers.double() * self.step, self.choose, ticks)
            tables, self.bits = costs_of(self.matrices())
            self.costs, self.lmbda = torch.from_numpy(tables[self.members[0].layer]), lmbda

    def choose(self, j: int, target: Tensor, weight: Tensor) -> Tensor:
        """The best path down a column, at what levels cost."""
        if self.zero is not None:
            target = torch.where(self.zero[:, j], 0.0, target)
            weight = torch.where(self.zero[:, j], FIXED * self.lmbda / self.step**2 + weight, weight)
        rows = rows_of_block(self.weights if j < self.weights else 1)
        column, cost = target[:, None].float(), weight[:, None].float()
        found = best_paths(column, cost, self.step, self.costs, self._left(j), self.lmbda, rows)
        self.integers[:, j] = found[:, 0]
        return found[:, 0].double() * self.step

    def _left(self, j: int) -> UInt8[Tensor, "rows 1"] | None:
        """Class of the level to the left; a bias has none."""
        if j in (0, self.weights) or self.costs.shape[1] == 1:
            return None
        return ((self.integers[:, j - 1 : j].abs() + 1) // 2).clamp(max=CLASSES - 1).to(torch.uint8)

    def matrices(self) -> list[Matrix]:
        parts = [slice(0, self.weights), slice(self.weights, None)][: len(self.members)]
        target, weight = self.problem.target, self.problem.weight
        layer = self.members[0].layer
        return [Matrix(target[:, p], weight[:, p], layer, layer, self.step, self.integers[:, p]) for p in parts]

    def loss(self) -> float:
        return self.problem.loss(self.integers.double() * self.step)


def _value(tensor: SelectedTensor, matrix: Matrix) -> Tensor:
    assert matrix.integers is not None
    return (matrix.integers.double() * matrix.step).to(tensor.weight.dtype).reshape(tensor.weight.shape)


def _layers(selection: Selection) -> dict[str, list[SelectedTensor]]:
    """Weight and, where it is selected, bias of the layers with moments, in the order of execution."""
    if selection.calibration is None:
        return {}
    tensors = {t.name: t for t in selection}
    found = {}
    for layer, outputs in selection.calibration.outputs.items():
        prefix = f"{layer}." if layer else ""
        if f"{prefix}weight" in tensors and outputs.any():
            found[layer] = [tensors[name] for name in (f"{prefix}weight", f"{prefix}bias") if name in tensors]
    return found


def _others(
    selection: Selection, layers: Mapping[str, list[SelectedTensor]], calibration: Calibration | None
) -> tuple[SelectedTensor, ...]:
    """Tensors without moments. If nothing says what the loss minds of them either, it is what the others cost."""
    taken = {t.name for members in layers.values() for t in members}
    others = tuple(t for t in selection if t.name not in taken)
    if calibration is None or not layers or any(t.sensitivity is not None for t in others):
        return others
    curvature = _mean_curvature(layers, calibration)
    return tuple(replace(t, sensitivity=torch.full_like(t.weight, curvature, dtype=torch.float32)) for t in others)


def _mean_curvature(layers: Mapping[str, list[SelectedTensor]], calibration: Calibration) -> float:
    """Mean of s_r G_jj over the weights of the layers with moments."""
    total, count = 0.0, 0
    for layer, members in layers.items():
        moments = calibration.moments(layer, {})
        energy = moments.inputs.diagonal(dim1=1, dim2=2)[:, : _columns(members[:1])]
        grouped = moments.outputs.unflatten(0, (len(energy), -1))
        total += float((grouped.sum(1) * energy.sum(1)).sum())
        count += members[0].weight.numel()
    return total / count


def _mean_output(layers: Mapping[str, list[SelectedTensor]], calibration: Calibration) -> float:
    """Mean of s over the weights of the layers."""
    sums = [(float(calibration.outputs[layer].mean()), m[0].weight.numel()) for layer, m in layers.items()]
    return sum(mean * n for mean, n in sums) / sum(n for _, n in sums)


def _columns(members: Sequence[SelectedTensor]) -> int:
    return sum(matrix_shape(t.weight.shape)[1] for t in members)


def _check_fit(tensor: SelectedTensor, columns: Tensor, moments: LayerMoments, bias: bool) -> None:
    groups, d, _ = moments.inputs.shape
    seen = d - moments.bias + bias
    if len(moments.outputs) != len(columns) or len(columns) % groups or seen != columns.shape[1]:
        raise ValueError(
            f"moments of {len(columns)} outputs and {columns.shape[1] - bias} inputs are required for {tensor.name!r}, "
            f"but are of {len(moments.outputs)} and {d - moments.bias}: calibrate the model that was selected from"
        )
