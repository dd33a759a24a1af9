"""Entropy-coded trellis-coded quantization, Hessian-weighted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor

from nbquant.coding.levels import matrix_shape
from nbquant.progress import Progress, track
from nbquant.quantization.clustering import groups_of
from nbquant.quantization.integers import is_pruned, quantized_paths
from nbquant.quantization.method import Method
from nbquant.quantization.parameter import LMBDA, Parameter
from nbquant.quantization.paths import MOST_TURNS, Matrix, Paths, alike, find_paths, held
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer, Weights, check_options, check_positive
from nbquant.quantization.rate_estimate import RateEstimate
from nbquant.quantization.selection import Selection, as_selection
from nbquant.quantization.steps import Steps, check_steps, mean_sensitivity, step_of_layers
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.validate import (
    require_finite_weight,
    require_positive_somewhere,
    require_valid_sensitivity,
)

SLOPE = 0.2  # λ over h̄Δ², nearly optimal from 0.5 to 4 bits per weight


@dataclass(frozen=True)
class Trellis:
    """Trellis-coded quantization: two grids, 8 states, entropy-coded; gains 1 of the 1.53 dB between ECSQ and R(D).

    Minimises J = ½ Σ h (w − mΔ)² + λ · bits over the integers m of a path down each column, the code lengths, and Δ,
    alternately. Bits are those of levels given the quantizer in force and the levels above and to the left. The levels
    of either grid lie on about every second integer; see :mod:`nbquant.coding.trellis`. Levels are priced and coded
    as magnitudes, few of them large: values that gather away from 0, such as gains of norms or weights on a few levels,
    take fewer bits by :class:`ECSQ`.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit]; a larger λ gives fewer bits.
        step: Step Δ [weight], fixed (at equal slopes, for a layer with the selection's mean h); None searches it.
        weighted: Weight by sensitivity, or by its mean (λ keeps its unit).
        coding: Name of the code of the levels. Paths are chosen for "context", which predicts levels as their prices
            assume; at the same rate "arithmetic", "huffman" and "fixed" lose more than :class:`ECSQ` with them does.
        per_layer: One codebook per layer, or one for the whole selection.
        steps: "joint" is one step for all layers; "equal slope" one per layer, all with the same dD/dR = −λ.

    Raises:
        ValueError: ``lmbda`` or ``step`` not above 0; steps per layer without codebooks per layer.

    Source: Fischer and Wang 1992; Joshi, Crump and Fischer 1995 (entropy-coded trellis-coded quantization).
    """

    method: ClassVar[str] = "trellis"
    parameter: ClassVar[Parameter] = LMBDA

    lmbda: float
    step: float | None = None
    weighted: bool = True
    coding: str = "context"
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
        """Quantize a selection, or a plain tensor with its sensitivity; see :func:`quantize`."""
        return quantize_by_paths(self, as_selection(weight, sensitivity), progress)

    def paths(self, selection: Selection, progress: Progress = False) -> Paths:
        """Find the integers, and the bits of an ideal code for their levels.

        Args:
            selection: Finite weights, with sensitivities that are finite, non-negative and positive somewhere.
            progress: See :data:`nbquant.progress.Progress`; counts tensors, up to the largest number of turns.

        Raises:
            ValueError: A step too small for the weights.
            Cancelled: By ``progress``.
        """
        ticks = track(range(len(selection.tensors) * MOST_TURNS), "trellis", progress)
        paths = self.search(selection, is_pruned(selection), ticks)
        for _ in ticks:  # count the turns that were not needed
            pass
        return paths

    def search(self, selection: Selection, pruned: bool, ticks: Iterator[object]) -> Paths:
        """Find the paths as part of a larger search.

        Args:
            selection: As for :meth:`paths`.
            pruned: Whether zeros stay zero.
            ticks: Advanced before each tensor of each turn; may raise to cancel.
        """
        return find_paths(self.matrices(selection, pruned), self.lmbda, self.step is not None, ticks)

    def matrices(self, selection: Selection, pruned: bool) -> list[Matrix]:
        """Make the matrices to search paths for, with their initial steps; arguments as of :meth:`search`."""
        h = mean_sensitivity(selection)
        step = self.step or math.sqrt(self.lmbda / (SLOPE * h))
        step_of = step_of_layers(selection, step, self.steps)
        groups = groups_of(selection, self.per_layer)
        code = {t.name: group for group, members in groups.items() for t in members}
        return [
            Matrix(
                target=t.weight.reshape(matrix_shape(t.weight.shape)),
                sensitivity=self._sensitivity(t, h, step_of[t.layer] if pruned else None),
                group=t.layer if self.steps == "equal slope" else "",
                code=code[t.name],
                step=step_of[t.layer],
            )
            for t in selection
        ]

    def _sensitivity(self, tensor: SelectedTensor, mean: float, step: float | None) -> Float[Tensor, "rows cols"]:
        """The sensitivity h of each weight; given a step, large enough for zero weights that they stay zero."""
        h = tensor.sensitivity
        if not self.weighted or h is None:
            h = alike(1.0 if self.weighted else mean, tensor.weight)
        if step is not None:
            h = held(h.float(), tensor.weight == 0, self.lmbda, step)
        return h.reshape(matrix_shape(tensor.weight.shape))


def estimate_rate(quantizer: Trellis, selection: Selection) -> RateEstimate:
    """Estimate the rate at any λ from a sample of columns.

    Args:
        quantizer: At some λ, where the estimates start.
        selection: As for :meth:`Trellis.paths`.
    """
    require_valid(selection)
    matrices = quantizer.matrices(selection, is_pruned(selection))
    return RateEstimate(matrices, quantizer.lmbda, quantizer.step is not None)


class FindsPaths(Quantizer, Protocol):
    """A quantizer that finds paths through the trellis."""

    def paths(self, selection: Selection, progress: Progress = False) -> Paths:
        """Find the integers."""
        ...


def quantize_by_paths(quantizer: FindsPaths, selection: Selection, progress: Progress = False) -> Quantized:
    """Quantize a selection to the integers on its paths; pruned weights stay exactly zero."""
    require_valid(selection)
    return quantized_paths(quantizer, selection, quantizer.paths(selection, progress))


def require_valid(selection: Selection) -> None:
    """Reject weights that are not finite and invalid sensitivities.

    Raises:
        ValueError: Such entries; ranks that hold shards.
    """
    selection.require_whole("a trellis")
    for t in selection:
        require_finite_weight(t.weight, t.name)
        if t.sensitivity is not None:
            require_valid_sensitivity(t.sensitivity, t.name)
    if all(t.sensitivity is not None for t in selection):
        require_positive_somewhere([t.sensitivity for t in selection if t.sensitivity is not None])


TRELLIS_METHOD = Method(
    make=Trellis,
    labels=("trellis", "Hessian-weighted trellis"),
    quantize=quantize_by_paths,
    estimate_rate=estimate_rate,
)
