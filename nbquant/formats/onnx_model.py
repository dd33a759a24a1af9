"""ONNX models: constants and the nodes that read them, without the onnx library.

The library parses a model, with all weights in it, into memory twice; here weights stay in the mapped file, or in the
files beside it that hold external data.

Source: the ONNX specification, IR version 13 (onnx 1.23.2).
"""

import mmap
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from nbquant.formats.constant import KINDS, Constant, leaves_folder, mapped, packed_bytes
from nbquant.formats.protobuf import BYTES, DamagedMessageError, Field, Message, unpack_varints

MOST_AXES = 16

TYPES = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 12: "U32",
    13: "U64", 14: "C64", 15: "C128", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ",
    21: "U4", 22: "I4", 23: "F4", 24: "F8_E8M0", 25: "U2", 26: "I2",
}  # fmt: skip
"""Types of tensors, as safetensors spells them."""
TEXT = 8  # type of a tensor of texts, which is not read

# Numbers of the fields.
GRAPH, OPSETS = 7, 8
INITIALIZER, INPUT_OF_GRAPH = 5, 11
_NODE = 1
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _WHERE = 1, 2, 8, 9, 13, 14
_LISTS = {4: (1,), 5: (2, 3, 4, 5, 6, 9, 10, *range(16, 27)), 7: (7,), 10: (11,), 11: (12, 13)}
"""Fields of typed lists of numbers, and the types of tensors that use each."""


