"""Tensors of files that other libraries have quantized."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from nbquant.quantization.blocks.block_codes import BlockCodes
from nbquant.quantization.blocks.block_format import BlockFormat

PIECE = 1 << 20  # weights read at a time


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A tensor of a quantized file, read in pieces of rows when asked for.

    Attributes:
        name: Name in the file.
        shape: Shape, in torch's order of axes; rows are the first axis, and a vector is one row.
        kind: Name of its block format, or of the type it is stored in.
        format: Its block format; None if it is stored unquantized, or in a format that is not decoded here.
        bits: Stored bits of it all.
        codes: codes(first, last) reads the codes of some rows, columns in the order of their groups, and parts as
            stored, so that over all rows each is read once; None without a block format.
        values: values(first, last) decodes some rows to float32; None if that is not possible.
        others: Names that it may have in the original network.
        heads: Number of heads into which the file's writer regrouped the rows of the original (GGUF's order of rotary
            embeddings); 0 if the order is the original's.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    format: BlockFormat | None
    bits: int
    codes: Callable[[int, int], BlockCodes] | None
    values: Callable[[int, int], Float32[np.ndarray, "rows columns"]] | None
    others: tuple[str, ...] = ()
    heads: int = 0

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Number of weights in a row."""
        return self.weights // self.rows if self.rows else 0

    def pieces(self) -> Iterator[tuple[int, int]]:
        """List ranges of rows of about :data:`PIECE` weights."""
        step = max(1, PIECE // max(self.columns, 1))
        for first in range(0, self.rows, step):
            yield first, min(first + step, self.rows)


@dataclass(frozen=True, eq=False)
class PackedFile:
    """A quantized file. Opening it reads names, types and shapes only.

    Attributes:
        path: The file.
        format: Name of the file's format.
        tensors: Its tensors by name, in the order of the file.
        metadata: What the writer says about the network, as plain text.
    """

    path: Path
    format: str
    tensors: Mapping[str, PackedTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedFileFormat:
    """A format of quantized files.

    A new format is one file with its functions and its record, and one line in
    :mod:`nbquant.formats.packed_files`.

    Attributes:
        name: Name of the format.
        sniff: sniff(path) tests whether a file has this format by its name or first bytes.
        open: open(path) reads names, types and shapes in bounded memory, and raises ValueError if they are damaged.
    """

    name: str
    sniff: Callable[[Path], bool]
    open: Callable[[Path], PackedFile]


def as_float32(stored: np.ndarray, dtype: str) -> Float32[np.ndarray, "..."]:
    """Copy an array of floating-point numbers to float32; too large ones become infinite.

    Args:
        stored: As numpy reads them.
        dtype: Their type in safetensors' spelling.
    """
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return stored.astype(np.float32)
