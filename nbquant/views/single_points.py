"""Chosen, pinned and measured operating points in the rate-distortion figure, with labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nbquant.views import theme
from nbquant.views.format_points import FormatPoint, draw_format_points
from nbquant.views.labels import LARGE, Lettering, place_labels, short
from nbquant.views.palette import MethodStyle, method_style

_CLEAR = 0.003  # largest cost of a format's label: it covers no marker, and little of a curve


@dataclass(frozen=True)
class ChosenPoint:
    """The current operating point.

    Attributes:
        method: Name of the method.
        weighted: Whether it uses the Hessian.
        rate: R, side information included [bit/weight].
        compression_ratio: Source bits over all stored bits.
        predicted_loss: N·D, the loss increase that the diagonal predicts [loss].
    """

    method: str
    weighted: bool
    rate: float
    compression_ratio: float
    predicted_loss: float


@dataclass(frozen=True)
class PinnedPoint:
    """A point kept for comparison; attributes as in :class:`ChosenPoint`, and its label."""

    label: str
    method: str
    weighted: bool
    rate: float
    compression_ratio: float
    predicted_loss: float


@dataclass(frozen=True)
class MeasuredPoint:
    """An evaluated point; attributes as in :class:`ChosenPoint`, and the results.

    Attributes:
        accuracy: Measured accuracy, in [0, 1]; None if the network does not classify.
        loss: Measured loss increase, negative for a decrease [loss].
    """

    method: str
    weighted: bool
    rate: float
    compression_ratio: float
    predicted_loss: float
    accuracy: float | None
    loss: float


def draw_points(
    pins: Sequence[PinnedPoint],
    measured: Sequence[MeasuredPoint],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    chosen: ChosenPoint | None = None,
    *,
    lettering: Lettering = LARGE,
    lines: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    formats: Sequence[FormatPoint] = (),
) -> list[theme.Trace]:
    """Draw pins as hollow symbols of their method, and measured losses as crosses over or under the predicted ones.

    A measured loss that did not increase, which a logarithmic axis cannot show, is a triangle at the lower edge, as is
    a pin without loss. A label that would overlap another is left out; hovering shows it.

    Args:
        pins: Points kept for comparison.
        measured: Evaluated points.
        x_range: log₁₀ of the compression ratios shown.
        y_range: log₁₀ of the losses shown.
        chosen: The current point, which labels avoid.
        lettering: Size of the letters.
        lines: Ratios and losses of the curves, which labels avoid where they can.
        formats: Block formats, from :func:`~nbquant.views.format_points.shown_points`, which are drawn first. Their
            labels come after all others, and only where they cover no point.
    """
    bottom = 10 ** y_range[0]
    pins = [p for p in pins if np.isfinite(p.compression_ratio)]
    measured = [m for m in measured if np.isfinite(m.compression_ratio)]
    x = [*(p.compression_ratio for p in pins), *(m.compression_ratio for m in measured)]
    y = [max(bottom, loss) for loss in (*(p.predicted_loss for p in pins), *(m.loss for m in measured))]
    labels = [short(p.label) for p in pins] + ["" if m.accuracy is None else f"{m.accuracy:.2%}" for m in measured]
    here = [] if chosen is None else [chosen]
    free: list[ChosenPoint | FormatPoint] = [*here, *formats]
    first = len(labels) + len(here)  # of the formats
    named = [*labels, *("" for _ in here), *(p.name if p.search else "" for p in formats)]
    places = place_labels(
        [_fraction(np.log10(a), x_range) for a in (*x, *(c.compression_ratio for c in free))],
        [_fraction(np.log10(max(bottom, b)), y_range) for b in (*y, *(c.predicted_loss for c in free))],
        named,
        lettering,
        _in_fractions(lines, x_range, y_range),
        [np.inf] * first + [_CLEAR] * len(formats),
    )
    shown = [label if place else "" for label, place in zip(named, places, strict=True)]
    labels, split = shown[: len(labels)], len(pins)
    traces = draw_format_points(formats, shown[first:], places[first:]) if formats else []
    if measured:
        traces.append(_connectors(measured, y[split:], bottom))
        traces.append(
            _marks(measured, x[split:], y[split:], labels[split:], places[split : len(labels)])
            | {
                "name": "measured",
                "customdata": [_measured_words(m) for m in measured],
                "hovertemplate": "<b>measured</b> %{customdata}<br>%{x:.2f}×<extra></extra>",
            }
        )
        traces[-1]["marker"]["symbol"] = ["x" if m.loss > bottom else "triangle-down" for m in measured]
    if pins:
        traces.append(
            _marks(pins, x[:split], y[:split], labels[:split], places[:split])
            | {
                "name": "pinned",
                "customdata": [[p.label, p.rate, p.predicted_loss] for p in pins],
                "hovertemplate": "<b>%{customdata[0]}</b><br>%{x:.2f}×, %{customdata[1]:.3f} bit/weight<br>predicted "
                "loss +%{customdata[2]:.3g}<extra></extra>",
            }
        )
        traces[-1]["marker"]["symbol"] = [
            (style(p).symbol if p.predicted_loss > bottom else "triangle-down") + "-open" for p in pins
        ]
    return traces


def draw_chosen(chosen: ChosenPoint) -> theme.Trace:
    """Draw the current point, larger than all others."""
    drawn = style(chosen)
    return {
        "type": "scatter",
        "x": [chosen.compression_ratio],
        "y": [chosen.predicted_loss],
        "mode": "markers",
        "marker": {
            "color": drawn.colour,
            "symbol": drawn.symbol,
            "size": 13,
            "line": {"color": theme.FOREGROUND, "width": 2},
        },
        "customdata": [[chosen.rate]],
        "name": "chosen",
        "showlegend": False,
        "hovertemplate": f"<b>chosen: {drawn.label}</b><br>%{{x:.2f}}×, %{{customdata[0]:.3f}} bit/weight<br>predicted "
        "loss +%{y:.3g}<extra></extra>",
    }


def style(point: ChosenPoint | PinnedPoint | MeasuredPoint) -> MethodStyle:
    """Look up the style of a point's method."""
    return method_style(point.method, point.weighted)


