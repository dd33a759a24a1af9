"""Static versions of the plotly figures in matplotlib, for saved files and pages without JavaScript."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from nbquant.views import theme
from nbquant.views.ledger import LedgerData, draw_ledger, legend_rows
from nbquant.views.notebook_figure import LOCK, NotebookFigure
from nbquant.views.still_axes import PALE, lay_out_axes, on_white, plain, set_free_ends
from nbquant.views.still_traces import draw_annotation, draw_trace

WIDTH = 7.0  # of a single figure [in]
PICTURE_WIDTH = 9.0  # of several figures in one [in]
_HEIGHT = 0.53  # of a figure, over its width
_ROW, _LEDGER, _BAR, _LEGEND_ROW, _LEGEND, _CAPTION_LINE = 2.25, 0.55, 0.3, 0.2, 0.9, 0.19  # heights [in]
_TITLE, _SUBTITLE, _CAPTION = 10, 8.5, 9.5  # [pt]
_HINTED = 1.05  # largest widening of letters by hinting to whole pixels


def still(figure: theme.Figure, *, width: float = WIDTH, height: float | None = None) -> Figure:
    """Draw a figure of this package in matplotlib, dark on white.

    It supports the elements of these figures: bars, lines, markers, labels and maps on linear and logarithmic axes.

    Args:
        figure: Result of one of the ``draw_…`` functions.
        width: Width [in].
        height: Height [in]; None is about half the width.

    Returns:
        The figure, not shown and outside pyplot.

    Raises:
        ValueError: A trace of another type.
    """
    with LOCK:
        target = NotebookFigure(figsize=(width, height or _HEIGHT * width), layout="constrained", facecolor="white")
        _draw(target, figure, width)
        return target


def picture(figures: Sequence[theme.Figure], caption: str, ledger: LedgerData | None = None) -> Figure:
    """Draw several figures in one: the first as wide as the page, the others two per row, and the ledger below.

    Args:
        figures: Results of the ``draw_…`` functions.
        caption: Text above them.
        ledger: Bars of a file's parts; None leaves them out.

    Returns:
        The figure, 9 in wide, not shown and outside pyplot.

    Raises:
        ValueError: Nothing to draw, or a trace that :func:`still` does not support.
    """
    if not figures and ledger is None:
        raise ValueError("a figure or a ledger is required, but got neither.")
    rows = [figures[:1], *(figures[i : i + 2] for i in range(1, len(figures), 2))] if figures else []
    with LOCK:
        lines = _wrapped(caption, PICTURE_WIDTH - 0.3, _CAPTION)
    heights = [_CAPTION_LINE * (lines.count("\n") + 1) + 0.12] * bool(caption) + [
        _ROW + _LEGEND * any(map(_has_legend_below, row)) for row in rows
    ]
    heights += [_LEDGER + _BAR * len(ledger.bars) + _LEGEND_ROW * legend_rows(ledger)] if ledger else []
    with LOCK:
        whole = NotebookFigure(figsize=(PICTURE_WIDTH, sum(heights)), layout="constrained", facecolor="white")
        parts = list(whole.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        if caption:
            top = parts.pop(0)
            top.text(0.012, 0.5, lines, fontsize=_CAPTION, va="center", ha="left", color=on_white(theme.FOREGROUND))
        for row in rows:
            part = parts.pop(0)
            across = part.subfigures(1, len(row), squeeze=False)[0]
            for target, figure in zip(across, row, strict=True):
                _draw(target, figure, PICTURE_WIDTH / len(row))
        if ledger:
            draw_ledger(parts.pop(0), ledger)
        return whole


def _draw(target: FigureBase, figure: theme.Figure, width: float) -> None:
    layout = figure["layout"]
    axes = lay_out_axes(target, layout)
    for number, trace in enumerate(figure["data"]):
        draw_trace(target, axes[trace.get("yaxis", "y")], trace, number)
    set_free_ends(axes, layout)
    for annotation in layout.get("annotations", ()):
        draw_annotation(axes["y"], annotation)
    _write_title(axes["y"], layout["title"]["text"], width)
    _add_legend(target, axes, figure)


def _write_title(axes: Axes, text: str, width: float) -> None:
    title, _, subtitle = text.partition("<br>")
    lines = _wrapped(plain(subtitle), width - 1.2, _SUBTITLE)
    for words, size, weight, above in (
        (lines, _SUBTITLE, "normal", 5.0),
        (plain(title), _TITLE, "bold", 8.0 + 1.3 * _SUBTITLE * (lines.count("\n") + 1) * bool(lines)),
    ):
        axes.annotate(
            words,
            (0, 1),
            (0, above),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=size,
            fontweight=weight,
            color=on_white(theme.FOREGROUND),
        )


def _add_legend(target: FigureBase, axes: Mapping[str, Axes], figure: theme.Figure) -> None:
    layout = figure["layout"]
    wanted = layout.get("showlegend", len(figure["data"]) > 1)
    shown = [t for t in figure["data"] if wanted and t.get("showlegend", True)]
    drawn: dict[str, Any] = {}
    for one in axes.values():
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
            drawn.setdefault(name, handle)
    # Traces of one of plotly's legends are together, in a column each if all are of one length.
    names = [plain(t.get("name", "")) for t in sorted(shown, key=lambda t: str(t.get("legend", "legend")))]
    handles = {name: drawn[name] for name in names if name in drawn}
    if not handles:
        return
    settings: dict[str, Any] = {"fontsize": 8, "labelcolor": on_white(theme.FOREGROUND)}
    if _has_legend_below(figure):
        target.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=2,
            frameon=False,
            handlelength=2.6,
            **settings,
        )
        return
    corner: Literal["upper left", "upper right"] = (
        "upper left" if layout.get("legend", {}).get("xanchor") == "left" else "upper right"
    )
    axes["y"].legend(list(handles.values()), list(handles), loc=corner, edgecolor=PALE, **settings)


def _has_legend_below(figure: theme.Figure) -> bool:
    return bool(figure["layout"].get("legend", {}).get("yref") == "container")


def _wrapped(text: str, width: float, size: float) -> str:
    """Wrap text to a width [in]; only longer single words exceed it."""
    font = FontProperties(size=size)
    measure = TextToPath()
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        reach, _, _ = measure.get_text_width_height_descent(longer, font, ismath=False)
        if lines and reach <= 72 * width / _HINTED:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
