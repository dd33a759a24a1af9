"""Live picture: straight-through updates of one weight near a threshold of the rounding."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nbquant.course.live import Live, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, ORANGE, VERMILION

UPDATES = 80
START = 0.2  # of the latent weight [steps]
TARGETS = tuple(i / 20 for i in range(21))  # value of least loss [steps]
SHOWN = (-0.6, 1.6)  # weights in the picture [steps]
RATES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class StraightThroughData:
    """Updates of one weight. Weights are in steps of the grid.

    Attributes:
        target: The value of least loss: the loss is ½(round(w) − target)².
        rate: Learning rate.
        latent: The latent weight w before the first update, and after each.
    """

    target: float
    rate: float
    latent: Float[np.ndarray, " n+1"]

    @property
    def rounded(self) -> Float[np.ndarray, " n+1"]:
        """The weight that the network uses."""
        return np.rint(self.latent)

    @property
    def share(self) -> float:
        """Share of the second half of the updates with the weight rounded up."""
        return float((self.rounded[len(self.rounded) // 2 :] == 1).mean())

    @property
    def summary(self) -> str:
        """What the updates do, in a sentence."""
        crossings = int((np.diff(self.rounded) != 0).sum())
        return (
            f"The best value is {self.target:.2f} steps, learning rate {self.rate:g}: in {UPDATES} updates the rounded "
            f"weight changes {crossings} times. In the second half it is 1 in {self.share:.0%} of the updates. "
            f"The latent weight ends at {self.latent[-1]:.2f} steps; the threshold is at 0.5."
        )


def straight_through_data(target: float, rate: float, start: float = START) -> StraightThroughData:
    """Compute straight-through updates w ← w − rate · (round(w) − target).

    Args:
        target: The value of least loss [steps].
        rate: Learning rate.
        start: The first latent weight [steps].
    """
    latent = [start]
    for _ in range(UPDATES):
        latent.append(latent[-1] - rate * (np.rint(latent[-1]) - target))
    return StraightThroughData(target, rate, np.array(latent))


def draw_straight_through(data: StraightThroughData) -> Figure:
    """Draw the latent weight over the updates, and the loss with both gradients."""
    figure = NotebookFigure(figsize=(9.2, 3.7), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    count = np.arange(len(data.latent))
    left.plot(count, data.latent, color=BLUE, marker="o", ms=3, lw=1, label="latent weight w")
    left.step(count, data.rounded, color=VERMILION, where="mid", lw=1.2, alpha=0.8, label="rounded weight")
    left.axhline(0.5, color="k", lw=1, ls=":", label="threshold")
    left.axhline(data.target, color=ORANGE, lw=1.5, ls="--", label="best value")
    left.set(xlabel="update", ylabel="weight [steps]", ylim=SHOWN)
    left.set_title("One weight in training", loc="left", fontsize=10, weight="bold")
    w = np.linspace(*SHOWN, 881)
    loss = 0.5 * (np.rint(w) - data.target) ** 2
    right.plot(w, loss, color="k", lw=2, label="loss: flat, then a jump")
    w0 = data.latent[-1]
    q = np.rint(w0)
    slope = q - data.target
    reach = np.array([-0.25, 0.25])
    right.plot(w0 + reach, 0.5 * slope**2 + slope * reach, color=BLUE, lw=1.5, label="slope that STE reports")
    right.plot(w0, 0.5 * slope**2, "o", color=BLUE, ms=6)
    right.set(xlabel="latent weight [steps]", ylabel="loss", ylim=(-0.15, 0.65), xlim=SHOWN)
    right.set_title("After the last update", loc="left", fontsize=10, weight="bold")
    right.legend(fontsize=8.5, loc="upper left", frameon=False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=8.5, frameon=False)
    return figure


def show(target: float = 0.3, rate: float = 0.1) -> Live:
    """Show the updates, with sliders for the best value and the learning rate.

    Args:
        target: First value of least loss [steps]; one of :data:`TARGETS`.
        rate: First learning rate; one of :data:`RATES`.
    """
    return Live(
        straight_through_data,
        draw_straight_through,
        {
            "target": slider("best value [steps]", TARGETS, target, "{:.2f}".format),
            "rate": slider("learning rate", RATES, rate),
        },
    )
