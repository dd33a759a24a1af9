"""Table of the contents of a file."""

from collections.abc import Mapping
from math import prod

import pandas as pd

from nbquant.models.layers import owner
from nbquant.storage.dtypes import entry_bytes
from nbquant.storage.layout import Layout, QuantizedEntry, RawEntry


def frame_of(layout: Layout, entries: Mapping[str, QuantizedEntry | RawEntry]) -> pd.DataFrame:
    """Tabulate all names: layer, kind of storage, and size.

    ``nonzero`` counts unpruned weights. ``bytes``, ``bit/weight`` and ``ratio`` leave out what tensors
    share: codebooks, tables and header.
    """
    rows = []
    for name, entry in entries.items():
        weights, size = prod(entry.shape), entry.size
        nonzero, levels, how = weights, None, "unchanged"
        if isinstance(entry, QuantizedEntry):
            nonzero = sum(block.weights for block in entry.blocks)
            levels, how = layout.codebooks[entry.codebook].levels, "quantized"
        if name != entry.name:
            size, how = 0, f"tied to {entry.name}"
        rows.append(
            {
                "name": name,
                "layer": owner(name),
                "shape": "×".join(map(str, entry.shape)),
                "dtype": entry.dtype,
                "stored": how,
                "weights": weights,
                "nonzero": nonzero,
                "levels": levels,
                "bytes": size,
                "bit/weight": 8 * size / weights if weights else None,
                "ratio": weights * entry_bytes(entry.dtype) / size if size else None,
            }
        )
    floats = {"bit/weight": "float64", "ratio": "float64", "levels": "Int64"}
    columns = ["name", "layer", "shape", "dtype", "stored", "weights", "nonzero", "levels", "bytes", *floats]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns))).astype(floats)
