"""Drawing of heat maps."""

from typing import Any

import numpy as np

from nbquant.views import theme
from nbquant.views.heatmap import HeatmapData

_ZERO_COLOUR = "#9a9a9a"  # viridis has no grey
_MUTED = {"color": theme.MUTED}


def draw_heatmap(data: HeatmapData) -> theme.Figure:
    """Draw the map; zeros are grey.

    Args:
        data: From :func:`heatmap_data` or :func:`error_data`.

    Returns:
        The figure as plotly's JSON, unvalidated, as the explorer sends it.
    """
    z = data.log_value
    rows, columns = z.shape
    where = {
        "x0": data.column_start + data.column_step / 2,
        "dx": data.column_step,
        "y0": data.row_start + data.row_step / 2,
        "dy": data.row_step,
    }
    place = f"{data.row_title} %{{y:.0f}}, " * bool(data.row_title) + f"{data.column_title} %{{x:.0f}}"
    if data.wrapped:
        place = f"{data.row_title} %{{y:.0f}} × {data.wrapped} + %{{x:.0f}}"
    decade = np.arange(np.ceil(data.low), np.floor(data.high) + 1)
    if len(decade) < 2:
        decade = np.array([data.low, data.high])
    traces = []
    zero = np.isnan(z)
    if zero.any():
        traces.append(
            dict(
                type="heatmap",
                z=np.where(zero, np.float32(0), np.float32(np.nan)),
                colorscale=[[0, _ZERO_COLOUR], [1, _ZERO_COLOUR]],
                showscale=False,
                hovertemplate=f"{place}<br>{data.symbol} = 0<extra></extra>",
                hoverongaps=False,
                **where,
            )
        )
    traces.append(
        dict(
            type="heatmap",
            z=z,
            zmin=data.low,
            zmax=data.high,
            colorscale="Viridis",
            colorbar=theme.colour_bar(f"{data.called} [{data.unit}]", decade, [_power(float(d)) for d in decade]),
            hovertemplate=f"{place}<br>{data.called} = 10^%{{z:.2f}} {data.unit}<extra></extra>",
            hoverongaps=False,
            **where,
        )
    )
    notes = []
    if data.weights_per_cell > 1:
        some = f"{data.weights_read:,} of the " if data.weights_read < data.weights_per_cell else ""
        notes.append(f"{data.pooling} of {some}{data.weights_per_cell:,} weights per cell")
    if data.zero_share > 0:
        share = f"{data.zero_share:.1%}" if data.zero_share >= 0.0005 else "under 0.1%"
        notes.append(f"{share} of {data.symbol} is zero" + (" (grey)" if zero.any() else ""))
    bottom, right = data.row_start + rows * data.row_step, data.column_start + columns * data.column_step
    whole: dict[str, Any] = {"tickformat": "d", "showgrid": False, "minallowed": -0.5, "nticks": 8}
    down: dict[str, Any] = {"title": data.row_title, "showticklabels": bool(data.row_title)}
    title = data.column_title
    if data.wrapped:
        line = np.arange(0, round(bottom + 0.5), max(1, -(-round(bottom + 0.5) // 8)))
        down |= {"title": f"{data.row_title} (first of row)", "tickvals": line, "ticktext": line * data.wrapped}
        title = "position in row"
    return theme.figure(
        data.title,
        " · ".join(notes) or "one weight per cell",
        traces,
        xaxis=theme.axis(title, range=[data.column_start, right], maxallowed=right, **whole),
        yaxis=theme.axis(range=[bottom, data.row_start], maxallowed=bottom, **(whole | down)),
        uirevision=f"{data.name} {data.shape}",
    )


def draw_equal_sensitivities(name: str) -> theme.Figure:
    """Draw a placeholder for the heat map: there are no sensitivities.

    Args:
        name: Name of the layer or parameter.
    """
    return draw_nothing(
        f"Hessian diagonal – {name}",
        "h = 1",
        "no sensitivities: all weights count equally<br>pass some by explore(…, sensitivity=…)",
    )


def draw_nothing(title: str, subtitle: str, text: str) -> theme.Figure:
    """Draw a placeholder for a map that has no values.

    Args:
        title: Its title.
        subtitle: Its second line.
        text: What stands in its place.
    """
    hidden = {"visible": False, "range": [0, 1]}
    said = {"text": text, "showarrow": False, "x": 0.5, "y": 0.5, "font": _MUTED}
    return theme.figure(title, subtitle, [], xaxis=hidden, yaxis=hidden, annotations=[said])


def _power(exponent: float) -> str:
    return f"1e{exponent:.0f}" if float(exponent).is_integer() else f"{10**exponent:.1e}"
