"""Live picture: a fine grid with one scale and an entropy code against a coarse grid with many scales."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.figure import Figure

from nbquant.coding.entropy import entropy
from nbquant.course.live import Live, slider
from nbquant.quantization.blocks.formats import named
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, GREEN, VERMILION

BITS = (3, 4, 5, 6, 7)
SHARES = (40, 50, 60, 70, 80, 90, 100)  # range, in percent of the largest weight
BLOCKS = "q4_0"  # the format with a scale in float16 for 32 weights


@dataclass(frozen=True)
class FineGridData:
    """Codes of a grid with one scale, and what they cost.

    Attributes:
        bits: Bits of a code of fixed length.
        share: Largest level, in percent of the largest weight.
        level: Integers of the grid.
        probability: Share of the weights at each.
        entropies: Entropy of the codes [bit/weight] for each of :data:`BITS`.
        errors: Relative squared error for each of :data:`BITS`.
        block_rates: Stored bits per weight of the format with blocks, and with codes and scales entropy-coded.
        block_error: Its relative squared error.
    """

    bits: int
    share: int
    level: Int64[np.ndarray, " k"]
    probability: Float[np.ndarray, " k"]
    entropies: Float[np.ndarray, " m"]
    errors: Float[np.ndarray, " m"]
    block_rates: tuple[float, float]
    block_error: float

    @property
    def entropy(self) -> float:
        """Entropy of the codes [bit/weight]."""
        return float(self.entropies[BITS.index(self.bits)])

    @property
    def error(self) -> float:
        """Relative squared error."""
        return float(self.errors[BITS.index(self.bits)])

    @property
    def summary(self) -> str:
        """Both formats, in a sentence."""
        return (
            f"int{self.bits} with one scale: {self.bits} bits as a fixed code, {self.entropy:.2f} bits with an ideal "
            f"entropy code, error {100 * self.error:.2f} %. Q4_0: {self.block_rates[0]:.2f} bits stored, "
            f"{self.block_rates[1]:.2f} with an entropy code, error {100 * self.block_error:.2f} %."
        )


def grid_codes(weight: Float[np.ndarray, "..."], bits: int, share: int = 100) -> tuple[Int64[np.ndarray, "..."], float]:
    """Round weights to a symmetric grid with one scale.

    Args:
        weight: Weights.
        bits: Bits of a code; the levels are −2^(bits−1) + 1 … 2^(bits−1) − 1 steps.
        share: Largest level, in percent of the largest weight.

    Returns:
        Integers, and the step.
    """
    most = (1 << (bits - 1)) - 1
    step = float(np.abs(weight).max()) * share / 100 / most
    return np.clip(np.rint(weight / step), -most, most).astype(np.int64), step


def fine_grid_data(weight: Float[np.ndarray, "rows columns"], bits: int, share: int) -> FineGridData:
    """Measure a grid with one scale against Q4_0.

    Args:
        weight: Weights, in rows of a multiple of 32.
        bits: Bits of a code, one of :data:`BITS`.
        share: Largest level, in percent of the largest weight.
    """
    w = weight.astype(np.float64)
    entropies, errors = [], []
    for each in BITS:
        q, step = grid_codes(w, each, share)
        entropies.append(entropy(np.unique(q, return_counts=True)[1]))
        errors.append(((q * step - w) ** 2).sum() / (w**2).sum())
    q, _ = grid_codes(w, bits, share)
    most = (1 << (bits - 1)) - 1
    counts = np.bincount(q.reshape(-1) + most, minlength=2 * most + 1)
    form = named(BLOCKS)
    codes = form.encode(np.ascontiguousarray(weight, np.float32))
    stored = sum(codes.bits().values()) / w.size
    coded = codes.entropy()["codes"] + codes.entropy()["scale"] * codes.part("scale").size / w.size
    off = ((form.decode(codes) - w) ** 2).sum() / (w**2).sum()
    level = np.arange(-most, most + 1)
    return FineGridData(
        bits, share, level, counts / w.size, np.array(entropies), np.array(errors), (stored, coded), float(off)
    )


def draw_fine_grid(data: FineGridData) -> Figure:
    """Draw how often each code occurs, and both formats on the plane of bits and error."""
    figure = NotebookFigure(figsize=(9.2, 3.9), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    left.bar(data.level, 100 * data.probability, 0.9, color=BLUE, alpha=0.85)
    fixed = 100 / (1 << data.bits)
    left.axhline(fixed, color="k", ls="--", lw=1, label="if all codes were\nequally likely")
    left.legend(fontsize=8, loc="upper right")
    left.set(xlabel=f"code of int{data.bits}", ylabel="share of the weights [%]")
    left.set_ylim(0, max(1.15 * 100 * data.probability.max(), 1.4 * fixed))
    title = f"{len(data.level)} levels, but an entropy of {data.entropy:.2f} bits"
    left.set_title(title, loc="left", fontsize=10, weight="bold")
    right.plot(BITS, 100 * data.errors, "o", mfc="white", color=BLUE, label="one scale, fixed code")
    right.plot(data.entropies, 100 * data.errors, "o-", color=BLUE, label="one scale, entropy code")
    right.plot(data.block_rates[0], 100 * data.block_error, "s", mfc="white", color=VERMILION, label="Q4_0 as stored")
    right.plot(data.block_rates[1], 100 * data.block_error, "s", color=VERMILION, label="Q4_0, entropy code")
    for bits, rate, error in zip(BITS, data.entropies, data.errors, strict=True):
        right.annotate(f"int{bits}", (rate, 100 * error), (-5, -3), textcoords="offset points", ha="right", va="top",
                       fontsize=8.5)  # fmt: skip
    right.plot(data.entropy, 100 * data.error, "o", ms=13, mfc="none", color=GREEN, mew=2)
    right.set(
        yscale="log", xlim=(0.6, 7.3), ylim=(0.02, 60), xlabel="bits per weight", ylabel="squared error [% of energy]"
    )
    right.yaxis.set_major_formatter("{x:g}")
    right.grid(alpha=0.3)
    right.legend(fontsize=8, loc="upper right")
    right.set_title("What both cost", loc="left", fontsize=10, weight="bold")
    return figure


def show(weight: Float[np.ndarray, "rows columns"], bits: int = 5, share: int = 100) -> Live:
    """Show a grid with one scale, with sliders for its bits and its range.

    Args:
        weight: Weights of a layer.
        bits: First number of bits, one of :data:`BITS`.
        share: First range, one of :data:`SHARES`.
    """
    return Live(
        lambda bits, share: fine_grid_data(weight, bits, share),
        draw_fine_grid,
        {
            "bits": slider("bits", BITS, bits),
            "share": slider("range [% of the largest weight]", SHARES, share),
        },
    )
