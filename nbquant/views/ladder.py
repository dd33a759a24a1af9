"""Figure of the ladder from the rate-distortion bound to the file: one bar per step, with its reason."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.palette import GREEN, LEDGER_COLOURS, ORANGE, OTHER_PART, PURPLE, SKY

_WIDTH = 0.62  # of a bar; steps are 1 apart
_ROOM = 1.17  # space to the right of the longest bar, for its number
_COLOURS = {"bound": PURPLE, "scalar": ORANGE, "quantizer": GREEN} | LEDGER_COLOURS | {"codebook": SKY}


@dataclass(frozen=True)
class LadderData:
    """Numbers behind the ladder figure, by step from the bound to the file.

    Attributes:
        step: Name of the step.
        part: Part of the ledger, or "bound", "scalar", "quantizer".
        start: Rate before it [bit/weight].
        change: Change of the rate; negative where a code gains [bit/weight].
        reason: Reason of the change.
        total: Final rate [bit/weight].
    """

    step: tuple[str, ...]
    part: tuple[str, ...]
    start: Float[ndarray, " s"]
    change: Float[ndarray, " s"]
    reason: tuple[str, ...]
    total: float


def ladder_data(steps: pd.DataFrame) -> LadderData:
    """Stack the steps end to end.

    Args:
        steps: From :func:`nbquant.analysis.ladder.ladder`.

    Raises:
        ValueError: No steps.
    """
    if not len(steps):
        raise ValueError("at least one step is required, but there is none: pass the result of ladder().")
    change = steps["change"].to_numpy(float)
    top = np.cumsum(change)
    return LadderData(
        tuple(steps["step"]), tuple(steps["part"]), top - change, change, tuple(steps["reason"]), float(top[-1])
    )


def draw_ladder(data: LadderData) -> theme.Figure:
    """Draw a bar per step, each from the end of the one above it, with its number next to it.

    Args:
        data: From :func:`ladder_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    count = len(data.step)
    place = np.arange(count + 1.0)
    start, change = np.append(data.start, 0.0), np.append(data.change, data.total)
    end = start + change
    # The space keeps plotly's numbers off the bars.
    number = [" " + (f"{c:.4f}" if i in (0, count) else f"{c:+.4f}".replace("-", "−")) for i, c in enumerate(change)]
    reason = [*data.reason, "everything stored"]
    name = [*data.step, "total"]
    edge_x, edge_y = _edges(end, place)
    longest = float(np.maximum(start, end).max())
    traces: list[theme.Trace] = [
        {
            "type": "scatter",
            "x": edge_x,
            "y": edge_y,
            "mode": "lines",
            "line": {"color": theme.MUTED, "width": 1.5},
            "hoverinfo": "skip",
            "showlegend": False,
            "name": "end of a step",
        },
        {
            "type": "bar",
            "orientation": "h",
            "x": change,
            "y": place,
            "base": start,
            "width": np.full(count + 1, _WIDTH),
            "marker": {"color": [*(_COLOURS.get(p, OTHER_PART) for p in data.part), theme.MUTED]},
            "customdata": list(zip(name, reason, end, strict=True)),
            "hovertemplate": "<b>%{customdata[0]}</b><br>%{x:+.4f} bit/weight, to %{customdata[2]:.4f}<br>"
            "%{customdata[1]}<extra></extra>",
            "showlegend": False,
            "name": "steps",
        },
        {
            "type": "scatter",
            "x": np.maximum(start, end),
            "y": place,
            "mode": "text",
            "text": number,
            "textposition": ["middle right"] * (count + 1),
            "textfont": {"color": theme.FOREGROUND},
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
            "name": "numbers",
        },
    ]
    return theme.figure(
        "From the bound to the stored bits",
        _subtitle(data),
        traces,
        xaxis=theme.axis("rate [bit/weight]", range=[0, _ROOM * longest]),
        yaxis=theme.axis(
            "", range=[count + 0.6, -0.6], tickvals=place, ticktext=name, showgrid=False, ticks="", automargin=True
        ),
        showlegend=False,
        uirevision="ladder",
    )


def _edges(end: Float[ndarray, " s"], place: Float[ndarray, " s"]) -> tuple[list[float], list[float]]:
    """Lines from the end of each step down to the next; NaN between them."""
    x: list[float] = []
    y: list[float] = []
    for i in range(len(end) - 1):
        x += [end[i], end[i], np.nan]
        y += [place[i] - _WIDTH / 2, place[i + 1] + _WIDTH / 2, np.nan]
    return x, y


def _subtitle(data: LadderData) -> str:
    bound = sum(c for c, part in zip(data.change, data.part, strict=True) if part == "bound")
    text = f"{data.total:.4f} bit/weight stored, {data.total - bound:.4f} above R(D)".replace("-", "−")
    gains = [f"{name} {c:.4f}".replace("-", "−") for name, c in zip(data.step, data.change, strict=True) if c < -5e-5]
    return text + (f" · gained: {', '.join(gains)}" if gains else "")
