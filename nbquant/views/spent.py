"""Figure of where the bits of a quantized file go, by tensor."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme
from nbquant.views.palette import BLUE, ORANGE, PURPLE, VERMILION


@dataclass(frozen=True)
class SpentData:
    """Numbers behind the figure of a quantized file's bits.

    Attributes:
        name: Tensors, in the order of the file.
        parts: Names of the parts of the stored bits.
        rate: Bits of each part [bit/weight]: parts × tensors.
    """

    name: tuple[str, ...]
    parts: tuple[str, ...]
    rate: Float[ndarray, "p t"]


_SPENT = {
    "needed by the bound": BLUE,
    "lost by the quantizer": ORANGE,
    "carried by codes and scales": BLUE,
    "codes not used fully": VERMILION,
    "scales not used fully": PURPLE,
}


def spent_data(rows: pd.DataFrame) -> SpentData:
    """Split the stored bits of each tensor: what the bound needs, what the quantizer loses, what codes do not use.

    Args:
        rows: From :func:`nbquant.inspect`.

    Raises:
        ValueError: No tensor in a block format.
    """
    missing = [name for name in ("name", "rate", "entropy", "code_entropy", "code_bits") if name not in rows]
    known = rows[rows["entropy"].notna()] if not missing else rows[:0]
    if not len(known):
        raise ValueError("rows of nbquant.inspect with tensors in block formats are required: pass its result.")
    codes = (known["code_bits"] - known["code_entropy"]).to_numpy(float)
    scales = (known["side_bits"] - known["side_entropy"]).to_numpy(float)
    used, bound = known["entropy"].to_numpy(float), known["bound_rate"].to_numpy(float)
    if np.isfinite(bound).all():
        first = {"needed by the bound": np.minimum(bound, used), "lost by the quantizer": np.maximum(used - bound, 0)}
    else:
        first = {"carried by codes and scales": used}
    parts = first | {"codes not used fully": codes, "scales not used fully": scales}
    return SpentData(tuple(known["name"]), tuple(parts), np.stack(list(parts.values())))


def spent_table(data: SpentData) -> pd.DataFrame:
    """Tabulate the bars."""
    rates = {f"{part} [bit/weight]": data.rate[i] for i, part in enumerate(data.parts)}
    return pd.DataFrame({"tensor": data.name} | rates)


def draw_spent(data: SpentData) -> theme.Figure:
    """Draw a bar for each tensor.

    Args:
        data: From :func:`spent_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    traces: list[theme.Trace] = [
        {
            "type": "bar",
            "x": np.arange(len(data.name)),
            "y": rate,
            "base": base,
            "width": np.ones(len(data.name)),
            "hovertext": list(data.name),
            "name": part,
            "marker": {"color": _SPENT[part], "line": {"width": 0}},
            "hovertemplate": "%{hovertext}<br>" + part + ": %{y:.3f} bit/weight<extra></extra>",
        }
        for part, rate, base in zip(data.parts, data.rate, np.cumsum(data.rate, 0) - data.rate, strict=True)
    ]
    few = len(data.name) <= 12
    ticks = {"tickvals": list(range(len(data.name))), "ticktext": list(data.name)} if few else {}
    return theme.figure(
        "Where the bits go",
        f"{len(data.name)} tensors in block formats, in the order of the file",
        traces,
        barmode="overlay",
        xaxis=theme.axis("tensor", **ticks),
        yaxis=theme.axis("rate [bit/weight]"),
        legend=theme.LEGEND_BELOW | {"orientation": "h"},
        margin={"l": 64, "r": 20, "t": 52, "b": 84, "autoexpand": False},
        showlegend=True,
        uirevision="spent",
    )
