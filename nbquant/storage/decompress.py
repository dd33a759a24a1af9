"""Decompression of .nbq files to safetensors, piece by piece."""

import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path

from torch import Tensor

from nbquant.coding.positions import BLOCK_ENTRIES
from nbquant.progress import Progress, track
from nbquant.storage.dtypes import entry_bytes
from nbquant.storage.layout import QuantizedEntry, RawEntry
from nbquant.storage.metadata import OWN
from nbquant.storage.stored import load
from nbquant.tensorfile import stream_tensors


def decompress(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    progress: Progress = True,
) -> None:
    """Restore all tensors of a .nbq file to a safetensors file, with their original names, shapes and types.

    Memory is bounded whatever their size. Each tied name is written with its own entries, as
    ``load_state_dict`` requires. The metadata are those of the original checkpoint; under "nbquant" they
    record the quantization, and which names are tied.

    Args:
        path: The .nbq file.
        out: The safetensors file to write; if writing fails, an existing file stays unchanged.
        max_bytes: As for :func:`nbquant.load`.
        progress: See :data:`nbquant.progress.Progress`; counts pieces.

    Raises:
        CorruptFileError: As :func:`nbquant.load`, or content that does not decode.
        ValueError: ``out`` with another ending.
        OSError: A file or folder that does not exist, is read-only or full.
        Cancelled: By ``progress``.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"the name of the file must end in .safetensors, but {out.name!r} came: add the ending.")
    stored = load(path, max_bytes=max_bytes)
    entries = {name: stored.entry(name) for name in stored.names}
    ticks = track(range(sum(map(_pieces, entries.values()))), "restore", progress)

    def pieces(name: str) -> Iterator[Tensor]:
        for piece in stored.chunks(name):
            yield piece
            next(ticks, None)

    tied = {name: entry.name for name, entry in entries.items() if name != entry.name}
    stream_tensors(
        out,
        {name: (e.dtype, e.shape, prod(e.shape) * entry_bytes(e.dtype)) for name, e in entries.items()},
        pieces,
        {"format": "pt", **stored.metadata, OWN: json.dumps({"recipe": stored.recipe, "tied": tied}, sort_keys=True)},
    )


def _pieces(entry: QuantizedEntry | RawEntry) -> int:
    return -(-prod(entry.shape) // BLOCK_ENTRIES)
