"""Live picture: a Hadamard rotation spreads outliers over all columns."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from nbquant.course.channel_scaling import rounded
from nbquant.course.live import Live, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, VERMILION

FACTORS = (1, 2, 4, 6, 8, 12, 16, 24)
COLUMNS = (3, 37, 70, 101)  # that are made louder
BITS, GROUP = 4, 64


def hadamard(n: int) -> Float[Tensor, "n n"]:
    """Build the Hadamard matrix of Sylvester, divided by √n: orthogonal and symmetric.

    Args:
        n: Size, a power of two.

    Raises:
        ValueError: Another size.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"the size must be a power of two, but is {n}.")
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix / math.sqrt(n)


def kurtosis(weight: Float[Tensor, "..."]) -> float:
    """Compute E(w − w̄)⁴ / (E(w − w̄)²)²; 3 for normal weights, more with outliers."""
    off = (weight - weight.mean()).double()
    return float(off.pow(4).mean() / off.square().mean() ** 2)


@dataclass(frozen=True)
class RotationData:
    """A layer before and after its rotation.

    Attributes:
        factor: How many times louder four columns are.
        weights: Weights, over their standard deviation: before and after.
        kurtoses: Their kurtosis, before and after.
        largest: Their largest magnitude, over the standard deviation, before and after.
        errors: Relative squared error in int4 with groups of 64, before and after.
    """

    factor: int
    weights: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]
    kurtoses: tuple[float, float]
    largest: tuple[float, float]
    errors: tuple[float, float]

    @property
    def summary(self) -> str:
        """Kurtosis, largest weight and error, in a sentence."""
        return (
            f"Four columns × {self.factor}: the rotation changes the kurtosis from {self.kurtoses[0]:.1f} to "
            f"{self.kurtoses[1]:.1f}, the largest weight from {self.largest[0]:.1f} to {self.largest[1]:.1f} standard "
            f"deviations, and the error in int4 from {100 * self.errors[0]:.2f} % to {100 * self.errors[1]:.2f} %."
        )


def rotation_data(weight: Float[Tensor, "rows columns"], factor: int) -> RotationData:
    """Measure a layer with a few loud columns before and after the rotation W H.

    The error after it is that of the weights rotated back; as H is orthogonal, it is the same in both places.

    Args:
        weight: Weights, with 128 columns or a larger power of two.
        factor: How many times louder four columns are made.
    """
    before = weight.double().clone()
    before[:, list(COLUMNS)] *= factor
    after = before @ hadamard(before.shape[1])

    def error(w: Float[Tensor, "rows columns"]) -> float:
        return float((rounded(w, BITS, GROUP) - w).square().sum() / w.square().sum())

    return RotationData(
        factor,
        (_in_deviations(before), _in_deviations(after)),
        (kurtosis(before), kurtosis(after)),
        (float(before.abs().max() / before.std()), float(after.abs().max() / after.std())),
        (error(before), error(after)),
    )


def _in_deviations(weight: Float[Tensor, "rows columns"]) -> Float[np.ndarray, " n"]:
    return (weight / weight.std()).reshape(-1).numpy()


def draw_rotation(data: RotationData) -> Figure:
    """Draw both histograms, and the error."""
    figure = NotebookFigure(figsize=(9.2, 3.5), layout="constrained", facecolor="white")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 2, 1))
    reach = max(6.0, 1.05 * max(data.largest))
    edges = np.linspace(-reach, reach, 90)
    normal = np.exp(-(((edges[:-1] + edges[1:]) / 2) ** 2) / 2) / math.sqrt(2 * math.pi) * (edges[1] - edges[0])
    most = max(np.histogram(values, edges)[0].max() for values in data.weights)
    for axes, values, title, colour, kurt in zip(
        (left, middle), data.weights, ("before", "after the rotation"), (VERMILION, BLUE), data.kurtoses, strict=True
    ):
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.8)
        axes.plot((edges[:-1] + edges[1:]) / 2, len(values) * normal, "k--", lw=1, label="normal")
        axes.set(yscale="log", ylim=(0.6, 3 * most), xlabel="weight [σ]")
        axes.set_title(f"{title}: kurtosis {kurt:.1f}", loc="left", fontsize=10, weight="bold")
    left.set_ylabel("number of weights")
    left.legend(fontsize=8, loc="upper right")
    right.bar(["before", "after"], [100 * each for each in data.errors], color=[VERMILION, BLUE], alpha=0.85)
    for place, each in enumerate(data.errors):
        right.text(place, 100 * each, f"{100 * each:.2f}", ha="center", va="bottom", fontsize=9)
    right.set(ylim=(0, 1.18 * 100 * max(data.errors)))
    right.set_title("int4 error [%]", loc="left", fontsize=10, weight="bold")
    return figure


def show(weight: Float[Tensor, "rows columns"], factor: int = 8) -> Live:
    """Show a layer before and after the rotation, with a slider for how loud four columns are.

    Args:
        weight: Weights, with 128 columns or a larger power of two.
        factor: First factor, one of :data:`FACTORS`.
    """
    return Live(
        lambda factor: rotation_data(weight, factor),
        draw_rotation,
        {"factor": slider("four columns", FACTORS, factor, lambda value: f"× {value}")},
    )
