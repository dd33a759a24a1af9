"""Writing of ONNX models: constants, and the nodes that make weights of them.

Source: the ONNX specification (onnx 1.23.2).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from pathlib import Path

from nbquant.formats.constant import packed_bytes
from nbquant.formats.onnx_model import TYPES
from nbquant.formats.protobuf import bytes_field, bytes_head, number_field
from nbquant.replacing import replacing

NUMBERS = {name: number for number, name in TYPES.items()}
"""Number of each type, by its name."""
IR_VERSIONS = {13: 7, 19: 9, 21: 10, 25: 13}
"""Version of the format that each version of the operators needs at least."""
MOST = (1 << 31) - 1  # bytes of a model, as readers of Protocol Buffers allow
_INTEGER = 2  # type of an attribute

Pieces = Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True)
class OnnxConstant:
    """A constant to be written.

    Attributes:
        name: Name.
        type: Name of its type, as safetensors spells it.
        shape: Shape.
        pieces: pieces() yields its bytes in order.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    pieces: Pieces

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return packed_bytes(self.type, prod(self.shape))


@dataclass(frozen=True)
class OnnxOperation:
    """A node to be written.

    Attributes:
        operator: Operator of ONNX.
        inputs: Names of its inputs.
        output: Name of its output.
        numbers: Attributes that are integers.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    numbers: Mapping[str, int] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Encode the node as a field of a graph."""
        raw = b"".join(bytes_field(1, name) for name in self.inputs) + bytes_field(2, self.output)
        raw += bytes_field(3, f"{self.output}/{self.operator}") + bytes_field(4, self.operator)
        for key, value in self.numbers.items():
            raw += bytes_field(5, bytes_field(1, key) + number_field(3, value) + number_field(20, _INTEGER))
        return bytes_field(1, raw)


@dataclass(frozen=True)
class Part:
    """Bytes of a known number, which come in pieces."""

    size: int
    pieces: Pieces

    @staticmethod
    def of(raw: bytes) -> "Part":
        """Make a part of bytes at hand."""
        return Part(len(raw), lambda: [raw])


def constant_part(constant: OnnxConstant) -> Part:
    """Encode a constant as a field of a graph."""
    head = b"".join(number_field(1, length) for length in constant.shape)
    head += number_field(2, NUMBERS[constant.type]) + bytes_field(8, constant.name)
    head += bytes_head(9, constant.size)
    whole = len(head) + constant.size

    def pieces() -> Iterable[bytes | memoryview]:
        return chain([bytes_head(5, whole) + head], constant.pieces())

    return Part(len(bytes_head(5, whole)) + whole, pieces)


def output_part(name: str, type: str, shape: Sequence[int]) -> Part:
    """Encode an output of a graph."""
    axes = b"".join(bytes_field(1, number_field(1, length)) for length in shape)
    tensor = number_field(1, NUMBERS[type]) + bytes_field(2, axes)
    return Part.of(bytes_field(12, bytes_field(1, name) + bytes_field(2, bytes_field(1, tensor))))


def opset_field(version: int) -> bytes:
    """Encode the version of ONNX's own operators as a field of a model."""
    return bytes_field(8, bytes_field(1, "") + number_field(2, version))


def write_onnx(path: Path, head: bytes, graph: Sequence[Part]) -> None:
    """Write a model, or replace it; on failure an existing file stays unchanged.

    Args:
        path: The file, in a folder that exists.
        head: Encoded fields of the model, without the graph.
        graph: Parts of the graph, in order.

    Raises:
        ValueError: More bytes than a model can have.
        OSError: A folder that does not exist, is read-only or full.
    """
    size = sum(part.size for part in graph)
    if size + len(head) > MOST - 32:
        raise ValueError(
            f"an ONNX model without external data has at most {MOST:,} bytes, but this would have "
            f"{size + len(head):,}: quantize to fewer bits, or write another format."
        )
    with replacing(path) as partial, partial.open("xb") as file:
        file.write(head + bytes_head(7, size))
        for part in graph:
            written = sum(file.write(piece) for piece in part.pieces())
            assert written == part.size, f"{written} bytes of {part.size}"
