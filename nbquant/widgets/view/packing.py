"""Pack curves and figures for a page: few points, few bytes a cluster, one text."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbquant.analysis.live import LiveTable
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.widgets.front.figure_panel import binary

FEW_LEVELS = 40  # up to which all points are kept: they take little room


def thinned(points: Sequence[OperatingPoint], most: int) -> list[OperatingPoint]:
    """Points about evenly apart in the logarithm of the ratio, the first and last, and all with few levels."""
    if len(points) <= most:
        return list(points)
    place = np.log([p.compression_ratio for p in points])
    wanted = np.linspace(place.min(), place.max(), most)
    chosen = {0, len(points) - 1, *(int(np.abs(place - each).argmin()) for each in wanted)}
    chosen |= {i for i, p in enumerate(points) if p.levels <= FEW_LEVELS}
    return [points[i] for i in sorted(chosen)]


def packed_clusters(table: LiveTable) -> dict[str, Any]:
    """Clusters of a group in few bytes: centres to 2⁻¹⁵ of the largest, lengths to 2⁻⁸ bit."""
    most = float(np.abs(table.centre).max(initial=0)) or 1.0
    found: dict[str, Any] = {
        "start": table.start,
        "scale": most / 32767,
        "centre": np.round(table.centre * (32767 / most)).astype(np.int16),
        "count": table.count.astype(np.uint32),
        "length": np.round(table.length * 256).astype(np.uint16),
        "mean_h": table.mean_h,
        "intervals": table.threshold is not None,
    }
    if table.threshold is not None and not _are_middles(table):
        found["threshold"] = table.threshold
    return found


def _are_middles(table: LiveTable) -> bool:
    """Whether boundaries lie in the middle between centres, where the page can compute them."""
    assert table.threshold is not None
    middle = (table.centre[1:] + table.centre[:-1]) / 2
    inside = np.isfinite(table.threshold[:-1])
    return bool(np.allclose(table.threshold[:-1][inside], middle[inside], rtol=1e-4, atol=1e-7))


def single(values: np.ndarray) -> np.ndarray:
    """Round to float32: more is not seen."""
    return values.astype(np.float32)


def packed(value: Any) -> str:
    """JSON with its bytes behind it, gzipped, as text; page.js reads it."""
    chunks: list[bytes] = []
    places: dict[bytes, list[int]] = {}  # equal ones are stored once

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return plain(binary(value))
        if isinstance(value, bytes):
            if value not in places:
                places[value] = [sum(map(len, chunks)), len(value)]
                chunks.append(value + bytes(-len(value) % 8))
            return {"$": places[value]}
        if isinstance(value, Mapping):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return value.item() if isinstance(value, np.generic) else value

    head = json.dumps(plain(value), allow_nan=False, separators=(",", ":")).encode()
    whole = len(head).to_bytes(8, "little") + head + bytes(-len(head) % 8) + b"".join(chunks)
    return base64.b64encode(gzip.compress(whole, 6, mtime=0)).decode()
