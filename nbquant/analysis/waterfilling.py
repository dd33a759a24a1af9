"""Estimate the least rate at a joint loss: reverse water-filling in the eigenbasis of each layer's inputs.

The rate-distortion bound knows only the diagonal of the Hessian. Error feedback exploits off-diagonal curvature, so it
can lie below that bound. The estimate here knows the layer's quadratic loss ½ Σ_r s_r δ_r G δ_rᵀ, to which errors
contribute independently in the eigenbasis of G.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.analysis.log_curve import LogCurve
from nbquant.coding.levels import matrix_shape
from nbquant.progress import Progress, track
from nbquant.quantization.along import AlongProblem, along_problem
from nbquant.quantization.compensation import Problem
from nbquant.quantization.feedback import Feedback, parts_of, tensors_without_moments
from nbquant.quantization.layerwise import Settings, layer_problem
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.required import SELECTION, require

Spectrum = Literal["weights", "even"]

PER_OCTAVE = 8  # bins of the components' powers
OCTAVES = 2200  # twice the range of float64
FINER = 40  # octaves of the water level below the least component


@dataclass(frozen=True, eq=False)
class Waterfilling:
    """An estimate of the least rate at each joint loss, from high loss to low.

    It is the rate-distortion function of Gaussian weights with the same spectrum, which the decoder knows. It is no
    bound: weights that are not Gaussian take fewer bits.

    Attributes:
        rate: Rate [bit/weight].
        predicted_loss: Joint loss of all weights [loss].
        lmbda: λ, minus the slope of the curve [loss/bit].
        weights: Number of weights.
    """

    rate: Float[np.ndarray, " p"]
    predicted_loss: Float[np.ndarray, " p"]
    lmbda: Float[np.ndarray, " p"]
    weights: int

    def rate_at(self, predicted_loss: float) -> float:
        """Estimate the rate at a joint loss [bit/weight].

        Raises:
            ValueError: A loss that is not above 0.
        """
        if not predicted_loss > 0:
            raise ValueError(f"predicted_loss must be above 0, but got {predicted_loss!r}: no rate suffices for none")
        if predicted_loss >= self.predicted_loss[0]:
            return 0.0
        return max(self._curve.rate(predicted_loss), 0.0)

    def loss_at(self, rate: float) -> float:
        """Estimate the joint loss at a rate."""
        return self._curve.distortion(rate)

    @property
    def _curve(self) -> LogCurve:
        return LogCurve.of(self.rate, self.predicted_loss, float(self.predicted_loss[0]))


def waterfilling(
    selection: Selection,
    *,
    spectrum: Spectrum = "weights",
    damping: float = Feedback.damping,
    output_damping: float = Feedback.output_damping,
    progress: Progress = True,
) -> Waterfilling:
    """Estimate the least rate at each joint loss of the layers, by reverse water-filling.

    A layer's component for output r and eigenvector u_j of G has the power c = ½ s_r λ_j v_j. At the water level θ it
    takes ½ log₂(c/θ) bits and loses θ; where c is below θ it takes none and loses c. Tensors without moments have a
    component ½ h σ² for each weight.

    Args:
        selection: With a calibration; without one all tensors count as without moments.
        spectrum: Variances v_j: "weights" takes the mean square of the layer's weights along u_j, "even" the same for
            all directions, as for independent weights.
        damping: As of :class:`~nbquant.Feedback`.
        output_damping: Likewise.
        progress: See :data:`nbquant.progress.Progress`; counts tensors.

    Raises:
        ValueError: Another spectrum; moments that do not fit a layer.
        nbquant.progress.Cancelled: By ``progress``.

    Source: Cover and Thomas, Elements of Information Theory, section 10.3.3; for layers WaterSIC (arXiv:2603.04956).
    """
    require("selection", selection, Selection, SELECTION)
    if spectrum not in ("weights", "even"):
        raise ValueError(f"spectrum must be 'weights' or 'even', but got {spectrum!r}")
    bins = _Bins()
    settings = Settings(1.0, damping, output_damping, False)
    parts = parts_of(selection)
    rest = tensors_without_moments(selection, parts)
    ticks = track(range(len(parts) + len(rest)), "water-filling", progress)
    for key, members in parts.items():
        next(ticks, None)
        problem = _problem(selection, key, members, settings)
        for power in _components(problem, spectrum):
            bins.add(power)
        if isinstance(problem, Problem) and problem.bias is not None:
            bins.add(0.5 * problem.outputs.double() * problem.bias.square().mean())
    for tensor in rest:
        next(ticks, None)
        w = tensor.weight.detach().double().reshape(-1)
        h = torch.ones_like(w) if tensor.sensitivity is None else tensor.sensitivity.double().reshape(-1)
        bins.add(0.5 * h * w.square().mean())
    for _ in ticks:
        pass
    return bins.filled(len(selection))


def joint_loss(
    quantized: Quantized,
    selection: Selection,
    *,
    damping: float = Feedback.damping,
    output_damping: float = Feedback.output_damping,
) -> float:
    """Compute the joint loss that :func:`waterfilling` estimates the rate of, for any quantized selection.

    Args:
        quantized: The result.
        selection: What was quantized.
        damping: As of :func:`waterfilling`.
        output_damping: Likewise.
    """
    values, settings = quantized.dequantize(), Settings(1.0, damping, output_damping, False)
    parts = parts_of(selection)
    total = 0.0
    for key, members in parts.items():
        now = [replace(t, weight=values[t.name].to(t.weight.device)) for t in members]
        problem, other = (_problem(selection, key, each, settings) for each in (members, now))
        total += problem.loss(other.target)
        if isinstance(problem, Problem) and problem.bias is not None:
            off = problem.bias_target(other.target) - now[1].weight.detach().cpu().reshape(-1).float()
            total += 0.5 * float((problem.outputs.reshape(-1) * off.square()).double().sum())
    for t in tensors_without_moments(selection, parts):
        error = (t.weight.detach() - values[t.name]).double().square()
        total += 0.5 * float((error if t.sensitivity is None else error * t.sensitivity.double()).sum())
    return total


def _problem(
    selection: Selection, key: str, members: Sequence[SelectedTensor], settings: Settings
) -> Problem | AlongProblem:
    """The quadratic loss of a layer with moments."""
    assert selection.calibration is not None
    part, moments = selection.calibration.parts[key], selection.calibration.moments(key, {})
    weight, *bias = members
    if part.along and not part.stacked:
        matrix = weight.weight.reshape(matrix_shape(weight.weight.shape))
        return along_problem(matrix, moments, settings.damping, settings.output_damping, False)
    free = bias[0].weight.reshape(-1) if bias else None
    return layer_problem(weight, free, part, moments, None, settings)


def _components(problem: Problem | AlongProblem, spectrum: Spectrum) -> Iterator[Float[Tensor, "..."]]:
    """Powers ½ s_r λ_j v_j of a layer's components."""
    for matrix, target, s in problem.matrices():
        value, vector = torch.linalg.eigh(matrix.double())
        if spectrum == "even":
            variance = target.double().square().mean().expand_as(value)
        else:
            variance = (vector.mT @ target.double()).square().mean(-1)
        yield 0.5 * (value.clamp(min=0) * variance)[..., None] * s.double()[..., None, :]


