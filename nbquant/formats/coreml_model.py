"""Core ML programs: constants, and the operations that decompress them, without coremltools.

A model is a message of Protocol Buffers; large constants are in a file of weights beside it, where each has a header of
64 bytes.

Source: the Core ML format specification, and its storage of blobs, version 2 (coremltools 9.0).
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from nbquant.formats.constant import KINDS, Constant, leaves_folder, mapped, packed_bytes
from nbquant.formats.protobuf import BYTES, DamagedMessageError, Field, Message

TYPES = {
    10: "F16", 11: "F32", 12: "F64", 13: "BF16", 21: "I8", 22: "I16", 23: "I32", 24: "I64", 25: "I4", 31: "U8",
    32: "U16", 33: "U32", 34: "U64", 35: "U4", 36: "U2", 37: "U1", 38: "U6", 39: "U3", 40: "F8_E4M3", 41: "F8_E5M2",
}  # fmt: skip
"""Types of tensors, as safetensors spells them."""
DECOMPRESSING = "constexpr_"
PREFIX = "@model_path/"
MOST_AXES = 16
_SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<IIQQ")
_PROGRAM, _FUNCTIONS, _BLOCKS, _OPERATIONS = 502, 2, 3, 3
_FLOATS, _INTS, _LONGS, _BYTES = 1, 2, 5, 7  # kinds of numbers within the message


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation that makes a weight of constants.

    Attributes:
        type: Its type, such as "constexpr_lut_to_dense".
        output: Name of the weight.
        constants: Its inputs and attributes that are constants, by their role.
    """

    type: str
    output: str
    constants: Mapping[str, Constant]


@dataclass
class CoremlModel:
    """An open program.

    Attributes:
        path: The file of the program.
        constants: Constants that are operations of their own, by name.
        operations: Operations that decompress constants.
        files: Mapped files of weights.
    """

    path: Path
    constants: dict[str, Constant] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    files: dict[Path, mmap.mmap | bytes] = field(default_factory=dict)

    def damaged(self, name: str, how: str) -> ValueError:
        """Make the error of a constant that does not fit."""
        return _damaged(self.path, f"tensor {name!r} {how}")


def open_program(path: Path) -> CoremlModel:
    """Read names, types and places of constants.

    Raises:
        ValueError: A damaged file, a model that is no program, or weights that are cut or outside the package.
        OSError: A file that is missing or cannot be read.
    """
    data = mapped(path)
    if isinstance(data, bytes):
        raise _damaged(path, "it is empty")
    found = CoremlModel(path)
    try:
        message = Message(data, 0, len(data))
        programs = [entry for entry in message.fields() if entry.number == _PROGRAM]
        if len(programs) != 1:
            raise DamagedMessageError(
                f"it has {len(programs)} programs, not one (networks of older versions are not read)"
            )
        _program(found, message.part(programs[0]))
    except DamagedMessageError as error:
        raise _damaged(path, str(error)) from None
    return found


def _damaged(path: Path, how: str) -> ValueError:
    return ValueError(f"{str(path)!r} must be a complete Core ML program, but {how}: get the package again.")


def _program(found: CoremlModel, program: Message) -> None:
    for function in _values_of(program, _FUNCTIONS):
        for block in _values_of(function, _BLOCKS):
            for entry in block.fields():
                if entry.number == _OPERATIONS:
                    _operation(found, block.part(entry))


def _values_of(message: Message, number: int) -> list[Message]:
    """Values of a map."""
    pairs = [message.part(entry) for entry in message.fields() if entry.number == number]
    return [pair.part(entry) for pair in pairs for entry in pair.fields() if entry.number == 2]


def _operation(found: CoremlModel, message: Message) -> None:
    fields = list(message.fields())
    kind = "".join(message.text(f) for f in fields if f.number == 1)
    if kind != "const" and not kind.startswith(DECOMPRESSING):
        return
    output = next((message.part(f).text_of(1) for f in fields if f.number == 3), "")
    values: dict[str, Message] = {}
    named: dict[str, str] = {}
    for entry in fields:
        if entry.number == 5:
            key, value = _pair(message.part(entry))
            values |= {} if value is None else {key: value}
        elif entry.number == 2:
            key, argument = _pair(message.part(entry))
            for binding in [] if argument is None else [argument.part(f) for f in argument.fields() if f.number == 1]:
                for f in binding.fields():
                    if f.number == 1:
                        named[key] = binding.text(f)
                    elif f.number == 2:
                        values[key] = binding.part(f)
    constants = {key: c for key, value in values.items() if (c := _constant(found, output, value)) is not None}
    constants |= {key: found.constants[name] for key, name in named.items() if name in found.constants}
    if kind != "const":
        found.operations.append(Operation(kind, output, constants))
    elif "val" in constants:
        if output in found.constants:
            raise DamagedMessageError(f"tensor {output!r} comes twice")
        found.constants[output] = constants["val"]


