"""Constants of models stored as graphs, such as ONNX and Core ML."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from jaxtyping import Float32

from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.tensorfile import FLOATS

KINDS = {
    "F32": ("<f4", 32), "U8": ("|u1", 8), "I8": ("|i1", 8), "U16": ("<u2", 16), "I16": ("<i2", 16), "I32": ("<i4", 32),
    "I64": ("<i8", 64), "BOOL": ("|u1", 8), "F16": ("<f2", 16), "F64": ("<f8", 64), "U32": ("<u4", 32),
    "U64": ("<u8", 64), "C64": ("<c8", 64), "C128": ("<c16", 128), "BF16": ("<u2", 16), "F8_E4M3": ("|u1", 8),
    "F8_E4M3FNUZ": ("|u1", 8), "F8_E5M2": ("|u1", 8), "F8_E5M2FNUZ": ("|u1", 8), "U4": ("|u1", 4), "I4": ("|u1", 4),
    "F4": ("|u1", 4), "F8_E8M0": ("|u1", 8), "U2": ("|u1", 2), "I2": ("|u1", 2), "U1": ("|u1", 1), "U3": ("|u1", 3),
    "U6": ("|u1", 6),
}  # fmt: skip
"""Types, as safetensors spells them: how numpy reads them, and bits; those of less than a byte are packed."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of a model.

    Attributes:
        name: Name.
        type: Name of its type, as safetensors spells it.
        shape: Shape.
        file: The file that holds its bytes.
        offset: First byte.
        size: Bytes as stored.
        read: read() maps the numbers as a vector, or decodes them from a list; several to a byte below 8 bits.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int
    read: Callable[[], np.ndarray]

    @property
    def count(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of the numbers, with those that fill up the last byte."""
        return 8 * packed_bytes(self.type, self.count)

    def floats(self) -> Float32[np.ndarray, " n"]:
        """Read floating-point numbers as a vector."""
        return as_float32(self.read(), self.type)

    def plain(self) -> PackedTensor:
        """Make the record of a constant that is not quantized."""
        values = None
        if self.type in FLOATS:
            columns = self.count // self.shape[0] if len(self.shape) > 1 else self.count
            values = partial(self._rows, columns)
        return PackedTensor(self.name, self.shape, self.type, None, self.bits, None, values)

    def _rows(self, columns: int, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        return as_float32(self.read().reshape(-1, columns)[first:last], self.type)


def packed_bytes(type: str, count: int) -> int:
    """Count the bytes of so many numbers of a type."""
    return (count * KINDS[type][1] + 7) // 8


def mapped(path: Path) -> mmap.mmap | bytes:
    """Map a file; an empty one, which cannot be mapped, is no bytes."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.read(1) else b""


def leaves_folder(location: str) -> bool:
    """Whether a path may lead out of the folder that it is relative to, or is none."""
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    outside = ".." in parts or PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    return not parts or outside or "\0" in location
