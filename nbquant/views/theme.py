"""Common look of all figures: transparent background, and neutral colours that a front end replaces by its theme's.

No template is registered and no default changed: a figure carries its look in its own layout.
"""

from typing import Any

# Readable on white and on black where nothing replaces them (a still picture). Each stands for a role, by which
# ``widgets/front/figure_panel.js`` finds and replaces it, so a figure uses them for nothing else.
FOREGROUND = "#777879"
MUTED = "#868788"
GRID = "rgba(127, 128, 129, 0.25)"
BACKGROUND = "#fbfcfd"

LEGEND_BELOW: dict[str, Any] = {
    "bgcolor": "rgba(0,0,0,0)",
    "xanchor": "left",
    "x": 0,
    "y": 0,
    "yref": "container",
    "yanchor": "bottom",
}
"""A legend below the plot, where curves leave no corner free."""


def colour_bar(title: str, ticks: Any, texts: list[str]) -> dict[str, Any]:
    """Make the colour bar of a map.

    Args:
        title: Its title.
        ticks: Values with a tick.
        texts: What stands beside each.
    """
    return {
        "title": {"text": title, "side": "right", "font": {"size": FONT_SIZE}},
        "tickvals": ticks,
        "ticktext": texts,
        "thickness": 12,
        "outlinewidth": 0,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": MUTED,
        "xpad": 6,
    }


ROLES: dict[str, str] = {FOREGROUND: "foreground", MUTED: "muted", GRID: "grid", BACKGROUND: "background"}
"""Neutral colour -> role."""

FONT_SIZE = 12
TITLE_SIZE = 13


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """Make the layout of an axis.

    Args:
        title: Quantity with its unit.
        **settings: Plotly axis settings that extend or override the common ones.
    """
    common = {
        "title": {"text": title, "standoff": 6, "font": {"size": FONT_SIZE}},
        "gridcolor": GRID,
        "linecolor": MUTED,
        "tickcolor": MUTED,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "ticklabeloverflow": "allow",  # measuring whether a label sticks out takes a sixth of the drawing time
        "automargin": True,
    }
    return common | settings


Trace = dict[str, Any]
Figure = dict[str, Any]
"""A figure as plotly's JSON, with ``data`` and ``layout``, and arrays in place of lists.

It is not validated by plotly, which takes longer than everything else in a slider's tick;
``go.Figure(figure)`` validates it.
"""


def figure(title: str, subtitle: str, traces: list[Trace], **layout: Any) -> Figure:
    """Build a figure in the common look.

    Args:
        title: One short line.
        subtitle: A second, smaller line; may be empty.
        traces: Plotly traces, the last one on top.
        **layout: Plotly layout settings that extend or override the common ones.

    Returns:
        The figure, unvalidated.
    """
    common = {
        "template": {},  # otherwise plotly copies its default template, 7 kB, into every figure
        "title": {
            # plotly's own title.subtitle doubles the padding between the two
            "text": f"<b>{title}</b>" + f"<br><span style='font-size:{FONT_SIZE}px'>{subtitle}</span>" * bool(subtitle),
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 16 if subtitle else 8},
            "font": {"size": TITLE_SIZE},
        },
        "font": {"size": FONT_SIZE, "color": FOREGROUND},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 20, "t": 52 if subtitle else 36, "b": 44},
        "hoverlabel": {"bgcolor": BACKGROUND, "bordercolor": MUTED, "font": {"size": FONT_SIZE, "color": FOREGROUND}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": FOREGROUND, "orientation": "h"},
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "hovermode": "closest",
        "dragmode": "zoom",
        "autosize": True,
    }
    return {"data": traces, "layout": common | layout}
