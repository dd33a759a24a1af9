"""Heat map of the bits that layers waste: by format, by file, or by part of the layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.views import theme

_LAYER = re.compile(r"(.*?(?:^|\.)\d+)\.(.+)")  # "blk.0" and "attn_q.weight"
_WHOLE = "whole"  # column of tensors that are in no numbered layer
_MOST_TICKS = 20


@dataclass(frozen=True)
class WastedData:
    """Numbers behind the heat map of wasted bits.

    Attributes:
        row: Name of each row: a layer or a tensor.
        column: Name of each column: a format, a file, or a part of a layer.
        wasted: Stored bits above the limit [bit/weight], rows × columns; NaN where there is nothing.
        limit: What they are above: "bound", or "entropy" where the original is unknown.
        of: What columns are: "format", "file" or "part".
    """

    row: tuple[str, ...]
    column: tuple[str, ...]
    wasted: Float[ndarray, "r c"]
    limit: str
    of: str


def wasted_data(rows: pd.DataFrame | Mapping[str, pd.DataFrame]) -> WastedData:
    """Arrange the wasted bits by layer.

    Args:
        rows: From :func:`nbquant.compare_formats` with ``by_layer`` (rows with searched scales are shown); from
            :func:`nbquant.inspect`; or several such inspections by label, whose tensors are matched by their names in
            the original, where known.

    Raises:
        ValueError: No rows with wasted bits.
    """
    if isinstance(rows, Mapping):
        return _of_files(rows)
    if "layer" in rows:
        searched = rows[rows["search"].astype(bool) & rows["bits_wasted"].notna()]
        values = zip(searched["layer"], searched["format"], searched["bits_wasted"], strict=True)
        entries = [(str(layer), str(form), float(wasted)) for layer, form, wasted in values]
        return _arranged(entries, "bound", "format")
    known, limit = _with_limit(rows, [rows])
    entries = [(*_split(name), float(wasted)) for name, wasted in zip(known["name"], known["wasted"], strict=True)]
    return _arranged(_in_layers(entries), limit, "part")


def _of_files(files: Mapping[str, pd.DataFrame]) -> WastedData:
    entries, limit = [], "bound"
    for label, rows in files.items():
        known, limit = _with_limit(rows, list(files.values()))
        names = known["original"].where(known["original"].notna(), known["name"]) if "original" in known else None
        names = known["name"] if names is None else names
        entries += [(name, label, value) for name, value in zip(names, known["wasted"], strict=True)]
    return _arranged(entries, limit, "file")


def _with_limit(rows: pd.DataFrame, files: list[pd.DataFrame]) -> tuple[pd.DataFrame, str]:
    """Tensors in block formats with the bits above the limit that is known in all files."""
    missing = [name for name in ("name", "rate", "entropy", "bits_wasted") if name not in rows]
    if missing:
        if "format" in rows and "name" in missing:
            raise ValueError(
                'this picture shows the tensors of a file (nbquant.inspect), but the rows are of formats: draw "plane".'
            )
        raise ValueError(f"rows of nbquant.inspect are required, but {', '.join(missing)} is missing: pass its result.")
    bounded = all(each["bits_wasted"].notna().any() for each in files if "bits_wasted" in each)
    wasted = rows["bits_wasted"] if bounded else rows["rate"] - rows["entropy"]
    found = rows.assign(wasted=wasted)
    return found[wasted.notna()], "bound" if bounded else "entropy"


def _split(name: str) -> tuple[str, str]:
    """Layer and part of a tensor: "blk.0.attn_q.weight" is part "attn_q" of layer "blk.0"."""
    found = _LAYER.fullmatch(name)
    layer, part = found.groups() if found else (name, _WHOLE)
    return layer.removesuffix(".weight"), part.removesuffix(".weight")


def _in_layers(entries: list[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    """The same with numbered layers by their numbers, each kind where its first one is: files have 10 before 2."""
    first: dict[str, int] = {}
    for layer, _, _ in entries:
        first.setdefault(layer.rstrip("0123456789"), len(first))

    def place(entry: tuple[str, str, float]) -> tuple[int, int]:
        stem = entry[0].rstrip("0123456789")
        return first[stem], int(entry[0][len(stem) :] or 0)

    return sorted(entries, key=place)


def _arranged(entries: list[tuple[str, str, float]], limit: str, of: str) -> WastedData:
    """Rows and columns in the order they come; where a place comes twice, the mean."""
    if not entries:
        raise ValueError(
            "rows with wasted bits are required, but there are none: pass the result of nbquant.inspect, or of "
            "nbquant.compare_formats(selection, by_layer=True)."
        )
    row = tuple(dict.fromkeys(r for r, _, _ in entries))
    column = tuple(dict.fromkeys(c for _, c, _ in entries))
    of_row, of_column = ({name: i for i, name in enumerate(names)} for names in (row, column))
    total, count = np.zeros((len(row), len(column))), np.zeros((len(row), len(column)))
    for r, c, value in entries:
        total[of_row[r], of_column[c]] += value
        count[of_row[r], of_column[c]] += 1
    with np.errstate(invalid="ignore"):
        return WastedData(row, column, total / count, limit, of)


def wasted_table(data: WastedData) -> pd.DataFrame:
    """Tabulate the map, a row for each of its rows."""
    return pd.DataFrame(data.wasted, index=pd.Index(data.row, name="layer"), columns=list(data.column)).reset_index()


def draw_wasted(data: WastedData) -> theme.Figure:
    """Draw the heat map: rows are layers from top to bottom.

    Args:
        data: From :func:`wasted_data`.

    Returns:
        The figure as plotly's JSON, unvalidated.
    """
    rows, columns = data.wasted.shape
    most = max(float(np.nanmax(data.wasted)), 1e-3)
    least = min(float(np.nanmin(data.wasted)), most - 1e-3)
    ticks = np.linspace(least, most, 5)
    hover = [[f"{r}, {c}" for c in data.column] for r in data.row]
    title = f"bits above the {data.limit} [bit/weight]"
    trace: theme.Trace = {
        "type": "heatmap",
        "z": data.wasted,
        "x0": 0,
        "dx": 1,
        "y0": 0,
        "dy": 1,
        "zmin": least,
        "zmax": most,
        "xgap": 1,
        "ygap": 1,
        "colorscale": "Viridis",
        "text": hover,
        "hovertemplate": f"%{{text}}<br>%{{z:.3f}} bit/weight above the {data.limit}<extra></extra>",
        "hoverongaps": False,
        "colorbar": theme.colour_bar(title, ticks, [f"{tick:.2f}" for tick in ticks]),
    }
    whole, (worst, best) = data.wasted, (np.nanargmax(data.wasted), np.nanargmin(data.wasted))
    named = [f"{data.row[i // columns]}, {data.column[i % columns]}: {whole.flat[i]:.2f}" for i in (worst, best)]
    return theme.figure(
        "Where bits are wasted",
        f"most in {named[0]} · least in {named[1]} bit/weight",
        [trace],
        xaxis=theme.axis(data.of, showgrid=False, range=[-0.5, columns - 0.5], **_ticks(data.column, 16)),
        yaxis=theme.axis("", showgrid=False, range=[rows - 0.5, -0.5], **_ticks(data.row, _MOST_TICKS)),
        uirevision="wasted",
    )


def _ticks(names: tuple[str, ...], most: int) -> dict[str, list[int] | list[str]]:
    """Names of rows or columns, some of them where there are many."""
    shown = list(range(0, len(names), -(-len(names) // most)))
    return {"tickvals": shown, "ticktext": [names[i] for i in shown]}
