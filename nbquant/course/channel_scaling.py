"""Live picture: scaling salient channels before rounding, as in AWQ."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from nbquant.course.live import Live, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, ORANGE, VERMILION

EXPONENTS = tuple(round(0.05 * i, 2) for i in range(21))
LOUDER = (1, 2, 4, 8, 16)
SALIENT = 8  # channels that the second slider makes louder
BITS, GROUP = 3, 64


def rounded(
    weight: Float[Tensor, "rows columns"], bits: int = BITS, group: int = GROUP
) -> Float[Tensor, "rows columns"]:
    """Round to symmetric integers, with one scale for each group: its largest magnitude over 2^(bits−1) − 1."""
    blocks = weight.reshape(-1, group)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) / ((1 << (bits - 1)) - 1)
    return (torch.round(blocks / scale) * scale).reshape(weight.shape)


@dataclass(frozen=True)
class ChannelScalingData:
    """Output error over the exponent of the scaling.

    Attributes:
        exponent: The exponent α that is looked at.
        louder: Factor of the loudest channels.
        at: Its index in :data:`EXPONENTS`.
        magnitude: Mean magnitude of each channel, ascending.
        before: Output error that each channel causes without scaling, over the energy of the outputs, in that order.
        after: The same with scaling.
        errors: Whole output error for each exponent, over the energy of the outputs.
    """

    exponent: float
    louder: int
    at: int
    magnitude: Float[np.ndarray, " columns"]
    before: Float[np.ndarray, " columns"]
    after: Float[np.ndarray, " columns"]
    errors: Float[np.ndarray, " m"]

    @property
    def best(self) -> int:
        """Index of the exponent of least error."""
        return int(self.errors.argmin())

    @property
    def summary(self) -> str:
        """Errors, in a sentence."""
        return (
            f"Scaling by the mean magnitude to the power of {self.exponent:g}: output error "
            f"{100 * self.errors[self.at]:.2f} %, without scaling {100 * self.errors[0]:.2f} %; the least, "
            f"{100 * self.errors[self.best]:.2f} %, is at {EXPONENTS[self.best]:g}."
        )


@lru_cache(maxsize=8)
def _all(weight: Tensor, inputs: Tensor, louder: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Magnitudes, energies of the outputs, errors of all exponents, errors by channel."""
    magnitude = inputs.abs().mean(0)
    loudest = magnitude.topk(SALIENT).indices
    x = inputs.clone()
    x[:, loudest] *= louder
    magnitude = x.abs().mean(0)
    moments = x.T @ x / len(x)
    energy = ((weight @ moments) * weight).sum()
    errors, channels = [], []
    for exponent in EXPONENTS:
        scale = magnitude**exponent
        scale = scale / (scale.max() * scale.min()).sqrt()
        off = rounded(weight * scale) / scale - weight
        errors.append(((off @ moments) * off).sum() / energy)
        channels.append(off.square().sum(0) * moments.diagonal() / energy)
    return magnitude, energy, torch.stack(errors), torch.stack(channels)


def channel_scaling_data(
    weight: Float[Tensor, "rows columns"], inputs: Float[Tensor, "places columns"], exponent: float, louder: int = 1
) -> ChannelScalingData:
    """Compute the output error of int3 in groups of 64, for all exponents.

    The scale of channel j is its mean magnitude E|x_j| to the power of the exponent, the weights are multiplied by it
    before rounding, and divided by it afterwards.

    Args:
        weight: Weights of a layer, with a multiple of 64 columns.
        inputs: Inputs of the layer.
        exponent: The exponent that is looked at, one of :data:`EXPONENTS`.
        louder: Factor by which the eight loudest channels are made louder.

    Source: Lin et al. 2024 (AWQ, arXiv:2306.00978).
    """
    magnitude, _, errors, channels = _all(weight, inputs, louder)
    order, at = magnitude.argsort(), EXPONENTS.index(exponent)
    return ChannelScalingData(
        exponent, louder, at, magnitude[order].numpy(), channels[0, order].numpy(), channels[at, order].numpy(),
        errors.numpy(),
    )  # fmt: skip


def draw_channel_scaling(data: ChannelScalingData) -> Figure:
    """Draw the error that channels cause over their magnitude, and the whole error over the exponent."""
    figure = NotebookFigure(figsize=(9.2, 3.9), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    left.plot(data.magnitude, 100 * data.before, ".", color=VERMILION, ms=4, alpha=0.6, label="without scaling")
    left.plot(data.magnitude, 100 * data.after, ".", color=BLUE, ms=4, alpha=0.8, label=f"α = {data.exponent:g}")
    left.set(xscale="log", yscale="log", xlabel="mean magnitude of the input channel",
             ylabel="output error of the channel [%]")  # fmt: skip
    left.set_title("One point per channel", loc="left", fontsize=10, weight="bold")
    left.legend(fontsize=8.5, loc="lower right", markerscale=2.5)
    right.plot(EXPONENTS, 100 * data.errors, color=BLUE, lw=2)
    right.plot(
        EXPONENTS[data.best], 100 * data.errors[data.best], "*", color=ORANGE, ms=14, mec="k", label="least error"
    )
    right.plot(
        data.exponent,
        100 * data.errors[data.at],
        "o",
        color="k",
        mfc="none",
        mew=1.5,
        ms=15,
        label=f"α = {data.exponent:g}",
    )
    right.set(xlabel="exponent α of the scaling", ylabel="output error [% of the outputs' energy]")
    right.set_ylim(0, 1.15 * 100 * float(data.errors.max()))
    right.set_title("All channels together", loc="left", fontsize=10, weight="bold")
    right.legend(fontsize=8.5, loc="lower right", labelspacing=1.1, borderpad=0.9)
    right.grid(alpha=0.3)
    return figure


def show(
    weight: Float[Tensor, "rows columns"],
    inputs: Float[Tensor, "places columns"],
    exponent: float = 0.4,
    louder: int = 1,
) -> Live:
    """Show the error over the exponent, with sliders for it and for how loud the loudest channels are.

    Args:
        weight: Weights of a layer.
        inputs: Inputs of the layer.
        exponent: First exponent, one of :data:`EXPONENTS`.
        louder: First factor of the loudest channels, one of :data:`LOUDER`.
    """
    return Live(
        lambda exponent, louder: channel_scaling_data(weight, inputs, exponent, louder),
        draw_channel_scaling,
        {
            "exponent": slider("exponent α", EXPONENTS, exponent, lambda value: f"{value:.2f}"),
            "louder": slider("loudest channels", LOUDER, louder, lambda value: f"× {value}"),
        },
    )