class _Bins:
    """Sums of the components' powers by narrow ranges of power, so that memory does not grow with their number."""

    def __init__(self) -> None:
        size = PER_OCTAVE * OCTAVES
        self._count, self._power, self._log = (np.zeros(size) for _ in range(3))

    def add(self, power: Float[Tensor, "..."]) -> None:
        """Add components; those of no power take no bits and lose nothing."""
        c = power.reshape(-1)
        positive: Float[np.ndarray, " n"] = c[c > 0].cpu().numpy()
        log = np.log2(positive)
        at = np.floor(log * PER_OCTAVE).astype(np.int64) + PER_OCTAVE * OCTAVES // 2
        for sums, values in ((self._count, np.ones_like(log)), (self._power, positive), (self._log, log)):
            sums += np.bincount(at, values, minlength=len(sums))

    def filled(self, weights: int) -> Waterfilling:
        """Compute the curve, exact where the water level is at the edge of a bin."""
        used = np.flatnonzero(self._count)
        if not len(used):
            zero = np.zeros(1)
            return Waterfilling(zero, zero, zero, weights)
        edges: Int64[np.ndarray, " p"] = np.arange(used[-1] + 1, used[0] - FINER * PER_OCTAVE, -1)
        level = 2.0 ** ((edges - PER_OCTAVE * OCTAVES / 2) / PER_OCTAVE)
        above = np.maximum(edges, 0)

        def over(sums: np.ndarray) -> np.ndarray:
            return np.append(np.cumsum(sums[::-1])[::-1], 0.0)[above]

        count, log = over(self._count), over(self._log)
        loss = self._power.sum() - over(self._power) + level * count
        rate = 0.5 * (log - count * np.log2(level)) / weights
        return Waterfilling(np.maximum(rate, 0.0), loss, 2 * math.log(2) * level, weights)
