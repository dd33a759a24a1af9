"""Writing of GGUF files, version 3.

Source: the GGUF specification of the ggml project.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbquant.formats.gguf import ALIGNMENT, BLOCKS, INTEGERS, MAGIC, MOST_AXES, NAMES, PLAIN
from nbquant.quantization.blocks import formats as blocks
from nbquant.replacing import replacing

VERSION = 3
MOST_NAME = 64  # bytes
TYPES = {name: number for number, (name, *_) in (*PLAIN.items(), *INTEGERS.items())}
"""Number of each type of numbers, by its name, which is that of safetensors too."""
HELD = {
    NAMES.get(name, name): number for number, (name, *_) in BLOCKS.items() if NAMES.get(name, name) in blocks.names()
}
"""Number of each block format that we can write."""

_UINT32, _INT32, _FLOAT32, _BOOL, _TEXT, _ARRAY, _INT64 = 4, 5, 6, 7, 8, 9, 11
Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bool]


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to be written.

    Attributes:
        name: Name.
        shape: Shape, in torch's order.
        type: Number of its type.
        size: Bytes.
        pieces: pieces() yields these bytes in order.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    size: int
    pieces: Callable[[], Iterable[bytes | memoryview]]


def write_gguf(path: Path, tensors: Sequence[GgufTensor], metadata: Mapping[str, Value]) -> None:
    """Write a GGUF file, or replace it; on failure an existing file stays unchanged.

    Args:
        path: The file, in a folder that exists.
        tensors: Tensors in the order of the file.
        metadata: Metadata by key.

    Raises:
        ValueError: A name, shape or value that GGUF cannot hold.
        OSError: A folder that does not exist, is read-only or full.
    """
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    head += b"".join(_text(key) + _value(key, value) for key, value in metadata.items())
    offset = 0
    for tensor in tensors:
        _require_held(tensor)
        axes = tensor.shape[::-1] or (1,)
        head += _text(tensor.name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, tensor.type, offset)
        offset += _aligned(tensor.size)
    with replacing(path) as partial, partial.open("xb") as file:
        file.write(head + bytes(_aligned(len(head)) - len(head)))
        for tensor in tensors:
            written = sum(file.write(piece) for piece in tensor.pieces())
            assert written == tensor.size, f"{tensor.name}: {written} bytes of {tensor.size}"
            file.write(bytes(_aligned(written) - written))


def _require_held(tensor: GgufTensor) -> None:
    if len(tensor.name.encode()) > MOST_NAME:
        raise ValueError(f"names in GGUF have at most {MOST_NAME} bytes, but {tensor.name!r} has more: rename it.")
    if len(tensor.shape) > MOST_AXES or 0 in tensor.shape:
        raise ValueError(
            f"tensors in GGUF have at most {MOST_AXES} axes and at least one entry, but {tensor.name!r} has the shape "
            f"{tensor.shape}: reshape it, or leave it out."
        )


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Value) -> bytes:
    if not isinstance(value, Sequence) or isinstance(value, str):
        kind, raw = _typed(key, [value])
        return struct.pack("<I", kind) + raw
    kind, raw = _typed(key, value)
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + raw


def _typed(key: str, values: Sequence[str | bool | int | float]) -> tuple[int, bytes]:
    """Type and bytes of values, which must be of one type."""
    if all(isinstance(value, str) for value in values):
        return _TEXT, b"".join(_text(str(value)) for value in values)
    if all(isinstance(value, bool) for value in values):
        return _BOOL, bytes(map(bool, values))
    if all(type(value) is int for value in values):
        whole = [int(value) for value in values]
        for kind, letter, low, high in (
            *((_UINT32, "I", 0, 2**32), (_INT32, "i", -(2**31), 2**31), (_INT64, "q", -(2**63), 2**63)),
        ):
            if all(low <= value < high for value in whole):
                return kind, struct.pack(f"<{len(whole)}{letter}", *whole)
    elif all(type(value) is float for value in values):
        return _FLOAT32, struct.pack(f"<{len(values)}f", *values)
    raise ValueError(
        f"metadata of GGUF are texts, numbers, truth values, or lists of one of these, but {key!r} is "
        f"{str(values if len(values) != 1 else values[0])[:80]}: change or omit it."
    )
