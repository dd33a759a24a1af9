"""DequantizeLinear of ONNX: a scale for the tensor, for each place on an axis, or for each block along an axis."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.formats.constant import Constant
from nbquant.formats.grouped_tensor import Grouped
from nbquant.formats.onnx_model import OnnxModel, OnnxNode
from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.formats.packed_words import as_codes, unpack_bytes, unpack_range
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import ROW, TENSOR
from nbquant.tensorfile import FLOATS

INTEGERS = {"I8": (8, True), "U8": (8, False), "I4": (4, True), "U4": (4, False), "I2": (2, True), "U2": (2, False)}
"""Types of codes: bits, and whether they are signed."""
WIDE = ("I16", "U16", "I32")
"""Types of quantized biases and activations, which are decoded without a block format."""
FLOAT8 = {"F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2"}


@dataclass(frozen=True, eq=False)
class Linear:
    """A constant with its scales.

    Attributes:
        constant: The codes.
        scale: Scales as stored: none or one axis, or as many as the constant.
        zero: Zero points of the same shape; None if there are none.
        axis: Axis of the scales; None for a single one.
        block: Entries of a block along it; 0 for a scale for each place.
        scale_type: Type of the scales, as safetensors spells it.
    """

    constant: Constant
    scale: np.ndarray
    zero: np.ndarray | None
    axis: int | None
    block: int
    scale_type: str = "F32"


def read_linear(model: OnnxModel, node: OnnxNode, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Types without a block format of ours, and blocks or axes that are no rows of a matrix, are decoded only.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    linear, used = _parts_of(model, node, name)
    return linear_tensor(linear, sum(model.tensors[part].bits for part in used)), used


def linear_tensor(linear: Linear, stored: int) -> PackedTensor:
    """Make the record of a constant with its scales.

    Args:
        linear: The constant.
        stored: Stored bits of it all.
    """
    constant = linear.constant
    found = _grouped(linear)
    if found is not None:
        shape = constant.shape if len(constant.shape) != 2 else found.shape
        return replace(found.tensor(constant.name, stored), shape=shape)
    decodable = constant.type in INTEGERS or constant.type in WIDE
    values = partial(_elementwise, linear) if decodable else None
    return PackedTensor(constant.name, constant.shape, constant.type, None, stored, None, values)


def _parts_of(model: OnnxModel, node: OnnxNode, name: str) -> tuple[Linear, tuple[str, ...]]:
    constant = model.tensors[name]
    model.require(name, (*INTEGERS, *WIDE, *FLOAT8, "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4"))
    scale_name, zero_name = node.input(1), node.input(2)
    raw = model.require(scale_name, FLOATS)
    shape = model.tensors[scale_name].shape
    axis, block = _axis_of(model, node, constant, scale_name, shape)
    used = [name, scale_name]
    zero = None
    if zero_name:
        flat = model.require(zero_name, (constant.type,), len(raw))
        used.append(zero_name)
        if constant.type.startswith("F"):
            if flat.any():
                raise model.damaged(zero_name, f"must be 0 for codes of {constant.type}, but is not")
        elif constant.type in INTEGERS:
            zero = integers_of(flat, constant.type, len(raw))
        else:
            zero = flat
    kept = () if axis is None else shape
    points = None if zero is None else zero.reshape(kept)
    linear = Linear(constant, raw.reshape(kept), points, axis, block, model.tensors[scale_name].type)
    return linear, tuple(used)


def _axis_of(
    model: OnnxModel, node: OnnxNode, constant: Constant, name: str, shape: tuple[int, ...]
) -> tuple[int | None, int]:
    """Axis of the scales, and entries of a block."""
    axes = len(constant.shape)
    block = node.numbers.get("block_size", 0)
    if not block and prod(shape) == 1:
        return None, 0
    axis = node.numbers.get("axis", 1)
    axis = axis + axes if axis < 0 else axis
    if 0 <= axis < axes:
        if not block and shape == (constant.shape[axis],):
            return axis, 0
        groups = -(-constant.shape[axis] // block) if block > 0 else 0
        if shape == (*constant.shape[:axis], groups, *constant.shape[axis + 1 :]):
            return axis, block
    raise model.damaged(
        name,
        f"must have scales for axis {axis} of {constant.name!r}, of shape {constant.shape}, in blocks of "
        f"{block or 'one'}, but has the shape {shape}",
    )


def integers_of(stored: np.ndarray, kind: str, count: int) -> np.ndarray:
    """Read integers of a type, as int16."""
    bits, signed = INTEGERS[kind]
    raw = stored.view(np.uint8)
    unsigned = raw if bits == 8 else unpack_range(raw, bits, 0, count)
    return as_signed(unsigned, bits) if signed else unsigned.astype(np.int16)


def as_signed(unsigned: UInt8[np.ndarray, "..."], bits: int) -> np.ndarray:
    """Integers in two's complement of few bits."""
    half = 1 << bits - 1
    return (unsigned ^ np.uint8(half)).astype(np.int16) - half


