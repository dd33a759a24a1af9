"""FP8 weights with scales: one for the tensor, a row, a group of columns, or a block of rows and columns.

Names are those of compressed-tensors and of others, ``weight_scale``, or of transformers' blocks, ``weight_scale_inv``;
both are what codes are multiplied by.

Source: compressed-tensors 0.20.1 and transformers 5.23.0; DeepSeek-V3, as published.
"""

from collections.abc import Collection
from functools import partial

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.formats.grouped_tensor import Grouped, group_length
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import TENSOR

FORMATS = {"F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2"}
CODES = "weight"
SCALES = ("weight_scale_inv", "weight_scale")
USUAL = 128  # rows and columns of a block


def find_float8(checkpoint: PackedCheckpoint) -> list[str]:
    """List the weights in FP8, if any of them has scales."""
    return scaled_weights(checkpoint, FORMATS)


def scaled_weights(checkpoint: PackedCheckpoint, dtypes: Collection[str]) -> list[str]:
    """List the weights of some types, if any of them has scales."""
    found = [n for n in checkpoint.files if n.rpartition(".")[2] == CODES and checkpoint.is_stored(n, dtypes)]
    return found if any(_scales_of(checkpoint, name) is not None for name in found) else []


def _scales_of(checkpoint: PackedCheckpoint, name: str) -> str | None:
    layer = name.removesuffix(CODES)
    return next((f"{layer}{scale}" for scale in SCALES if f"{layer}{scale}" in checkpoint), None)


def read_float8(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: Missing scales, or such that do not fit.
    """
    codes = checkpoint.require(name, FORMATS)
    found = _scales_of(checkpoint, name) or f"{name}_scale"
    scales = checkpoint.floats(found)
    used = (name, found)
    return scaled(checkpoint, name, codes, FORMATS[checkpoint.stored(name).dtype], found, scales).tensor(
        name, checkpoint.bits(used)
    ), used


def scaled(
    checkpoint: PackedCheckpoint,
    name: str,
    codes: UInt8[np.ndarray, "rows columns"],
    format: str,
    scales_name: str,
    scales: Float32[np.ndarray, "..."],
) -> Grouped:
    """Put bytes and their scales together, of any of the shapes that scales have.

    Raises:
        ValueError: Scales that do not fit the rows and columns.
    """
    found = blocks.named(format)
    rows, columns = codes.shape
    shape = (rows, columns)
    if scales.size == 1:
        one = {"scale": scales.reshape(1)}
        return Grouped(found.with_length(TENSOR), shape, partial(row_bytes, codes), lambda first, last: one)
    table = scales.reshape(-1, 1) if scales.ndim == 1 else scales
    config = checkpoint.config.get("weight_block_size")
    block = config if isinstance(config, list) and len(config) == 2 else (USUAL, USUAL)
    lines, groups = table.shape
    by_row = lines == rows
    height = 1 if by_row else _height(checkpoint, scales_name, rows, lines, block[0])
    length = group_length(checkpoint, scales_name, columns, groups, None if by_row else block[1])
    parts = partial(_scales, table, height)
    return Grouped(found.with_length(length), shape, partial(row_bytes, codes), parts, height=height)


def _height(checkpoint: PackedCheckpoint, name: str, rows: int, lines: int, said: object) -> int:
    if type(said) is int and said > 0 and -(-rows // said) == lines:
        return said
    if rows % lines == 0:
        return rows // lines
    raise checkpoint.damaged(name, f"has {lines} rows of scales for {rows} rows, which do not divide them")


def row_bytes(codes: np.ndarray, first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
    """Copy some rows of a matrix of bytes."""
    return np.array(codes[first:last], order="C").view(np.uint8)


def _scales(table: np.ndarray, height: int, first: int, last: int) -> dict[str, np.ndarray]:
    return {"scale": table[np.arange(first, last) // height].reshape(-1)}


FLOAT8 = PackedLayout("FP8", find_float8, read_float8)
