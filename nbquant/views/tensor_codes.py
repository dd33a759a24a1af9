"""Figure of a quantized tensor: the weights it restores, and the levels of its codes over them."""

import numpy as np
import pandas as pd

from nbquant.analysis.tensor_codes import TensorCodes
from nbquant.views import theme
from nbquant.views.palette import SKY, VERMILION

_FEW = 40  # codes up to which the spread of each is drawn


def tensor_codes_table(data: TensorCodes) -> pd.DataFrame:
    """Tabulate the codebook: a row for each code."""
    share = data.count / max(int(data.count.sum()), 1)
    with np.errstate(divide="ignore"):
        length = -np.log2(share)
    return pd.DataFrame(
        {
            "code": np.arange(len(data.level)),
            "level": data.level,
            "mean weight": data.mean,
            "spread over blocks": data.spread,
            "weights": data.count,
            "share": share,
            "ideal length [bit]": length,
        }
    )


def _step(most: float) -> float:
    """A round distance of about five ticks."""
    power = 10.0 ** np.floor(np.log10(most / 5))
    return float(next(power * by for by in (1, 2, 5, 10) if power * by >= most / 5))


def draw_tensor_codes(data: TensorCodes) -> theme.Figure:
    """Draw the histogram of restored weights, and each code at the mean weight it restores, as wide as blocks spread.

    Args:
        data: From :func:`nbquant.analysis.tensor_codes.tensor_codes`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    edge, top = data.edge, max(float(data.height.max()), 1.0)
    traces: list[theme.Trace] = [
        {
            "type": "bar",
            "x": (edge[1:] + edge[:-1]) / 2,
            "y": data.height,
            "width": np.diff(edge),
            "marker": {"color": SKY, "opacity": 0.75, "line": {"width": 0}},
            "hovertemplate": "weight %{x:.4g}<br>%{y:,} weights<extra></extra>",
            "name": "restored weights",
        }
    ]
    used = np.flatnonzero(data.count > 0)
    further = {}
    if len(used):
        share = 100 * data.count[used] / data.count.sum()
        mean, spread = data.mean[used], data.spread[used]
        gap = np.full(len(used), np.nan)
        if len(used) <= _FEW:
            traces.append(
                {
                    "type": "scatter",
                    "x": np.stack([mean - spread, mean + spread, gap], 1).reshape(-1),
                    "y": np.stack([share, share, gap], 1).reshape(-1),
                    "yaxis": "y2",
                    "mode": "lines",
                    "line": {"color": VERMILION, "width": 1.5},
                    "hoverinfo": "skip",
                    "name": "spread over blocks",
                }
            )
        traces.append(
            {
                "type": "scatter",
                "x": mean,
                "y": share,
                "yaxis": "y2",
                "mode": "markers",
                "marker": {"color": VERMILION, "size": 7 if len(used) <= _FEW else 4},
                "customdata": np.stack([used, data.level[used], spread, data.count[used]], 1),
                "hovertemplate": "code %{customdata[0]}, level %{customdata[1]:.4g}<br>restores %{x:.4g} ± "
                "%{customdata[2]:.2g}<br>%{customdata[3]:,} weights (%{y:.3g} %)<extra></extra>",
                "name": "codes",
            }
        )
        further["yaxis2"] = theme.axis(
            "share of the codes [%]",
            automargin=False,
            overlaying="y",
            side="right",
            range=[0, 1.12 * float(share.max())],
            showgrid=False,
            tickmode="linear",  # by default plotly matches the other axis' ticks, at 7.38 % and the like
            dtick=_step(float(share.max())),
            color=VERMILION,
            tickcolor=VERMILION,
            linecolor=VERMILION,
        )
    unused = len(data.level) - len(used)
    parts = [f"{data.format}, {int(data.height.sum()):,} weights"]
    if len(data.level):
        parts.append(f"{len(used)} of {len(data.level)} codes used" if unused else f"all {len(data.level)} codes used")
        parts.append(f"{data.blocks:,} blocks")
    return theme.figure(
        f"Codes – {data.name}",
        " · ".join(parts),
        traces,
        margin={"l": 64, "r": 64, "t": 56, "b": 44, "autoexpand": False},
        xaxis=theme.axis("weight", automargin=False, range=[float(edge[0]), float(edge[-1])], showgrid=False),
        yaxis=theme.axis("weights per bar", automargin=False, range=[0, 1.08 * top]),
        **further,
        bargap=0,
        barmode="overlay",
        showlegend=False,
        uirevision=data.name,
    )
