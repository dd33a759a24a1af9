"""Core ML models: palettized weights, and integers with scales.

Palettized weights are indices into a table, one for the tensor or one for each of several groups of rows; tables of
vectors, and of groups along other axes, are listed but not decoded. Integers have scales for the tensor, an axis, or
blocks along one. Sparse weights are listed.

Source: constexpr_lut_to_dense, constexpr_affine_dequantize and constexpr_blockwise_shift_scale of coremltools 9.0.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from nbquant.formats.codebook_tensor import codebook_tensor
from nbquant.formats.constant import KINDS, Constant, packed_bytes
from nbquant.formats.coreml_model import CoremlModel, Operation, open_program
from nbquant.formats.onnx_linear import INTEGERS, Linear, integers_of, linear_tensor
from nbquant.formats.packed_tensor import PackedFile, PackedFileFormat, PackedTensor
from nbquant.formats.packed_words import unpack_range
from nbquant.tensorfile import FLOATS

PACKAGE, MODEL = ".mlpackage", ".mlmodel"
INSIDE = Path("Data") / "com.apple.CoreML"
_SUFFIX = re.compile(r"(_to_fp16)?_(palettized|quantized|affine_quantized)$")


def is_coreml(path: Path) -> bool:
    """Whether a path is named as Core ML's packages or models are."""
    return path.suffix.lower() in (PACKAGE, MODEL)


def open_coreml(path: Path) -> PackedFile:
    """Open a package, or the model within one.

    Raises:
        ValueError: A damaged model, or a weight with a part that is missing or does not fit.
        OSError: A file that does not exist or cannot be read.
    """
    model = open_program(_model_of(path))
    tensors: dict[str, PackedTensor] = {}
    used: set[int] = set()
    for operation in model.operations:
        used |= {id(constant) for constant in operation.constants.values()}
        if operation.output in tensors:
            raise model.damaged(operation.output, "comes twice")
        found = READERS.get(operation.type, _listed)(model, operation)
        plain = _SUFFIX.sub("", operation.output)
        others = tuple(dict.fromkeys((plain, re.sub(r"_\d+$", "", plain))))
        tensors[operation.output] = replace(found, name=operation.output, others=others)
    for name, constant in model.constants.items():
        if name not in tensors and id(constant) not in used and constant.count > 1:
            tensors[name] = replace(constant.plain(), name=name)
    return PackedFile(path, "Core ML", tensors)


def _model_of(path: Path) -> Path:
    if path.suffix.lower() == MODEL:
        return path
    found = sorted((path / INSIDE).glob(f"*{MODEL}"))
    if len(found) != 1:
        raise ValueError(
            f"{str(path)!r} must be a package with one *{MODEL} in {str(INSIDE)!r}, but has {len(found)}: get it again."
        )
    return found[0]


def _part(model: CoremlModel, operation: Operation, key: str, types: tuple[str, ...]) -> Constant:
    """A constant that an operation requires."""
    found = operation.constants.get(key)
    if found is None or found.type not in types or not found.count:
        came = "is not there" if found is None else f"is {found.type} of shape {found.shape}"
        raise model.damaged(operation.output, f"requires {key!r} of {' or '.join(types)}, but this {came}")
    return found


def _listed(model: CoremlModel, operation: Operation) -> PackedTensor:
    """The record of a weight that is not decoded."""
    stored = sum(constant.bits for constant in operation.constants.values())
    largest = max(operation.constants.values(), key=lambda constant: constant.count, default=None)
    if largest is None or not largest.count:
        raise model.damaged(operation.output, "has no constants")
    return PackedTensor(operation.output, largest.shape, operation.type, None, stored, None, None)


def _palettized(model: CoremlModel, operation: Operation) -> PackedTensor:
    table = _part(model, operation, "lut", tuple(FLOATS))
    indices = _part(model, operation, "indices", ("U1", "U2", "U3", "U4", "U6", "U8"))
    stored = table.bits + indices.bits
    damaged = partial(model.damaged, operation.output)
    if "shape" in operation.constants:  # the first version, whose indices are bytes
        size = _part(model, operation, "shape", ("U32", "I32"))
        shape = tuple(int(n) for n in size.read()) if size.count <= 16 else ()
        bits = (table.count - 1).bit_length()
        wide = next((kind for kind in ("U1", "U2", "U3", "U4", "U6", "U8") if KINDS[kind][1] >= max(bits, 1)), "")
        if (
            indices.type != "U8"
            or min(shape, default=0) < 1
            or indices.count != packed_bytes(wide or "U8", prod(shape))
        ):
            raise damaged(f"has {indices.count:,} bytes of indices of {bits} bits for the shape {shape}")
        unpacked = replace(indices, type=wide, shape=shape)
        return codebook_tensor(unpacked, shape, table.floats(), stored, damaged)
    shape = indices.shape
    *groups, levels, vector = table.shape if len(table.shape) == len(shape) + 2 else (0, 0, 0)
    if levels < 1 or vector < 1 or any(g < 1 or n % g for g, n in zip(groups, shape, strict=False)):
        raise damaged(f"has tables of shape {table.shape} for indices of shape {shape}")
    if vector > 1 or any(g > 1 for g in groups[1:]):
        return _listed(model, operation)
    if prod(groups) == 1:
        return codebook_tensor(indices, shape, table.floats(), stored, damaged)
    tables = table.floats().reshape(groups[0], levels)
    values = partial(_grouped_values, indices, tables, damaged)
    return PackedTensor(operation.output, shape, "codebooks", None, stored, None, values)


