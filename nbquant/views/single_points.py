"""Chosen, pinned and measured operating points in the rate-distortion figure, with labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nbquant.views import theme
from nbquant.views.palette import MethodStyle, method_style

_LONGEST = 22  # letters of a label; hovering shows all of it
_CROSSED = 2e-4  # cost of a point of a curve that a label covers, in areas of overlap
# Loss rises with the ratio, so curves leave these corners free, the first ones most.
_PLACES = {
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "bottom center": (0, -1),
    "top center": (0, 1),
    "top right": (1, 1),
    "bottom left": (-1, -1),
}


@dataclass(frozen=True)
class Lettering:
    """Sizes relative to a plot, by which labels are placed.

    Attributes:
        letter: Width of a letter.
        line: Height of a line.
        marker: Half of a marker's width and height.
    """

    letter: float
    line: float
    marker: tuple[float, float]


LARGE = Lettering(0.014, 0.075, (0.012, 0.03))
"""In a figure of its own."""
SMALL = Lettering(0.026, 0.085, (0.02, 0.03))
"""In the explorer's figure on a small screen, whose plot has 250 × 170 pixels."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top."""


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
    """
    bottom = 10 ** y_range[0]
    pins = [p for p in pins if np.isfinite(p.compression_ratio)]
    measured = [m for m in measured if np.isfinite(m.compression_ratio)]
    x = [*(p.compression_ratio for p in pins), *(m.compression_ratio for m in measured)]
    y = [max(bottom, loss) for loss in (*(p.predicted_loss for p in pins), *(m.loss for m in measured))]
    labels = [short(p.label) for p in pins] + ["" if m.accuracy is None else f"{m.accuracy:.2%}" for m in measured]
    free = [] if chosen is None else [chosen]
    places = place_labels(
        [_fraction(np.log10(a), x_range) for a in (*x, *(c.compression_ratio for c in free))],
        [_fraction(np.log10(max(bottom, b)), y_range) for b in (*y, *(c.predicted_loss for c in free))],
        [*labels, *("" for _ in free)],
        lettering,
        _in_fractions(lines, x_range, y_range),
    )[: len(labels)]
    labels = [label if place else "" for label, place in zip(labels, places, strict=True)]
    split = len(pins)
    traces = []
    if measured:
        traces.append(_connectors(measured, y[split:], bottom))
        traces.append(
            _marks(measured, x[split:], y[split:], labels[split:], places[split:])
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


def place_labels(
    x: Sequence[float],
    y: Sequence[float],
    labels: Sequence[str],
    lettering: Lettering = LARGE,
    crossed: Float[np.ndarray, "points 2"] | None = None,
) -> list[str]:
    """Choose a side of each point for its label, where it covers no other label and as few points as possible.

    Points are processed in order, each with the best free place. Where there is none the label is left out, so that
    labels never overlap however many there are.

    Args:
        x: Positions, as fractions of the plot's width.
        y: Positions, as fractions of the plot's height.
        labels: Labels; may be empty.
        lettering: Size of the letters.
        crossed: Points of curves, likewise as fractions, which labels cover only if there is no other place.

    Returns:
        Plotly's ``textposition`` of each; "" where a label has no place.
    """
    across, down = lettering.marker
    points = [(a - across, b - down, a + across, b + down) for a, b in zip(x, y, strict=True)]
    placed: list[Box] = []
    chosen = []
    for number, label in enumerate(labels):
        others = points[:number] + points[number + 1 :]
        boxes = {place: _label_box(x[number], y[number], label, side, lettering) for place, side in _PLACES.items()}
        costs = {
            place: sum(_overlap(box, other) for other in others) + 3 * _outside(box) + _CROSSED * _inside(box, crossed)
            for place, box in boxes.items()
            if not any(_overlap(box, other) > 0 for other in placed)
        }
        best = min(costs, key=lambda place: costs[place], default="")
        chosen.append(best)
        if label and best:
            placed.append(boxes[best])
    return chosen


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


def short(label: str) -> str:
    """Cut a label to what a figure has room for."""
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1].rstrip() + "…"


def _fraction(value: float, limits: tuple[float, float]) -> float:
    return float((value - limits[0]) / (limits[1] - limits[0]))


def _label_box(x: float, y: float, label: str, side: tuple[int, int], lettering: Lettering = LARGE) -> Box:
    width, height = lettering.letter * len(label), lettering.line * bool(label)
    left = x + side[0] * lettering.marker[0] + (side[0] - 1) * width / 2
    bottom = y + side[1] * lettering.marker[1] + (side[1] - 1) * height / 2
    return left, bottom, left + width, bottom + height


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _inside(box: Box, points: Float[np.ndarray, "points 2"] | None) -> int:
    """How many points lie in a box."""
    if points is None:
        return 0
    low, high = np.array(box[:2]), np.array(box[2:])
    return int(((points >= low) & (points <= high)).all(1).sum())


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


def _outside(box: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, (0.0, 0.0, 1.0, 1.0))
