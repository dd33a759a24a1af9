"""Conversion of plotly axes and layouts to matplotlib."""

import html
import re
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
)

from nbquant.views import theme

PALE = "#e0e0e0"
_ON_WHITE = {theme.FOREGROUND: "#222222", theme.MUTED: "#5f6368", theme.GRID: PALE, theme.BACKGROUND: "#ffffff"}
_TICKS, _LABEL = 8, 8.5  # [pt]


def on_white(colour: Any) -> Any:
    """Convert the colour of a role to one for a white background; other colours are unchanged."""
    return _ON_WHITE.get(colour, colour) if isinstance(colour, str) else colour


def plain(text: str) -> str:
    """Strip plotly's tags from text, with line breaks kept."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br\s*/?>", "\n", text)))


def lay_out_axes(target: FigureBase, layout: Mapping[str, Any]) -> dict[str, Axes]:
    """Make the axes of a plotly layout.

    Args:
        target: Figure without axes.
        layout: Plotly's layout: ``xaxis``, ``yaxis``, and further y axes that share the first one's place.

    Returns:
        Name of each y axis in traces ("y", "y2") -> axes.
    """
    main = target.subplots()
    axes = {"y": main}
    for name in sorted(n for n in layout if n.startswith("yaxis") and n != "yaxis"):
        axes[name.replace("axis", "")] = main.twinx()
    for name, one in axes.items():
        settings = layout.get(name.replace("y", "yaxis"), {})
        _set_axis(one, one.yaxis, settings, "y")
        if name != "y":
            one.spines[["left", "top", "bottom"]].set_visible(False)
            one.spines["right"].set_visible(settings.get("visible", True))
    _set_axis(main, main.xaxis, layout.get("xaxis", {}), "x")
    main.spines[["right", "top"]].set_visible(False)
    main.set_axisbelow(True)
    return axes


def set_free_ends(axes: Mapping[str, Axes], layout: Mapping[str, Any]) -> None:
    """Let axes without a fixed range start at zero if required, once everything is drawn."""
    if layout.get("xaxis", {}).get("rangemode") == "tozero":
        axes["y"].set_xlim(left=0)
    for name, one in axes.items():
        if layout.get(name.replace("y", "yaxis"), {}).get("rangemode") == "tozero":
            one.set_ylim(bottom=0)


def _set_axis(axes: Axes, axis: Axis, settings: Mapping[str, Any], letter: str) -> None:
    side = "bottom" if letter == "x" else settings.get("side", "left")
    if not settings.get("visible", True):
        axis.set_visible(False)
        axes.spines[side].set_visible(False)
    if settings.get("type") == "log":
        axes.set(**{f"{letter}scale": "log"})
    limits = settings.get("range")
    if limits is not None:
        axes.set(**{f"{letter}lim": [10.0**v for v in limits] if settings.get("type") == "log" else list(limits)})
    title = settings.get("title", "")
    colour = on_white(settings.get("color", theme.FOREGROUND))
    axis.set_label_text(
        plain(title if isinstance(title, str) else title.get("text", "")), fontsize=_LABEL, color=colour
    )
    axis.set_tick_params(
        which="both",
        labelsize=_TICKS,
        labelcolor=colour,
        color=on_white(settings.get("tickcolor", theme.MUTED)),
        **({} if settings.get("showticklabels", True) else {f"label{side}": False}),
    )
    axes.spines[side].set_color(on_white(settings.get("linecolor", theme.MUTED)))
    if settings.get("showgrid", True) and settings.get("visible", True):
        axis.grid(color=PALE, linewidth=0.7)
    _set_ticks(axis, settings)


def _set_ticks(axis: Axis, settings: Mapping[str, Any]) -> None:
    step = settings.get("dtick")
    if "tickvals" in settings:
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(list(settings["tickvals"]), [str(t) for t in settings["ticktext"]])
    elif settings.get("type") == "log":
        halves = step == "D2"
        axis.set_major_locator(
            LogLocator(10.0 ** (1 if halves else step or 1), subs=(1, 2, 5) if halves else (1,), numticks=15)
        )
        axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=not halves, minor_thresholds=(9, 9)))
        axis.set_minor_locator(NullLocator())
    else:
        if step:
            axis.set_major_locator(MultipleLocator(step))
        else:
            whole = settings.get("tickformat") == "d"
            axis.set_major_locator(MaxNLocator(settings.get("nticks", 7), integer=whole, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, position: f"{round(value, 12):,g}".replace("-", "−")))
