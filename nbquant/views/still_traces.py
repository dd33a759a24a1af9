"""Conversion of plotly traces and annotations to matplotlib."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import FigureBase
from matplotlib.patheffects import withStroke

from nbquant.views import theme
from nbquant.views.still_axes import on_white, plain

_POINTS = 0.75  # points per pixel
_DASH = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3))}
_MARKER = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "x": "X",
    "cross": "P",
    "star": "*",
    "triangle-down": "v",
    "triangle-up": "^",
    "hexagon": "h",
}
_SIDE = {"left": ("right", -1), "center": ("center", 0), "right": ("left", 1)}
_LEVEL = {"bottom": ("top", -1), "middle": ("center", 0), "top": ("bottom", 1)}
_TEXT = 8  # [pt]


def draw_trace(target: FigureBase, axes: Axes, trace: Mapping[str, Any], order: int) -> None:
    """Draw one trace over those of a lower order.

    Args:
        target: The figure, for a map's colour bar.
        axes: The axes to draw on.
        trace: The trace as plotly's JSON.
        order: Index among the figure's traces.

    Raises:
        ValueError: A type of trace not used by this package.
    """
    drawn = {"bar": _bars, "scatter": _scatter}.get(trace["type"])
    if drawn is not None:
        drawn(axes, trace, 2 + 0.01 * order)
    elif trace["type"] == "heatmap":
        _map(target, axes, trace)
    else:
        raise ValueError(f"traces must be bar, scatter or heatmap, but got {trace['type']!r}.")


def draw_annotation(axes: Axes, annotation: Mapping[str, Any]) -> None:
    """Draw an annotation at its place in plotly's layout, which uses exponents on a logarithmic axis."""
    place = []
    for letter in "xy":
        value = annotation[letter]
        on_paper = annotation.get(f"{letter}ref") == "paper"
        logarithmic = getattr(axes, f"get_{letter}scale")() == "log"
        place.append((10.0**value if logarithmic and not on_paper else value, "axes fraction" if on_paper else "data"))
    level = {"bottom": "bottom", "middle": "center", "top": "top"}[annotation.get("yanchor", "middle")]
    gap = {"left": 3, "right": -3}.get(annotation.get("xanchor", "center"), 0)
    axes.annotate(
        plain(annotation["text"]),
        (place[0][0], place[1][0]),
        (gap, {"bottom": 2, "top": -2}.get(level, 0)),
        xycoords=(place[0][1], place[1][1]),
        textcoords="offset points",
        ha=annotation.get("xanchor", "center"),
        va=level,
        fontsize=_TEXT,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        color=on_white(annotation.get("font", {}).get("color", theme.FOREGROUND)),
    )


def _bars(axes: Axes, trace: Mapping[str, Any], order: float) -> None:
    marker = trace["marker"]
    across, along = np.asarray(trace["x"]), np.asarray(trace["y"])
    look = {
        "color": [on_white(c) for c in _each(marker["color"], across)],
        "alpha": marker.get("opacity", 1.0),
        "linewidth": 0,
        "zorder": order,
        "label": plain(trace.get("name", "")),
    }
    if trace.get("orientation") == "h":
        axes.barh(along, across, np.asarray(trace["width"]), left=np.asarray(trace.get("base", 0)), **look)
    else:
        axes.bar(across, along, np.asarray(trace["width"]), bottom=np.asarray(trace.get("base", 0)), **look)


def _scatter(axes: Axes, trace: Mapping[str, Any], order: float) -> None:
    x, y = np.asarray(trace["x"], np.float64), np.asarray(trace["y"], np.float64)
    mode, clip = trace.get("mode", "lines"), trace.get("cliponaxis", True)
    name = plain(trace.get("name", ""))
    if "lines" in mode:
        line = trace.get("line", {})
        axes.plot(
            x,
            y,
            linestyle=_DASH[line.get("dash", "solid")],
            color=on_white(line.get("color")),
            linewidth=_POINTS * line.get("width", 2),
            zorder=order,
            label=name,
            clip_on=clip,
        )
    if "markers" in mode and len(x):
        _markers(axes, x, y, trace.get("marker", {}), order, clip, "" if "lines" in mode else name)
    if "text" in mode:
        for a, b, text, place in zip(x, y, trace["text"], trace["textposition"], strict=True):
            (va, up), (ha, right) = _LEVEL[place.split()[0]], _SIDE[place.split()[1]]
            axes.annotate(
                text,
                (a, b),
                (4 * right, 4 * up),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=_TEXT,
                color=on_white(trace.get("textfont", {}).get("color", theme.FOREGROUND)),
                path_effects=[withStroke(linewidth=2, foreground="white")],
                zorder=order,
                annotation_clip=False,
            )


def _markers(
    axes: Axes, x: np.ndarray, y: np.ndarray, marker: Mapping[str, Any], order: float, clip: bool, name: str
) -> None:
    edge = marker.get("line", {})
    symbol, size, colour = (
        _each(marker.get("symbol", "circle"), x),
        _each(marker.get("size", 6), x),
        _each(marker.get("color"), x),
    )
    width, rim = _each(edge.get("width", 0), x), _each(edge.get("color"), x)
    for one in dict.fromkeys(symbol):
        here = [i for i, s in enumerate(symbol) if s == one]
        hollow = one.endswith("-open")
        colours = [on_white(colour[i]) for i in here]
        axes.scatter(
            x[here],
            y[here],
            [(_POINTS * float(size[i])) ** 2 for i in here],
            marker=_MARKER[one.removesuffix("-open")],
            facecolors="none" if hollow else colours,
            edgecolors=colours if hollow else [on_white(rim[i]) or c for i, c in zip(here, colours, strict=True)],
            linewidths=[_POINTS * (max(float(width[i]), 1.5) if hollow else float(width[i])) for i in here],
            zorder=order,
            clip_on=clip,
            label=name,
        )


def _each(value: Any, x: np.ndarray) -> list[Any]:
    """Repeat a single setting for each point."""
    return list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * len(x)


def _map(target: FigureBase, axes: Axes, trace: Mapping[str, Any]) -> None:
    z = np.asarray(trace["z"])
    left, top = trace["x0"] - trace["dx"] / 2, trace["y0"] - trace["dy"] / 2
    window = axes.get_xlim(), axes.get_ylim()
    image = axes.imshow(
        np.ma.masked_invalid(z),
        cmap=_colours(trace["colorscale"]),
        vmin=trace.get("zmin"),
        vmax=trace.get("zmax"),
        extent=(left, left + z.shape[1] * trace["dx"], top + z.shape[0] * trace["dy"], top),
        origin="upper",
        aspect="auto",
        interpolation="nearest",
    )
    axes.set(xlim=window[0], ylim=window[1])
    if not trace.get("showscale", True):
        return
    bar = target.colorbar(image, ax=axes, pad=0.015, aspect=28, fraction=0.08)
    about = trace["colorbar"]
    bar.set_ticks(list(about["tickvals"]), labels=list(about["ticktext"]))
    bar.ax.tick_params(labelsize=_TEXT, color=on_white(theme.MUTED), labelcolor=on_white(theme.FOREGROUND))
    bar.set_label(plain(about["title"]["text"]), fontsize=_TEXT, color=on_white(theme.FOREGROUND))
    bar.outline.set_visible(False)


def _colours(scale: str | list[list[Any]]) -> str | Colormap:
    if isinstance(scale, str):
        return scale.lower()
    return LinearSegmentedColormap.from_list("", [(at, colour) for at, colour in scale])
