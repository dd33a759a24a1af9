"""Figure of a file's bits by part: one bar per ledger."""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure, FigureBase

from nbquant.coding.ledger import Ledger
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import LEDGER_COLOURS, OTHER_PART

_NARROW = 0.06  # of the longest bar: narrower parts have their number in the legend only
_COLUMNS = 5  # of the legend


@dataclass(frozen=True)
class LedgerBar:
    """One bar.

    Attributes:
        label: Label of the bar.
        parts: Pairs of a part's name and its bytes, without empty parts.
    """

    label: str
    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """Total bytes."""
        return sum(size for _, size in self.parts)


@dataclass(frozen=True)
class LedgerData:
    """Numbers behind the ledger figure.

    Attributes:
        bars: Bars from top to bottom.
    """

    bars: tuple[LedgerBar, ...]


def ledger_data(ledgers: dict[str, Ledger]) -> LedgerData:
    """Convert one or several ledgers to bytes by part.

    Args:
        ledgers: Label -> ledger.

    Raises:
        ValueError: No ledger, or an empty one.
    """
    if not ledgers or not all(ledger.total for ledger in ledgers.values()):
        raise ValueError(f"ledgers with bits are required, but got {len(ledgers)}, or one is empty.")
    return LedgerData(
        tuple(
            LedgerBar(label, tuple((name, bits / 8) for name, bits in ledger.items() if bits))
            for label, ledger in ledgers.items()
        )
    )


def plot_ledger(data: LedgerData) -> Figure:
    """Draw the bars; the figure is returned, not shown, and belongs to no pyplot session."""
    figure = NotebookFigure(figsize=(9.2, 1.5 + 0.5 * len(data.bars)), layout="constrained")
    draw_ledger(figure, data)
    return figure


def legend_rows(data: LedgerData) -> int:
    """Count the rows of the legend below the bars."""
    return -(-len({name for bar in data.bars for name, _ in bar.parts}) // _COLUMNS)


def draw_ledger(figure: FigureBase, data: LedgerData) -> None:
    """Draw the bars in an empty figure, or part of one, with a constrained layout."""
    ax = figure.subplots()
    longest = max(bar.total for bar in data.bars)
    handles: dict[str, Any] = {}
    for row, bar in enumerate(data.bars):
        left = 0.0
        for name, size in bar.parts:
            patch = ax.barh(
                row, size, left=left, color=LEDGER_COLOURS.get(name, OTHER_PART), edgecolor="white", linewidth=0.8
            )
            handles.setdefault(name, patch)
            if size >= _NARROW * longest:
                ax.text(left + size / 2, row, f"{size:,.0f}", ha="center", va="center", fontsize=9, color="white")
            left += size
        ax.text(left + 0.01 * longest, row, f"{bar.total:,.0f} bytes", ha="left", va="center", fontsize=9)
    ax.set_yticks(range(len(data.bars)), [bar.label for bar in data.bars])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.14 * longest)
    ax.set_xlabel("bytes in the file", fontsize=9)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(left=False, labelsize=9)
    figure.legend(
        list(handles.values()),
        [name.replace("_", " ") for name in handles],
        loc="outside lower center",
        ncols=_COLUMNS,
        frameon=False,
        fontsize=9,
    )