def _grouped_values(
    indices: Constant,
    tables: Float32[np.ndarray, "groups levels"],
    damaged: Callable[[str], ValueError],
    first: int,
    last: int,
) -> Float32[np.ndarray, "rows columns"]:
    """Look up rows: successive rows form groups of equal size, each with a table of its own."""
    rows = indices.shape[0]
    columns = indices.count // rows
    raw, width = indices.read(), KINDS[indices.type][1]
    start, end = first * columns, last * columns
    found = raw[start:end] if width == 8 else unpack_range(raw, width, start, end)
    if found.max() >= tables.shape[1]:
        raise damaged(f"must have indices from 0 to {tables.shape[1] - 1}, but has {found.max()}")
    group = np.arange(first, last) // (rows // len(tables))
    return tables[group[:, None], found.reshape(last - first, columns)]


def _affine(model: CoremlModel, operation: Operation) -> PackedTensor:
    """Integers with a scale and a zero point for the tensor or for each place on an axis."""
    data = _part(model, operation, "quantized_data", ("I8", "U8"))
    scale = _part(model, operation, "scale", tuple(FLOATS))
    zero = _part(model, operation, "zero_point", ("I8", "U8"))
    axis = int(_part(model, operation, "axis", ("I32",)).read()[0])
    axis += len(data.shape) if axis < 0 else 0
    whole = scale.count == 1
    lengths = {1} if whole or not 0 <= axis < len(data.shape) else {1, data.shape[axis]}
    if scale.count not in lengths or zero.count not in lengths or zero.type != data.type:
        raise model.damaged(
            operation.output,
            f"has {scale.count} scales and {zero.count} zero points for axis {axis} of the shape {data.shape}",
        )
    shape = () if whole else (scale.count,)
    points = np.broadcast_to(
        integers_of(zero.read(), zero.type, zero.count).reshape(-1 if zero.count > 1 else ()), shape
    )
    linear = Linear(data, scale.floats().reshape(shape), points, None if whole else axis, 0)
    return linear_tensor(linear, data.bits + scale.bits + zero.bits)


def _blockwise(model: CoremlModel, operation: Operation) -> PackedTensor:
    """Integers with scales, and perhaps offsets, that divide each axis."""
    data = _part(model, operation, "data", tuple(INTEGERS))
    scale = _part(model, operation, "scale", tuple(FLOATS))
    offset = operation.constants.get("offset")
    stored = data.bits + scale.bits + (0 if offset is None else offset.bits)
    fits = len(scale.shape) == len(data.shape) and all(
        g and n % g == 0 for g, n in zip(scale.shape, data.shape, strict=False)
    )
    if not fits or (offset is not None and (offset.shape != scale.shape or offset.type != data.type)):
        came = "" if offset is None else f", and offsets of {offset.type} of shape {offset.shape}"
        raise model.damaged(
            operation.output, f"of {data.type} and shape {data.shape} has scales of shape {scale.shape}{came}"
        )
    divided = [i for i, (g, n) in enumerate(zip(scale.shape, data.shape, strict=True)) if 1 < g < n]
    full = [i for i, (g, n) in enumerate(zip(scale.shape, data.shape, strict=True)) if 1 < g == n]
    axis: int | None
    if len(divided) > 1 or (not divided and len(full) > 1 and prod(scale.shape) != data.count):
        return _listed(model, operation)
    if divided or len(full) > 1:
        axis = divided[0] if divided else len(data.shape) - 1
        block = data.shape[axis] // scale.shape[axis]
        shape = tuple(scale.shape[i] if i == axis else n for i, n in enumerate(data.shape))
    else:
        axis, block = (full[0], 0) if full else (None, 0)
        shape = (scale.shape[full[0]],) if full else ()

    def spread(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values.reshape(scale.shape), shape) if block else values.reshape(shape)

    points = None if offset is None else spread(integers_of(offset.read(), offset.type, offset.count))
    return linear_tensor(Linear(data, spread(scale.floats()), points, axis, block), stored)


READERS: dict[str, Callable[[CoremlModel, Operation], PackedTensor]] = {
    "constexpr_lut_to_dense": _palettized,
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
}
"""The reader of the weights of each operation."""

COREML = PackedFileFormat("Core ML", is_coreml, open_coreml)
