"""Labels of points: the side of each point where its label covers no other label and as little else as possible."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

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


def place_labels(
    x: Sequence[float],
    y: Sequence[float],
    labels: Sequence[str],
    lettering: Lettering = LARGE,
    crossed: Float[np.ndarray, "points 2"] | None = None,
    most_covered: float | Sequence[float] = float("inf"),
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
        most_covered: Largest cost of a place, in areas of overlap with markers, of all labels or of each: at 0 a label
            that would cover a marker or leave the plot is left out too.

    Returns:
        Plotly's ``textposition`` of each; "" where a label has no place.
    """
    across, down = lettering.marker
    most = [most_covered] * len(labels) if isinstance(most_covered, float | int) else most_covered
    points = [(a - across, b - down, a + across, b + down) for a, b in zip(x, y, strict=True)]
    placed: list[Box] = []
    chosen = []
    for number, label in enumerate(labels):
        if not label:
            chosen.append(next(iter(_PLACES)))
            continue
        others = points[:number] + points[number + 1 :]
        boxes = {place: _label_box(x[number], y[number], label, side, lettering) for place, side in _PLACES.items()}
        costs = {
            place: sum(_overlap(box, other) for other in others) + 3 * _outside(box) + _CROSSED * _inside(box, crossed)
            for place, box in boxes.items()
            if not any(_overlap(box, other) > 0 for other in placed)
        }
        best = min(costs, key=lambda place: costs[place], default="")
        if best and costs[best] > most[number]:
            best = ""
        chosen.append(best)
        if best:
            placed.append(boxes[best])
    return chosen


def short(label: str) -> str:
    """Cut a label to what a figure has room for."""
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1].rstrip() + "…"


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


def _outside(box: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, (0.0, 0.0, 1.0, 1.0))