@dataclass(frozen=True)
class OnnxNode:
    """A node of the graph.

    Attributes:
        operator: Its operator, with the domain if that is not ONNX's own: "com.microsoft.MatMulNBits".
        inputs: Names of its inputs; "" for one that is left out.
        outputs: Names of its outputs.
        numbers: Its attributes that are integers.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: Mapping[str, int]

    def input(self, index: int) -> str:
        """Look up the name of an input; "" if there is none."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An open model.

    Attributes:
        path: The file.
        tensors: Its constants by name, in the order of the file.
        nodes: Its nodes with the operators asked for.
        initializers: Names of the constants that are initializers of the graph, not nodes.
        message: The whole model.
    """

    path: Path
    tensors: Mapping[str, Constant]
    nodes: tuple[OnnxNode, ...]
    initializers: Collection[str]
    message: Message

    def damaged(self, name: str, how: str) -> ValueError:
        """Make the error of a tensor that does not fit."""
        return _damaged(self.path, f"tensor {name!r} {how}")

    def require(self, name: str, types: Collection[str], count: int | None = None) -> np.ndarray:
        """Map a part of a quantized weight as a vector.

        Args:
            name: Its name.
            types: Types that it may have.
            count: Number of entries that it must have.

        Raises:
            ValueError: No such constant, or one of another type, or of another number of entries.
        """
        if name not in self.tensors:
            raise self.damaged(name, "is required as a constant, but is none")
        found = self.tensors[name]
        if found.type not in types or (count is not None and found.count != count) or not found.count:
            many = "" if count is None else f" with {count:,} entries"
            raise self.damaged(name, f"must be {' or '.join(types)}{many}, but is {found.type} of shape {found.shape}")
        return found.read()


def open_model(path: Path, operators: Collection[str]) -> OnnxModel:
    """Read names, types and places of constants, and the nodes with some operators.

    Raises:
        ValueError: A damaged model, or external data that are missing, cut, or outside the folder.
        OSError: A file that cannot be read.
    """
    data = mapped(path)
    if isinstance(data, bytes):
        raise _damaged(path, "it is empty")
    try:
        return _read(path, Message(data, 0, len(data)), operators)
    except DamagedMessageError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, how: str) -> ValueError:
    return ValueError(f"{str(path)!r} must be a complete ONNX model, but {how}: get the file again.")


@dataclass
class _Found:
    """What a graph holds, as it is read."""

    path: Path
    tensors: dict[str, Constant] = field(default_factory=dict)
    nodes: list[OnnxNode] = field(default_factory=list)
    initializers: list[str] = field(default_factory=list)
    files: dict[Path, mmap.mmap | bytes] = field(default_factory=dict)


def _read(path: Path, message: Message, operators: Collection[str]) -> OnnxModel:
    graphs = [message.part(f) for f in message.fields() if f.number == GRAPH]
    if len(graphs) != 1:
        raise DamagedMessageError(f"it has {len(graphs)} graphs, not one")
    found = _Found(path)
    for entry in graphs[0].fields():
        if entry.number == INITIALIZER:
            constant = _tensor(found, graphs[0].part(entry), None)
            _add(found, constant)
            found.initializers += [] if constant is None else [constant.name]
        elif entry.number == _NODE:
            _node(found, graphs[0].part(entry), operators)
    _require_apart(found.tensors.values())
    return OnnxModel(path, found.tensors, tuple(found.nodes), tuple(found.initializers), message)


def _add(found: _Found, tensor: Constant | None) -> None:
    if tensor is None:
        return
    if tensor.name in found.tensors:
        raise DamagedMessageError(f"tensor {tensor.name!r} comes twice")
    found.tensors[tensor.name] = tensor


def _node(found: _Found, message: Message, operators: Collection[str]) -> None:
    fields = list(message.fields())
    texts = {n: [message.text(f) for f in fields if f.number == n] for n in (_OPERATOR, _DOMAIN, _INPUT, _OUTPUT)}
    domain = "".join(texts[_DOMAIN])
    operator = f"{domain}.{''.join(texts[_OPERATOR])}" if domain not in ("", "ai.onnx") else "".join(texts[_OPERATOR])
    attributes = [message.part(f) for f in fields if f.number == _ATTRIBUTE]
    if operator == "Constant" and texts[_OUTPUT]:
        for attribute in attributes:
            for entry in attribute.fields():
                if entry.number == 5:
                    _add(found, _tensor(found, attribute.part(entry), texts[_OUTPUT][0]))
    elif operator in operators:
        numbers = dict(filter(None, map(_number, attributes)))
        found.nodes.append(OnnxNode(operator, tuple(texts[_INPUT]), tuple(texts[_OUTPUT]), numbers))


def _number(attribute: Message) -> tuple[str, int] | None:
    """Name and value of an attribute that is an integer."""
    name, value = "", None
    for entry in attribute.fields():
        if entry.number == 1:
            name = attribute.text(entry)
        elif entry.number == 3:
            value = attribute.integers(entry)
    return None if not value else (name, value[-1])


def _tensor(found: _Found, message: Message, name: str | None) -> Constant | None:
    """A constant, under its own or another name; None for texts."""
    shape: list[int] = []
    number, external, contents = 0, False, dict[int, list[Field]]()
    places: dict[str, str] = {}
    for entry in message.fields():
        if entry.number == _DIMS:
            shape += message.integers(entry)
        elif entry.number == _TYPE:
            number = entry.value
        elif entry.number == _NAME and name is None:
            name = message.text(entry)
        elif entry.number == _WHERE:
            external = entry.value == 1
        elif entry.number == _EXTERNAL:
            places |= [_pair(message.part(entry))]
        elif entry.number == _RAW or entry.number in _LISTS:
            contents.setdefault(entry.number, []).append(entry)
    name = name or ""
    if number == TEXT:
        return None
    if number not in TYPES:
        raise DamagedMessageError(f"tensor {name!r} has the unknown type {number}")
    if len(shape) > MOST_AXES or any(n < 0 for n in shape):
        raise DamagedMessageError(f"tensor {name!r} has the shape {tuple(shape[:MOST_AXES])}")
    kind = TYPES[number]
    dtype = KINDS[kind][0]
    count = prod(shape)
    size = packed_bytes(kind, count)
    if external:
        return _external(found, name, number, tuple(shape), size, places)
    if not count:
        return Constant(name, kind, tuple(shape), found.path, 0, 0, lambda: np.empty(0, dtype))
    entries = [(number, entry) for number, each in contents.items() for entry in each]
    if len(entries) != 1 or entries[0][1].kind != BYTES:
        raise DamagedMessageError(f"tensor {name!r} has {len(entries)} lists of numbers, not one that is packed")
    which, entry = entries[0]
    if which != _RAW and number not in _LISTS[which]:
        raise DamagedMessageError(f"tensor {name!r} of {kind} has its numbers in field {which}")
    listed = which in (5, 7, 11)
    given, width = entry.end - entry.start, np.dtype(dtype).itemsize
    if (given < size // width) if listed else (given != size):
        raise DamagedMessageError(f"tensor {name!r} of {kind} and shape {tuple(shape)} has {given:,} bytes of {size:,}")
    data, start = message.data, entry.start

    def read() -> np.ndarray:
        if not listed:
            return np.frombuffer(data, dtype, size // width, start)
        return _of_list(name, found.path, np.frombuffer(data, np.uint8, given, start), dtype, size)

    return Constant(name, kind, tuple(shape), found.path, start, given, read)


def _of_list(name: str, path: Path, raw: np.ndarray, dtype: str, size: int) -> np.ndarray:
    """Decode numbers from a list of varints, each of which holds the bits of one of them."""
    width = np.dtype(dtype).itemsize
    try:
        values = unpack_varints(raw)
    except DamagedMessageError as error:
        raise _damaged(path, f"tensor {name!r} has numbers, but {error}") from None
    if len(values) * width != size:
        raise _damaged(path, f"tensor {name!r} has {len(values):,} numbers of {size // width:,}")
    return values.view(np.uint8).reshape(-1, 8)[:, :width].copy().reshape(-1).view(dtype)


def _pair(message: Message) -> tuple[str, str]:
    texts = {entry.number: message.text(entry) for entry in message.fields() if entry.number in (1, 2)}
    return texts.get(1, ""), texts.get(2, "")


def _external(
    found: _Found, name: str, number: int, shape: tuple[int, ...], size: int, places: Mapping[str, str]
) -> Constant:
    """A constant in a file beside the model."""
    location, offset, length = places.get("location", ""), places.get("offset", "0"), places.get("length", str(size))
    if leaves_folder(location):
        raise ValueError(
            f"external data of {str(found.path)!r} must be files in its folder, but tensor {name!r} names "
            f"{location[:200]!r}: do not use this model unless you know why."
        )
    path = found.path.parent / location
    if not path.is_file():
        raise FileNotFoundError(
            f"the external data of {str(found.path)!r} are required, but {location!r}, which holds tensor {name!r}, is "
            "not beside it: get it."
        )
    if not offset.isdecimal() or not length.isdecimal() or len(offset) > 19 or len(length) > 19 or int(length) != size:
        raise DamagedMessageError(
            f"tensor {name!r} of shape {shape} must have {size:,} bytes in {location!r}, but has {length[:20]!r} from "
            f"{offset[:20]!r}"
        )
    kind = TYPES[number]
    dtype = KINDS[kind][0]
    begin = int(offset)
    if path not in found.files:
        found.files[path] = mapped(path)
    data = found.files[path]
    if begin + size > len(data):
        raise DamagedMessageError(
            f"tensor {name!r} ends at byte {begin + size:,} of {location!r}, which has {len(data):,}: it is cut"
        )

    def read() -> np.ndarray:
        return np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, begin) if size else np.empty(0, dtype)

    return Constant(name, kind, shape, path, begin, size, read)


def _require_apart(tensors: Iterable[Constant]) -> None:
    """Refuse tensors that share some bytes, but not all."""
    before = None
    for tensor in sorted((t for t in tensors if t.size), key=lambda t: (str(t.file), t.offset, t.size)):
        over = before is not None and before.file == tensor.file and tensor.offset < before.offset + before.size
        if before is not None and over and (tensor.offset, tensor.size) != (before.offset, before.size):
            raise DamagedMessageError(f"tensors {before.name!r} and {tensor.name!r} overlap")
        before = tensor