def _pair(message: Message) -> tuple[str, Message | None]:
    """Key and value of an entry of a map."""
    return message.text_of(1), next((message.part(f) for f in message.fields() if f.number == 2), None)


def _constant(found: CoremlModel, name: str, message: Message) -> Constant | None:
    """A constant of numbers; None for anything else."""
    kind, shape = "", tuple[int, ...]()
    content: Message | None = None
    blob: Message | None = None
    for entry in message.fields():
        if entry.number == 2:
            kind, shape = _type_of(message.part(entry))
        elif entry.number == 3:
            content = message.part(entry)
        elif entry.number == 5:
            blob = message.part(entry)
    if not kind:
        return None
    if len(shape) > MOST_AXES or any(n < 0 for n in shape):
        raise DamagedMessageError(f"tensor {name!r} has the shape {shape[:MOST_AXES]}")
    if blob is not None:
        return _of_blob(found, name, kind, shape, blob)
    return None if content is None else _of_message(found, name, kind, shape, content)


def _type_of(message: Message) -> tuple[str, tuple[int, ...]]:
    """Type and shape of a tensor; "" for another kind of value."""
    kind, shape = "", list[int]()
    for tensor in [message.part(f) for f in message.fields() if f.number == 1]:
        for entry in tensor.fields():
            if entry.number == 1:
                kind = TYPES.get(entry.value, "")
            elif entry.number == 3:
                dimension = tensor.part(entry)
                sizes = [dimension.part(f) for f in dimension.fields() if f.number == 1]
                shape += [f.value for size in sizes for f in size.fields() if f.number == 1] or [0] * len(sizes)
    return kind, tuple(shape)


def _of_message(found: CoremlModel, name: str, kind: str, shape: tuple[int, ...], content: Message) -> Constant | None:
    """A constant whose numbers are in the message."""
    data, count = content.data, prod(shape)
    dtype, _ = KINDS[kind]
    size = packed_bytes(kind, count)
    lists: list[tuple[int, Message, Field]] = []
    for tensor in [content.part(f) for f in content.fields() if f.number == 1]:
        for entry in tensor.fields():
            inner = tensor.part(entry)
            lists += [(entry.number, inner, each) for each in inner.fields() if each.number == 1]
    if len(lists) != 1 or lists[0][2].kind != BYTES:
        return None
    number, inner, each = lists[0]
    if number in (_INTS, _LONGS):
        values = np.array(inner.integers(each), np.int64).astype(dtype)
        if len(values) != count:
            raise DamagedMessageError(f"tensor {name!r} has {len(values):,} numbers of {count:,}")
        return Constant(name, kind, shape, found.path, each.start, each.end - each.start, lambda: values)
    if number not in (_FLOATS, _BYTES) or each.end - each.start != size:
        raise DamagedMessageError(f"tensor {name!r} of {kind} has {each.end - each.start:,} bytes of {size:,}")
    read = partial(np.frombuffer, data, dtype, size // np.dtype(dtype).itemsize, each.start)
    return Constant(name, kind, shape, found.path, each.start, size, read)


def _of_blob(found: CoremlModel, name: str, kind: str, shape: tuple[int, ...], blob: Message) -> Constant:
    """A constant in a file of weights."""
    location, header = "", 0
    for entry in blob.fields():
        if entry.number == 1:
            location = blob.text(entry)
        elif entry.number == 2:
            header = entry.value
    inside = location.removeprefix(PREFIX)
    if leaves_folder(inside):
        raise ValueError(
            f"weights of {str(found.path)!r} must be in its package, but tensor {name!r} names {location[:200]!r}: do "
            "not use this model unless you know why."
        )
    path = found.path.parent / inside
    if not path.is_file():
        raise FileNotFoundError(
            f"the weights of {str(found.path)!r} are required, but {inside!r}, which holds tensor {name!r}, is not "
            "beside it: get the whole package."
        )
    if path not in found.files:
        found.files[path] = mapped(path)
    data, size, dtype = found.files[path], packed_bytes(kind, prod(shape)), KINDS[kind][0]
    if header + _HEADER.size > len(data):
        raise DamagedMessageError(f"tensor {name!r} starts at byte {header:,} of {inside!r}, which has {len(data):,}")
    sentinel, _, given, start = _HEADER.unpack_from(data, header)
    if sentinel != _SENTINEL or given != size or start + size > len(data):
        raise DamagedMessageError(
            f"tensor {name!r} of {kind} and shape {shape} must have {size:,} bytes in {inside!r}, but its header there "
            f"tells {given:,} from byte {start:,} of {len(data):,}"
        )
    count = size // np.dtype(dtype).itemsize
    read = partial(np.frombuffer, data, dtype, count, start) if count else partial(np.empty, 0, dtype)
    return Constant(name, kind, shape, path, start, size, read)
