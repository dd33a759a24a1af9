"""Error feedback: trellis-coded quantization in which later weights compensate the errors of earlier ones."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress, track
from nbquant.quantization.integers import is_pruned
from nbquant.quantization.layerwise import (
    EXCHANGE,
    Settings,
    matrices_without_feedback,
    quantize_layer,
    shared_step,
    ticks_of,
)
from nbquant.quantization.method import Method
from nbquant.quantization.moments import Calibration, LayerMoments, Shift
from nbquant.quantization.parameter import LMBDA, Parameter
from nbquant.quantization.paths import MOST_TURNS, Matrix, Paths
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Weights, check_options, check_positive
from nbquant.quantization.rate_estimate import RateEstimate
from nbquant.quantization.selection import Selection, as_selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import Trellis, quantize_by_paths, require_valid


@dataclass(frozen=True)
class Feedback:
    """Trellis-coded quantization column by column; later columns compensate the errors of earlier ones.

    Minimises J = ½ Σ_r s_r E(w_r x − ŵ_r x̂)² + λ · bits layer by layer, where x is the layer's input and
    x̂ its input once the layers before it are quantized. :class:`Trellis` uses the cost of each weight's error
    alone; this uses the joint cost of a row's errors. Every layer has its own step and codebook, shared with its
    bias. Tensors without moments are quantized first, as by Trellis; so is a whole selection without a
    calibration, and a layer on which feedback does worse than Trellis on held-back calibration samples.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit] within a column; a larger λ gives fewer bits. As later
            columns compensate errors, a layer's loss falls about ten times as fast with its rate: tensors without
            moments use ten times this λ.
        damping: ε of G + ε·mean(diag G), on the second moments of the inputs.
        sequential: Whether a layer also compensates the errors of the layers before it. It takes one more run of the
            network, on some of the samples.
        weighted: Whether a layer's outputs, and other weights, are weighted by the loss's sensitivity, or all equally.
        coding: "context" for adaptive coding, the fewest bits, for which the levels are chosen; "arithmetic", "huffman"
            or "fixed" codes cost far more bits.
        output_damping: ε of s + ε·mean(s), on the sensitivities of a layer's outputs. Without it, outputs that hardly
            matter on the calibration samples, such as rare classes, would be sacrificed.

    Raises:
        ValueError: ``lmbda`` or ``damping`` not above 0; a negative ``output_damping``.

    Source: Frantar et al. 2023 (GPTQ, arXiv:2210.17323); the rate in the choice as in CERWU (arXiv:2505.18758).
    """

    method: ClassVar[str] = "feedback"
    parameter: ClassVar[Parameter] = LMBDA
    per_layer: ClassVar[bool] = True

    lmbda: float
    damping: float = 0.01
    sequential: bool = True
    weighted: bool = True
    coding: str = "context"
    output_damping: float = 0.1

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit")
        check_positive("damping", self.damping, "of the mean")
        check_positive("output_damping", self.output_damping, "of the mean", allow_zero=True)
        check_options(self.weighted, self.coding, self.per_layer)
        if not isinstance(self.sequential, bool):
            raise TypeError(f"sequential must be True or False, but got {self.sequential!r}")

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """Quantize a selection, or a plain tensor with its sensitivity; see :func:`quantize`."""
        return quantize_by_paths(self, as_selection(weight, sensitivity), progress)

    def paths(self, selection: Selection, progress: Progress = False) -> Paths:
        """Find the integers, and the bits of an ideal code for their levels.

        The loss is the predicted loss of the layers with moments plus ½ Σ h (w − mΔ)² of the other tensors.

        Args:
            selection: As for :meth:`Trellis.paths`.
            progress: See :data:`nbquant.progress.Progress`; counts panels of columns, over all turns.

        Raises:
            ValueError: Moments that do not fit a layer.
            nbquant.progress.Cancelled: By ``progress``.
        """
        pruned, calibration = is_pruned(selection), selection.calibration
        parts = parts_of(selection)
        layers = {members[0].layer for members in parts.values()}
        others = tensors_without_moments(selection, parts)
        apart = tuple(t for t in others if t.layer not in layers)
        ticks = track(
            range(sum(ticks_of(m[0]) for m in parts.values()) + len(apart) * MOST_TURNS), "feedback", progress
        )
        found: dict[str, Matrix] = {}
        loss = bits = 0.0
        if apart:
            price = EXCHANGE * self.lmbda if parts else self.lmbda
            alone = Trellis(price, weighted=self.weighted, coding=self.coding, per_layer=True, steps="equal slope")
            paths = alone.search(Selection(apart), pruned, ticks)
            found |= {t.name: m for t, m in zip(apart, paths.matrices, strict=True)}
            loss, bits = paths.loss, paths.bits
        even = None if self.weighted or not calibration else _mean_output(parts, calibration)
        settings = Settings(self.lmbda, self.damping, self.output_damping, pruned)
        left = {layer: [key for key, m in parts.items() if m[0].layer == layer] for layer in layers}
        steps: dict[str, float] = {}

        def moments_of(key: str) -> LayerMoments:
            assert calibration
            moments = calibration.moments(key, {})
            return moments if even is None else replace(moments, outputs=torch.full_like(moments.outputs, even))

        def choose(key: str, shift: Shift | None) -> Mapping[str, Tensor]:
            nonlocal loss, bits
            assert calibration
            if key not in parts:
                return {}
            layer = parts[key][0].layer
            if len(left[layer]) > 1 and layer not in steps:  # they share a step
                known = [(parts[k], calibration.parts[k], moments_of(k)) for k in left[layer]]
                steps[layer] = shared_step(known, settings)
            rest = [t for t in others if t.layer == layer and t.name not in found]
            done = quantize_layer(
                parts[key], rest, calibration.parts[key], moments_of(key), shift, settings, steps.get(layer), ticks
            )
            steps[layer] = next(iter(done.matrices)).step
            names = [t.name for t in (*parts[key], *rest)]
            found.update(zip(names, done.matrices, strict=True))
            loss, bits = loss + done.loss, bits + done.bits
            return {t.name: _value(t, found[t.name]) for t in (*parts[key], *rest)}

        if calibration and parts:
            changed = {t.name: _value(t, found[t.name]) for t in apart}
            if self.sequential:
                calibration.in_turn(choose, changed)
            else:
                for key in parts:
                    choose(key, None)
        for _ in ticks:  # count the turns that were not needed
            pass
        return Paths(tuple(found[t.name] for t in selection), loss, bits)


def _value(tensor: SelectedTensor, matrix: Matrix) -> Tensor:
    assert matrix.integers is not None
    value = (matrix.integers.double() * matrix.step).to(tensor.weight.dtype)
    return value.reshape(tensor.weight.shape).to(tensor.weight.device)


def parts_of(selection: Selection) -> dict[str, list[SelectedTensor]]:
    """List weight and, if it is selected, bias of the parts with moments, in the order of execution."""
    calibration = selection.calibration
    if calibration is None:
        return {}
    tensors = {t.name: t for t in selection}
    found = {}
    for key, outputs in calibration.outputs.items():
        part = calibration.parts[key]
        if part.weight in tensors and outputs.any():
            bias = tensors.get(part.bias or "")
            # A bias with another codebook has its own step.
            shared = bias is not None and bias.layer == tensors[part.weight].layer and not part.along
            found[key] = [tensors[part.weight], *([bias] if bias is not None and shared else [])]
    return found


def tensors_without_moments(
    selection: Selection, parts: Mapping[str, list[SelectedTensor]]
) -> tuple[SelectedTensor, ...]:
    """List the tensors without moments. If their sensitivity is unknown, the mean of the others stands in.

    Args:
        selection: The selection.
        parts: From :func:`parts_of`.
    """
    taken = {t.name for members in parts.values() for t in members}
    others = tuple(t for t in selection if t.name not in taken)
    calibration = selection.calibration
    if calibration is None or not parts or any(t.sensitivity is not None for t in others):
        return others
    mean = _mean_curvature(parts, calibration)

    def curvature(tensor: SelectedTensor) -> Tensor:
        if tensor.name in calibration.diagonals:
            rows, columns = calibration.diagonals[tensor.name]
            found = torch.outer(rows + 0.1 * rows.mean(), columns + 0.1 * columns.mean()).float()
            if found.shape == tensor.weight.shape and found.any():
                return found.to(tensor.weight.device)
        return torch.full_like(tensor.weight, mean, dtype=torch.float32)

    return tuple(replace(t, sensitivity=curvature(t)) for t in others)


def mean_curvature(selection: Selection) -> float | None:
    """Mean of s_r G_jj over the weights with moments [loss/weight²]; None if there are none."""
    parts = parts_of(selection)
    return _mean_curvature(parts, selection.calibration) if parts and selection.calibration else None


def _mean_curvature(parts: Mapping[str, list[SelectedTensor]], calibration: Calibration) -> float:
    """Mean of s_r G_jj over the weights of the parts with moments."""
    total, count = 0.0, 0
    for key, members in parts.items():
        moments = calibration.moments(key, {})
        energy = moments.energy.double()
        total += float((moments.outputs.reshape(len(energy), -1).sum(1) * energy.sum(1)).sum())
        count += members[0].weight.numel()
    return total / count


def _mean_output(parts: Mapping[str, list[SelectedTensor]], calibration: Calibration) -> float:
    """Mean of s over the weights of the parts."""
    sums = [(float(calibration.outputs[key].mean()), m[0].weight.numel()) for key, m in parts.items()]
    return math.fsum(mean * n for mean, n in sums) / sum(n for _, n in sums)


def estimate_rate(quantizer: Feedback, selection: Selection) -> Callable[[float], float]:
    """Estimate the rate at any λ from a sample of columns, without feedback, which hardly changes it.

    Args:
        quantizer: At some λ, where the estimates start.
        selection: As for :meth:`Feedback.paths`.
    """
    require_valid(selection)
    parts, pruned = parts_of(selection), is_pruned(selection)
    exchange = EXCHANGE if parts else 1.0
    settings = Settings(exchange * quantizer.lmbda, quantizer.damping, quantizer.output_damping, pruned)
    matrices: list[Matrix] = []
    for key, members in parts.items():
        assert selection.calibration
        matrices += matrices_without_feedback(members, selection.calibration.moments(key, {}), settings)
    others = tensors_without_moments(selection, parts)
    if others:
        alone = Trellis(settings.lmbda, weighted=quantizer.weighted, coding=quantizer.coding)
        matrices += alone.matrices(Selection(others), pruned)
    estimate = RateEstimate(matrices, settings.lmbda, False)
    return lambda lmbda: estimate(exchange * lmbda)


FEEDBACK_METHOD = Method(
    make=Feedback,
    labels=("error feedback, outputs alike", "error feedback"),
    quantize=quantize_by_paths,
    estimate_rate=estimate_rate,
    needs_calibration=True,
)
