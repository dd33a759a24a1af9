"""Live picture: the range of a grid, and its error split into clipping and rounding."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nbquant.course.live import Live, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, ORANGE, VERMILION

SHARES = tuple(range(10, 101, 2))  # range, in percent of the largest weight


@dataclass(frozen=True)
class ClippingData:
    """The error of a symmetric integer grid for each range.

    Attributes:
        weight: Weights.
        bits: Bits of a code.
        limit: The range that is looked at: the largest level.
        step: Distance of levels.
        limits: All ranges.
        clipping: Mean squared error of weights beyond each range, over the variance.
        rounding: That of the weights within it.
        at: Index of the range that is looked at.
    """

    weight: Float[np.ndarray, " n"]
    bits: int
    limit: float
    step: float
    limits: Float[np.ndarray, " m"]
    clipping: Float[np.ndarray, " m"]
    rounding: Float[np.ndarray, " m"]
    at: int

    @property
    def best(self) -> int:
        """Index of the range of least error."""
        return int((self.clipping + self.rounding).argmin())

    @property
    def summary(self) -> str:
        """Both errors, in a sentence."""
        clipped, off = 100 * self.clipping[self.at], 100 * self.rounding[self.at]
        beyond = 100 * float((np.abs(self.weight) > self.limit).mean())
        return (
            f"int{self.bits} with levels up to {self.limit:.3g}: {beyond:.2g} % of the weights are clipped. "
            f"The error is {clipped:.2g} % of the variance by clipping plus {off:.2g} % by rounding, "
            f"{clipped + off:.2g} % together. "
            f"The least, {100 * (self.clipping + self.rounding)[self.best]:.2g} %, is at {self.limits[self.best]:.3g}."
        )


def split_error(weight: Float[np.ndarray, " n"], limit: float, bits: int) -> tuple[float, float]:
    """Split the mean squared error of a symmetric integer grid into clipping and rounding.

    Args:
        weight: Weights.
        limit: Largest level.
        bits: Bits of a code; the levels are −2^(bits−1) + 1 … 2^(bits−1) − 1 steps.

    Returns:
        Error of the weights beyond the largest level, and of the others; their sum is the whole error.
    """
    most = (1 << (bits - 1)) - 1
    step = limit / most
    error = (np.clip(np.rint(weight / step), -most, most) * step - weight) ** 2
    beyond = np.abs(weight) > limit
    return float(error[beyond].sum() / weight.size), float(error[~beyond].sum() / weight.size)


def clipping_data(weight: Float[np.ndarray, " n"], share: float, bits: int) -> ClippingData:
    """Compute both errors for all ranges.

    Args:
        weight: Weights.
        share: Range that is looked at, in percent of the largest weight; one of :data:`SHARES`.
        bits: Bits of a code.
    """
    flat = np.ascontiguousarray(weight, np.float64).reshape(-1)
    limits, clipping, rounding = _curves(flat.tobytes(), bits)
    at = SHARES.index(int(share))
    return ClippingData(
        flat, bits, float(limits[at]), float(limits[at]) / ((1 << (bits - 1)) - 1), limits, clipping, rounding, at
    )


@lru_cache(maxsize=16)
def _curves(weight: bytes, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    flat = np.frombuffer(weight, np.float64)
    limits = np.abs(flat).max() * np.array(SHARES) / 100
    parts = np.array([split_error(flat, limit, bits) for limit in limits]) / flat.var()
    return limits, parts[:, 0], parts[:, 1]


def draw_clipping(data: ClippingData) -> Figure:
    """Draw the weights with the levels, and the errors over the range."""
    figure = NotebookFigure(figsize=(9.2, 3.7), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    most = float(np.abs(data.weight).max())
    edges = np.linspace(-1.03 * most, 1.03 * most, 121)
    counts, _ = np.histogram(data.weight, edges)
    middle = (edges[:-1] + edges[1:]) / 2
    colours = [VERMILION if abs(x) > data.limit else BLUE for x in middle]
    left.bar(middle, counts, edges[1] - edges[0], color=colours, alpha=0.8)
    half = (1 << (data.bits - 1)) - 1
    levels = data.step * np.arange(-half, half + 1)
    left.vlines(levels, 0.6, 0.6 * 2.2, color="k", lw=1.2 if data.bits < 6 else 0.6)
    left.set(yscale="log", ylim=(0.6, counts.max() * 2), xlabel="weight", ylabel="number of weights")
    left.set_title(
        f"int{data.bits}: {2 * half + 1} levels, clipped weights in orange", loc="left", fontsize=10, weight="bold"
    )
    total = data.clipping + data.rounding
    right.plot(data.limits, 100 * total, color="k", lw=2, label="together")
    right.plot(data.limits, 100 * data.clipping, color=VERMILION, label="clipping")
    right.plot(data.limits, 100 * data.rounding, color=BLUE, ls="--", label="rounding")
    right.plot(data.limits[data.best], 100 * total[data.best], "*", color=ORANGE, ms=13, mec="k", label="least error")
    right.axvline(data.limit, color="#888888", lw=1)
    right.plot(data.limit, 100 * total[data.at], "o", color="k", mfc="none", mew=1.5, ms=15)
    least = 100 * total.min()
    right.set(
        yscale="log", ylim=(least / 20, max(200, least)), xlabel="largest level", ylabel="squared error [% of variance]"
    )
    right.set_title("What the range costs", loc="left", fontsize=10, weight="bold")
    right.yaxis.set_major_formatter("{x:g}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4, fontsize=8.5, frameon=False)
    return figure


def show(weight: Float[np.ndarray, "..."], share: int = 60, bits: int = 4) -> Live:
    """Show the error over the range, with sliders for the range and the bits.

    Args:
        weight: Weights of a layer.
        share: First range, in percent of the largest weight; one of :data:`SHARES`.
        bits: First number of bits, 2 to 8.
    """
    return Live(
        lambda share, bits: clipping_data(weight, share, bits),
        draw_clipping,
        {
            "share": slider("range [% of the largest weight]", SHARES, share),
            "bits": slider("bits", range(2, 9), bits),
        },
    )
