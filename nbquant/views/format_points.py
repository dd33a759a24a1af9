"""Block formats as points of the rate-distortion figure of the methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbquant.quantization.block_quantizer import BLOCKS_METHOD
from nbquant.views import theme
from nbquant.views.palette import method_style


@dataclass(frozen=True)
class FormatPoint:
    """A block format on the selection.

    Attributes:
        name: Name of the format.
        search: Whether its scales are searched, or rounded as the library does.
        rate: Stored bits [bit/weight].
        compression_ratio: Source bits over stored bits.
        predicted_loss: ½ Σ h (w − ŵ)² [loss].
        wasted: Rate above the rate-distortion function at this loss [bit/weight]; NaN if unknown.
    """

    name: str
    search: bool
    rate: float
    compression_ratio: float
    predicted_loss: float
    wasted: float


def shown_points(points: Sequence[FormatPoint]) -> tuple[FormatPoint, ...]:
    """Those that logarithmic axes can show, best first: the searched ones of least waste."""
    drawn = [p for p in points if p.predicted_loss > 0 and np.isfinite(p.predicted_loss)]
    return tuple(sorted(drawn, key=lambda p: (not p.search, p.wasted if np.isfinite(p.wasted) else np.inf)))


def draw_format_points(
    points: Sequence[FormatPoint], labels: Sequence[str], places: Sequence[str]
) -> list[theme.Trace]:
    """Draw formats as the libraries round hollow, and with searched scales filled, in one trace each.

    Args:
        points: From :func:`shown_points`.
        labels: Label of each; "" for none.
        places: Plotly's ``textposition`` of each.
    """
    style = method_style(BLOCKS_METHOD.name, True)
    traces = []
    for search, name in ((False, "as the library rounds"), (True, "best scales")):
        here = [i for i, p in enumerate(points) if p.search == search]
        own = [points[i] for i in here]
        traces.append(
            {
                "type": "scatter",
                "x": [p.compression_ratio for p in own],
                "y": [p.predicted_loss for p in own],
                "mode": "markers+text",
                "text": [labels[i] for i in here],
                "textposition": [places[i] or "top right" for i in here],
                "textfont": {"size": theme.FONT_SIZE - 2, "color": theme.FOREGROUND},
                "hovertext": [p.name for p in own],
                "customdata": np.array([[p.rate, p.wasted] for p in own]).reshape(-1, 2),
                "marker": {"color": style.colour, "symbol": "circle" + "-open" * (not search), "size": 6},
                "name": f"block formats, {name}",
                "showlegend": False,
                "hovertemplate": f"<b>%{{hovertext}}</b>, {name}<br>%{{x:.2f}}×, %{{customdata[0]:.3f}} bit/weight "
                "stored, %{customdata[1]:.3f} wasted<br>predicted loss +%{y:.3g}<br>click to choose it<extra></extra>",
            }
        )
    return traces
