"""Live picture: rounding column by column, with and without error feedback."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from nbquant.course.live import Live, slider
from nbquant.quantization.compensation import upper_factor
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, VERMILION

DAMPING = 0.01  # of the mean of G's diagonal
_ROWS = 64  # of the picture


@dataclass(frozen=True, eq=False)
class Columns:
    """A layer rounded column by column, in both ways.

    Attributes:
        weight: Weights of the layer.
        moments: G = E[x xᵀ] of its inputs.
        step: Step of the grid.
    """

    weight: Float[Tensor, "rows columns"]
    moments: Float[Tensor, "columns columns"]
    step: float

    @cached_property
    def nearest(self) -> Float[Tensor, "rows columns"]:
        """Weights, each rounded by itself."""
        return torch.round(self.weight / self.step) * self.step

    @cached_property
    def snapshots(self) -> Float[Tensor, "columns+1 rows columns"]:
        """Weights after each column with feedback: rounded ones up to it, compensating ones behind it."""
        n = self.weight.shape[1]
        ridge = DAMPING * self.moments.diagonal().mean() * torch.eye(n, dtype=self.moments.dtype)
        factor = upper_factor((self.moments + ridge)[None])[0]
        inverse = torch.linalg.inv(factor)  # row j says how the columns behind j answer to an error of column j
        now, seen = self.weight.clone(), [self.weight.clone()]
        for j in range(n):
            rounded = torch.round(now[:, j] / self.step) * self.step
            error = (now[:, j] - rounded) / inverse[j, j]
            now[:, j:] -= error[:, None] * inverse[j, j:]
            now[:, j] = rounded
            seen.append(now.clone())
        return torch.stack(seen)

    @cached_property
    def output_errors(self) -> Float[np.ndarray, "2 columns+1"]:
        """Output error after each column, over the energy of the outputs: without and with feedback."""
        n = self.weight.shape[1]
        nearest = [torch.cat([self.nearest[:, :j], self.weight[:, j:]], 1) for j in range(n + 1)]
        return np.array([[self.output_error(w) for w in ways] for ways in (nearest, self.snapshots)])

    def output_error(self, weight: Float[Tensor, "rows columns"]) -> float:
        """Compute the mean squared change of the outputs, over their mean square."""
        off = weight - self.weight
        return float(((off @ self.moments) * off).sum() / ((self.weight @ self.moments) * self.weight).sum())

    def weight_error(self, weight: Float[Tensor, "rows columns"]) -> float:
        """Compute the squared change of the weights, over their energy."""
        return float((weight - self.weight).square().sum() / self.weight.square().sum())


@dataclass(frozen=True)
class FeedbackColumnsData:
    """Errors of the weights after some columns.

    Attributes:
        column: Columns that are rounded.
        step: Step of the grid.
        without: Errors of the weights without feedback.
        with_feedback: Errors of the weights with feedback.
        curves: Output error after each column, without and with feedback.
        weight_errors: Relative squared error of the weights now, without and with feedback.
    """

    column: int
    step: float
    without: Float[np.ndarray, "rows columns"]
    with_feedback: Float[np.ndarray, "rows columns"]
    curves: Float[np.ndarray, "2 columns+1"]
    weight_errors: tuple[float, float]

    @property
    def summary(self) -> str:
        """Both errors, in a sentence."""
        plain, better = 100 * self.curves[:, self.column]
        weights, moved = (100 * each for each in self.weight_errors)
        return (
            f"After {self.column} of {self.without.shape[1]} columns: output error {plain:.2f} % without feedback, "
            f"{better:.2f} % with it; weight error {weights:.2f} % without, {moved:.2f} % with it."
        )


def feedback_columns_data(columns: Columns, column: int) -> FeedbackColumnsData:
    """Look up the errors after some columns.

    Args:
        columns: The layer, rounded in both ways.
        column: How many columns are rounded.
    """
    now = torch.cat([columns.nearest[:, :column], columns.weight[:, column:]], 1)
    other = columns.snapshots[column]
    return FeedbackColumnsData(
        column,
        columns.step,
        (now - columns.weight).numpy(),
        (other - columns.weight).numpy(),
        columns.output_errors,
        (columns.weight_error(now), columns.weight_error(other)),
    )


def draw_feedback_columns(data: FeedbackColumnsData) -> Figure:
    """Draw the error of each weight in both ways, and the output error over the columns."""
    figure = NotebookFigure(figsize=(9.2, 4.7), layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1), squeeze=False)[0]
    maps = left.subplots(2, 1, sharex=True)
    image = None
    for axes, errors, title in zip(
        maps, (data.without, data.with_feedback), ("each weight rounded by itself", "with error feedback"), strict=True
    ):
        image = axes.imshow(
            errors[:_ROWS] / data.step, cmap="RdBu", vmin=-1.5, vmax=1.5, aspect="auto", interpolation="nearest"
        )
        axes.axvline(data.column - 0.5, color="k", lw=1)
        axes.set_title(title, loc="left", fontsize=10, weight="bold")
        axes.set_ylabel("output")
    maps[1].set_xlabel("input (column)")
    left.colorbar(image, ax=maps, label="error of the weight [steps]", shrink=0.8)
    axes = right.subplots()
    place = np.arange(data.curves.shape[1])
    axes.plot(place, 100 * data.curves[0], color=VERMILION, ls="--", label="each by itself")
    axes.plot(place, 100 * data.curves[1], color=BLUE, lw=2, label="with feedback")
    axes.axvline(data.column, color="k", lw=1)
    axes.plot([data.column] * 2, 100 * data.curves[:, data.column], "o", color="k", ms=5)
    axes.set(xlabel="columns rounded so far", ylabel="output error [% of the outputs' energy]")
    axes.set_title("Error of the outputs so far", loc="left", fontsize=10, weight="bold")
    axes.legend(fontsize=9, loc="upper left")
    axes.grid(alpha=0.3)
    return figure


def show(columns: Columns, column: int = 64) -> Live:
    """Show the errors, with a slider over the columns.

    Args:
        columns: The layer.
        column: First number of rounded columns.
    """
    return Live(
        lambda column: feedback_columns_data(columns, column),
        draw_feedback_columns,
        {"column": slider("columns rounded", range(columns.weight.shape[1] + 1), column)},
    )