def _grouped(linear: Linear) -> Grouped | None:
    """The matrix in groups along its rows; None if it is none."""
    constant, axis, block = linear.constant, linear.axis, linear.block
    shape = constant.shape
    if constant.type not in INTEGERS and constant.type not in FLOAT8:
        return None
    matrix = (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))
    turned = False
    if axis is None:
        length = TENSOR
    elif block == 0:
        length, turned = ROW, axis == 1 and len(shape) == 2
        if (axis > 0 and not turned) or len(shape) == 1:
            return None
    else:
        length, turned = block, axis == 0 and len(shape) == 2
        if len(shape) > 2 and (axis != len(shape) - 1 or shape[-1] % block):
            return None
    half = 0
    if constant.type in FLOAT8:
        name = FLOAT8[constant.type]
    else:
        bits, signed = INTEGERS[constant.type]
        half = 0 if signed else 1 << bits - 1
        symmetric = half == 0 if linear.zero is None else bool((linear.zero == half).all())
        name = f"int{bits}{'' if symmetric else '_asym'}"
    if turned:
        matrix = matrix[::-1]
    points = None
    if name.endswith("_asym"):
        zero = np.zeros(linear.scale.shape, np.int16) if linear.zero is None else linear.zero
        points = (zero - half).astype(np.int8)
    parts = partial(_parts, linear.scale, linear.scale_type, points, turned and block > 0, block)
    form = blocks.named(name).with_length(length)
    return Grouped(form, (matrix[0], matrix[1]), partial(_codes, constant, turned), parts)


def _parts(
    scale: np.ndarray, dtype: str, points: np.ndarray | None, turned: bool, block: int, first: int, last: int
) -> Mapping[str, np.ndarray]:
    """Scales and zero points of some rows."""
    found = {"scale": scale} if points is None else {"scale": scale, "zero_point": points}
    if scale.ndim == 0:
        some = {key: part.reshape(1) for key, part in found.items()}
    elif turned:
        some = {key: np.ascontiguousarray(part[:, first:last].T).reshape(-1) for key, part in found.items()}
    elif scale.ndim == 1 and block:
        some = found
    else:
        some = {key: part[first:last].reshape(-1) for key, part in found.items()}
    return some | {"scale": as_float32(some["scale"], dtype)}


def _codes(constant: Constant, turned: bool, first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
    """Codes of our formats of some rows."""
    shape = constant.shape
    if turned:
        found = _columns(constant, first, last)
    else:
        columns = prod(shape[1:]) if len(shape) > 1 else constant.count
        found = _range(constant, first * columns, last * columns).reshape(-1, columns)
    if constant.type in FLOAT8:
        return found
    bits, signed = INTEGERS[constant.type]
    return as_codes(found ^ np.uint8(1 << bits - 1) if signed else found, bits)


def _bits(constant: Constant) -> int:
    return INTEGERS.get(constant.type, (8, True))[0]


def _range(constant: Constant, first: int, last: int) -> UInt8[np.ndarray, " n"]:
    """Some entries of less than a byte or of one, as they are stored."""
    bits, raw = _bits(constant), constant.read().view(np.uint8)
    if bits == 8:
        return np.array(raw[first:last])
    return unpack_range(raw, bits, first, last)


def _columns(constant: Constant, first: int, last: int) -> UInt8[np.ndarray, "columns rows"]:
    """Some columns of a matrix, a column to a row."""
    bits, raw = _bits(constant), constant.read().view(np.uint8)
    rows, columns = constant.shape
    if bits == 8:
        return np.ascontiguousarray(raw.reshape(rows, columns)[:, first:last].T)
    each = 8 // bits
    if columns % each == 0:
        start = first // each
        unpacked = unpack_bytes(raw.reshape(rows, -1)[:, start : -(-last // each)], bits)
        return np.ascontiguousarray(unpacked[:, first - start * each :][:, : last - first].T)
    entry = np.arange(rows) * columns + np.arange(first, last)[:, None]
    shift = (entry % each * bits).astype(np.uint8)
    return raw[entry // each] >> shift & np.uint8((1 << bits) - 1)


def _elementwise(linear: Linear, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
    """Decode some rows of a tensor of any shape."""
    constant = linear.constant
    shape = constant.shape if len(constant.shape) > 1 else (1, constant.count)
    columns = prod(shape[1:])
    if constant.type in INTEGERS:
        bits, signed = INTEGERS[constant.type]
        stored = _range(constant, first * columns, last * columns)
        codes = as_signed(stored, bits) if signed else stored.astype(np.int16)
    else:
        codes = constant.read()[first * columns : last * columns]
    codes = codes.reshape(last - first, *shape[1:])
    axis = linear.axis if linear.axis is None or len(constant.shape) > 1 else 1

    def spread(values: np.ndarray) -> np.ndarray:
        """The value of each entry, or such that broadcast to it."""
        if axis is None:
            return values
        step = max(linear.block, 1)
        if linear.block == 0:
            values = values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        elif len(constant.shape) == 1:
            values = values.reshape(1, -1)
        if axis == 0:
            return values[np.arange(first, last) // step]
        return values[first:last].take(np.arange(shape[axis]) // step, axis) if linear.block else values

    zero = np.int64(0) if linear.zero is None else spread(linear.zero.astype(np.int64))
    with np.errstate(over="ignore", invalid="ignore"):
        product = (codes.astype(np.int64) - zero).astype(np.float32) * spread(
            as_float32(linear.scale, linear.scale_type)
        )
    return product.reshape(last - first, columns)
