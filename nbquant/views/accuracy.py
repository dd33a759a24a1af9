"""Figure of accuracy against average codeword length, as in the paper."""

from collections.abc import Hashable
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from nbquant.coding import codes
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, method_style

DEPTH = 12.0  # points of accuracy shown below the original

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "cross": "P", "star": "*", "triangle-up": "^", "hexagon": "h"}
_LINES = {"solid": "-", "dash": "--"}


@dataclass(frozen=True)
class AccuracyCurve:
    """One line in a panel.

    Attributes:
        label: Name in the legend.
        colour: Hex colour.
        line: Matplotlib's line style.
        marker: Matplotlib's marker.
        codeword_length: Average codeword lengths, ascending [bit/weight].
        accuracy: Accuracy at each [%].
    """

    label: str
    colour: str
    line: str
    marker: str
    codeword_length: Float[ndarray, " p"]
    accuracy: Float[ndarray, " p"]


@dataclass(frozen=True)
class AccuracyPanel:
    """One set of axes.

    Attributes:
        title: Code and stage.
        curves: The lines in it.
    """

    title: str
    curves: tuple[AccuracyCurve, ...]


@dataclass(frozen=True)
class AccuracyData:
    """Numbers behind the accuracy figure.

    Attributes:
        panels: Fixed-length before Huffman, before and then after fine-tuning; empty panels are left out.
        original: Accuracy before quantization [%].
        accuracy_range: Range shown [%].
        left_out: Number of points below the range.
    """

    panels: tuple[AccuracyPanel, ...]
    original: float
    accuracy_range: tuple[float, float]
    left_out: int


def accuracy_data(rows: pd.DataFrame, original: float, depth: float = DEPTH) -> AccuracyData:
    """Sort points into panels and curves.

    Args:
        rows: From :func:`nbquant.analysis.accuracy.accuracy_by_method`, one curve per method; or from
            ``accuracy_by_sensitivity``, one curve per sensitivity.
        original: Accuracy before quantization, in [0, 1].
        depth: Range shown below it [points].

    Raises:
        ValueError: No rows, a depth that is not positive, or an original accuracy outside [0, 1].
    """
    if not len(rows):
        raise ValueError("at least one point is required, but there is none.")
    if not (0 <= original <= 1 and depth > 0):
        raise ValueError(f"original must be in [0, 1] and depth positive, but got {original} and {depth}.")
    by = ["sensitivity"] if "sensitivity" in rows else ["method", "weighted"]
    orders = {tuple(key): i for i, key in enumerate(rows[by].drop_duplicates().itertuples(index=False))}
    panels = []
    for coding, finetuned in ((c, f) for c in rows["coding"].drop_duplicates() for f in (False, True)):
        inside = rows[(rows["coding"] == coding) & (rows["finetuned"] == finetuned)]
        curves = tuple(
            _curve(key, number, inside[(inside[by] == list(key)).all(axis=1)]) for key, number in orders.items()
        )
        if len(inside):
            panels.append(
                AccuracyPanel(
                    codes.named(coding).title + (", fine-tuned" if finetuned else ""),
                    tuple(c for c in curves if len(c.accuracy)),
                )
            )
    accuracy = 100 * rows["accuracy"].to_numpy(float)
    low = max(100 * original - depth, accuracy.min() - 1)
    high = max(100 * original, accuracy.max())
    high += 0.05 * (high - low)
    return AccuracyData(tuple(panels), 100 * original, (low, high), int((accuracy < low).sum()))


def _curve(key: tuple[Hashable, ...], number: int, rows: pd.DataFrame) -> AccuracyCurve:
    rows = rows.sort_values(["codeword_length", "accuracy"])
    points = rows["codeword_length"].to_numpy(float), 100 * rows["accuracy"].to_numpy(float)
    if len(key) == 1:
        marker = list(_MARKERS.values())[number % len(_MARKERS)]
        return AccuracyCurve(str(key[0]), _COLOURS[number % len(_COLOURS)], "-", marker, *points)
    style = method_style(str(key[0]), bool(key[1]))
    return AccuracyCurve(style.label, style.colour, _LINES[style.dash], _MARKERS[style.symbol], *points)


def plot_accuracy(data: AccuracyData) -> Figure:
    """Draw the panels side by side, two to a row, with one legend below.

    The figure is returned, not shown, and belongs to no pyplot session.
    """
    columns = min(2, len(data.panels))
    rows = -(-len(data.panels) // columns)
    figure = NotebookFigure(figsize=(4.6 * columns, 2.9 * rows + 0.8), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    longest = max(c.codeword_length[-1] for panel in data.panels for c in panel.curves)
    lines = {}
    for number, (ax, panel) in enumerate(zip(axes, data.panels, strict=False)):
        ax.axhline(data.original, color="0.4", linewidth=1, linestyle=":")
        for c in panel.curves:
            (lines[c.label],) = ax.plot(
                c.codeword_length, c.accuracy, c.line, marker=c.marker, markersize=4.5, linewidth=1.6, color=c.colour
            )
        letter = f"({'abcdefgh'[number]}) " if len(data.panels) > 1 else ""
        ax.set_title(letter + panel.title, fontsize=10)
        ax.set_ylim(*data.accuracy_range)
        ax.set_xlim(0, 1.04 * longest)
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlabel("average codeword length [bit/weight]")
        if number % columns == 0:
            ax.set_ylabel("accuracy [%]")
    for ax in axes[len(data.panels) :]:
        ax.set_visible(False)
    dotted = f"dotted: original, {data.original:.2f} %"
    below = f"; {data.left_out} points lie below" if data.left_out else ""
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower center",
        ncols=2 * columns if len(lines) > 3 else len(lines),
        frameon=False,
        fontsize=9,
        title=dotted + below,
        title_fontsize=9,
    )
    return figure
