"""Live picture: an outlier takes the resolution of its block away."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nbquant.course.live import Live, choice, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, VERMILION

PLACE = 100  # of the outlier
SIZES = (0, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40)  # in standard deviations
LENGTHS = (16, 32, 64, 128, 256)
_SEEN = 5.0  # half the height of the upper part, in standard deviations


@dataclass(frozen=True)
class OutlierData:
    """Weights in blocks, one of them with an outlier.

    Attributes:
        weight: Weights, the outlier among them.
        restored: Weights after quantization.
        length: Weights of a block.
        before: Mean squared error of each block without the outlier, over the variance of the weights.
        after: The same with it, of the other weights alone.
        size: The outlier, in standard deviations; 0 for none.
        deviation: Standard deviation of the weights.
        bits: Bits of a code.
    """

    weight: Float[np.ndarray, " n"]
    restored: Float[np.ndarray, " n"]
    length: int
    before: Float[np.ndarray, " blocks"]
    after: Float[np.ndarray, " blocks"]
    size: float
    deviation: float
    bits: int

    @property
    def block(self) -> int:
        """The block with the outlier."""
        return PLACE // self.length

    @property
    def summary(self) -> str:
        """What the outlier does, in a sentence."""
        bits = f"{self.bits + 16 / self.length:g} stored bits per weight"
        start = f"int{self.bits} with a scale for {self.length} weights ({bits})"
        if not self.size:
            return f"{start}: mean squared error {100 * self.after.mean():.2g} % of the variance, no outlier."
        return (
            f"{start}: an outlier of {self.size:g} standard deviations raises the error of the other weights of "
            f"its block from {100 * self.before[self.block]:.2g} % to {100 * self.after[self.block]:.2g} % of the "
            f"variance; over all blocks it is {100 * self.after.mean():.2g} %."
        )


def rounded(weight: Float[np.ndarray, " n"], length: int, bits: int) -> Float[np.ndarray, " n"]:
    """Round weights to symmetric integers, with one scale for each block: its largest magnitude over 2^(bits−1) − 1."""
    most = (1 << (bits - 1)) - 1
    blocks = weight.reshape(-1, length)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / most
    return (np.rint(blocks / np.where(scale == 0, 1, scale)) * scale).reshape(-1)


def outlier_data(weight: Float[np.ndarray, " n"], size: float, length: int, bits: int = 4) -> OutlierData:
    """Quantize weights in blocks without and with an outlier.

    Args:
        weight: Weights, 256 of them.
        size: The outlier, in standard deviations of the weights; 0 for none.
        length: Weights of a block; divides 256.
        bits: Bits of a code.

    Raises:
        ValueError: Another number of weights, or a length that does not divide it.
    """
    if weight.shape != (256,) or 256 % length:
        raise ValueError(f"256 weights and a length that divides them are required, but got {weight.shape}, {length}.")
    deviation = float(weight.std())
    changed = weight.astype(np.float64)
    if size:
        changed[PLACE] = size * deviation
    restored = rounded(changed, length, bits)
    others = np.ones(len(weight), bool)
    others[PLACE] = not size

    def errors(found: np.ndarray, of: np.ndarray) -> Float[np.ndarray, " blocks"]:
        square = np.where(others, (found - of) ** 2, 0).reshape(-1, length).sum(axis=1)
        return square / others.reshape(-1, length).sum(axis=1) / deviation**2

    before = errors(rounded(weight.astype(np.float64), length, bits), weight)
    return OutlierData(changed, restored, length, before, errors(restored, changed), size, deviation, bits)


def draw_outlier(data: OutlierData) -> Figure:
    """Draw weights before and after rounding, and the error of each block."""
    figure = NotebookFigure(figsize=(9.2, 4.6), layout="constrained", facecolor="white")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    place = np.arange(len(data.weight)) + 0.5
    inside = slice(data.block * data.length, (data.block + 1) * data.length)
    colours = np.full(len(place), BLUE, dtype=object)
    if data.size:
        colours[inside] = VERMILION
    top.vlines(place, 0, data.weight / data.deviation, color="#c8c8c8", lw=1.2)
    top.scatter(place, data.restored / data.deviation, c=list(colours), s=9, zorder=3)
    for edge in range(0, 257, data.length):
        top.axvline(edge, color="#dddddd", lw=0.7, zorder=0)
        bottom.axvline(edge, color="#dddddd", lw=0.7, zorder=0)
    if data.size > _SEEN:
        text = f"outlier: {data.size:g} σ"
        top.annotate(text, (PLACE + 3, 0.93 * _SEEN), color=VERMILION, fontsize=9, va="top")
    top.set(ylabel="weight [σ]", ylim=(-_SEEN, _SEEN), xlim=(0, 256))
    title = f"int{data.bits}, one scale for {data.length} weights: grey is the weight, a dot the rounded one"
    top.set_title(title, loc="left", fontsize=11, weight="bold")
    edges = np.arange(0, 256, data.length)
    bars = [VERMILION if data.size and block == data.block else BLUE for block in range(len(edges))]
    bottom.bar(edges, 100 * data.after, data.length, align="edge", color=bars, edgecolor="white", alpha=0.85)
    bottom.hlines(100 * data.before, edges, edges + data.length, color="k", lw=1.3, label="without the outlier")
    bottom.set(yscale="log", ylim=(0.05, 2000), xlabel="weight", ylabel="squared error\n[% of variance]")
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.legend(loc="upper right", fontsize=8, frameon=False)
    return figure


def show(weight: Float[np.ndarray, " n"], size: float = 20, length: int = 32) -> Live:
    """Show blocks with an outlier, with a slider for its size and a menu for the length of blocks.

    Args:
        weight: Weights, 256 of them.
        size: First size, one of :data:`SIZES`.
        length: First length, one of :data:`LENGTHS`.
    """
    return Live(
        lambda size, length: outlier_data(weight, size, length),
        draw_outlier,
        {
            "size": slider("outlier", SIZES, size, lambda value: f"{value} σ" if value else "none"),
            "length": choice("weights per scale", LENGTHS, length),
        },
    )