def _marks(
    points: Sequence[PinnedPoint] | Sequence[MeasuredPoint],
    x: list[float],
    y: list[float],
    labels: list[str],
    places: list[str],
) -> theme.Trace:
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "markers+text",
        "marker": {"color": [style(p).colour for p in points], "size": 9, "line": {"width": 2}},
        "text": labels,
        "textposition": places,
        "textfont": {"size": theme.FONT_SIZE - 1, "color": theme.FOREGROUND},
        "cliponaxis": False,
        "showlegend": False,
    }


def _connectors(measured: Sequence[MeasuredPoint], shown: Sequence[float], bottom: float) -> theme.Trace:
    """Lines from predicted to measured losses."""
    x = [v for m in measured for v in (m.compression_ratio, m.compression_ratio, np.nan)]
    y = [v for m, at in zip(measured, shown, strict=True) for v in (max(bottom, m.predicted_loss), at, np.nan)]
    return {
        "type": "scatter",
        "x": np.array(x),
        "y": np.array(y),
        "mode": "lines",
        "line": {"color": theme.MUTED, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
        "name": "predicted to measured",
    }


def _measured_words(point: MeasuredPoint) -> str:
    accuracy = "" if point.accuracy is None else f", accuracy {point.accuracy:.2%}"
    return f"loss {point.loss:+.3g}{accuracy}<br>predicted {point.predicted_loss:+.3g}"


def _fraction(value: float, limits: tuple[float, float]) -> float:
    return float((value - limits[0]) / (limits[1] - limits[0]))


def _in_fractions(
    lines: Sequence[tuple[np.ndarray, np.ndarray]], x_range: tuple[float, float], y_range: tuple[float, float]
) -> Float[np.ndarray, "points 2"]:
    """Points of lines as fractions of the plot; those outside are left out."""
    if not lines:
        return np.zeros((0, 2))
    points = np.concatenate([np.stack([np.asarray(x), np.asarray(y)], 1) for x, y in lines])
    points = np.log10(points[(points > 0).all(1)])
    found = (points - (x_range[0], y_range[0])) / (x_range[1] - x_range[0], y_range[1] - y_range[0])
    return found[((found >= 0) & (found <= 1)).all(1)]
