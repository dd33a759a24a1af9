"""The layouts of compressed-tensors: packed integers, integers of 8 bits, NVFP4 and MXFP4; FP8 is in ``float8``.

Words of ``weight_packed`` hold integers of successive columns, offset so that the least is 0; those of
``weight_zero_point`` the zero points of successive rows in the same way. Integers of 3 bits run from one word into the
next; earlier versions put only as many into a word as fit, which the number of words tells. Bytes of NVFP4 and MXFP4
hold two columns, the first in the lower bits. Weights are decoded in float32, while the library rounds them to the type
of the scales.

Source: compressed-tensors 0.20.1, and earlier versions as published.
"""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbquant.formats.float8 import row_bytes, scaled_weights
from nbquant.formats.grouped_tensor import Grouped, checked_groups, group_length, with_group_index
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.formats.packed_words import WORD, as_codes, unpack_nibbles, unpack_stream, unpack_words
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import TENSOR
from nbquant.tensorfile import FLOATS

PACKED, WHOLE = "weight_packed", "weight"
BITS = (2, 3, 4, 8)
_INTEGERS = ("I32", "I64")


def find_compressed(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in these layouts."""
    packed = [name for name in checkpoint.files if name.rpartition(".")[2] == PACKED]
    return packed + scaled_weights(checkpoint, ("I8",))


def read_compressed(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    if name.rpartition(".")[2] == WHOLE:
        return _read_integers(checkpoint, name)
    if checkpoint.is_stored(name, ("U8",)):
        return _read_floats(checkpoint, name)
    return _read_packed(checkpoint, name)


def _read_packed(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    words = checkpoint.require(name, ("I32",))
    shape_name = f"{name.removesuffix(PACKED)}weight_shape"
    said = checkpoint.require(shape_name, _INTEGERS, (1,))
    rows, columns = (int(n) for n in said) if len(said) == 2 else (0, 0)
    if rows != words.shape[0] or columns < 1:
        raise checkpoint.damaged(
            shape_name, f"must have rows and columns of codes of shape {words.shape}, but has {said[:4].tolist()}"
        )
    bits = _bits(checkpoint, name, columns, words.shape[1])
    dense = _dense_words(columns, bits) == words.shape[1]
    codes = partial(_unpacked, words, bits, dense, columns)
    return _integers(checkpoint, name, (name, shape_name), (rows, columns), bits, codes, dense)


def _dense_words(count: int, bits: int) -> int:
    return -(-count * bits // WORD)


def _padded_words(count: int, bits: int) -> int:
    return -(-count // (WORD // bits))


def _bits(checkpoint: PackedCheckpoint, name: str, columns: int, words: int) -> int:
    """Bits of an integer, of those that take so many words; of several those of the configuration, or that fit best."""
    possible = [bits for bits in BITS if words in (_dense_words(columns, bits), _padded_words(columns, bits))]
    said = {weights.get("num_bits") for weights in _said(checkpoint)}
    likely = [b for b in possible if b in said] or [b for b in possible if columns % (WORD // b) == 0] or possible
    if len(likely) != 1:
        raise checkpoint.damaged(
            name,
            f"has {words} words for {columns} columns, which is {'no' if not possible else 'more than one'} number of "
            f"bits of {', '.join(map(str, BITS))}",
        )
    return likely[0]


def _read_integers(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    codes = checkpoint.require(name, ("I8",))
    rows, columns = codes.shape
    return _integers(checkpoint, name, (name,), (rows, columns), 8, partial(row_bytes, codes))


def _integers(
    checkpoint: PackedCheckpoint,
    name: str,
    parts: tuple[str, ...],
    shape: tuple[int, int],
    bits: int,
    codes: "partial[UInt8[np.ndarray, 'rows columns']]",
    dense: bool = True,
) -> tuple[PackedTensor, tuple[str, ...]]:
    """Integers with their scales, zero points and groups, where these are there."""
    layer = name.removesuffix(PACKED if name.endswith(PACKED) else WHOLE)
    scales_name, zeros_name, index_name = (f"{layer}weight_{part}" for part in ("scale", "zero_point", "g_idx"))
    scales = checkpoint.require(scales_name, FLOATS, (0, 1, 2))
    dtype = checkpoint.stored(scales_name).dtype
    rows, columns = shape
    table = scales.reshape(1, 1) if scales.size == 1 else scales.reshape(-1, 1) if scales.ndim == 1 else scales
    lines, groups = table.shape
    if lines not in (1, rows) or (lines == 1 and groups > 1 and rows > 1):
        raise checkpoint.damaged(
            scales_name, f"must have scales for {rows} rows, or one, but has the shape {scales.shape}"
        )
    used = [*parts, scales_name]
    points = None
    if zeros_name in checkpoint:
        points = _zeros(checkpoint, zeros_name, bits, dense, (lines, groups))
        used.append(zeros_name)
    found = blocks.named(f"int{bits}" if points is None else f"int{bits}_asym")
    whole = lines == 1 and rows > 1
    grouped = Grouped(found, shape, codes, partial(_parts, table, dtype, points, bits, dense, whole))
    if index_name in checkpoint:
        used.append(index_name)
    if index_name in checkpoint and not whole and -1 not in checkpoint.integers(index_name, columns):
        grouped = with_group_index(grouped, checked_groups(checkpoint, index_name, columns, groups), groups)
    else:
        length = TENSOR if whole else group_length(checkpoint, scales_name, columns, groups, _said_length(checkpoint))
        grouped = Grouped(found.with_length(length), shape, codes, grouped.parts)
    others = (f"{layer}weight",) if name.endswith(PACKED) else ()
    return grouped.tensor(name, checkpoint.bits(used), others), tuple(used)


def _said(checkpoint: PackedCheckpoint) -> list[dict[str, Any]]:
    """What the configuration says about weights, group of layers by group of layers."""
    groups = checkpoint.config.get("config_groups")
    schemes = groups.values() if isinstance(groups, dict) else ()
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, dict)]
    return [each for each in weights if isinstance(each, dict)]


def _said_length(checkpoint: PackedCheckpoint) -> object:
    said = {weights.get("group_size") for weights in _said(checkpoint)}
    return said.pop() if len(said) == 1 else None


def _zeros(checkpoint: PackedCheckpoint, name: str, bits: int, dense: bool, shape: tuple[int, int]) -> np.ndarray:
    """Zero points, as they are or in words of successive rows."""
    lines, groups = shape
    found = checkpoint.require(name, ("I8", *_INTEGERS), (0, 1, 2))
    packed = checkpoint.is_stored(name, ("I32",)) and found.ndim == 2
    words = _dense_words(lines, bits) if dense else _padded_words(lines, bits)
    required = (words, groups) if packed else shape
    if found.size != required[0] * required[1] or (found.ndim == 2 and found.shape != required):
        raise checkpoint.damaged(
            name, f"must have zero points for scales of shape {shape}, but has the shape {found.shape}"
        )
    return found if packed else found.reshape(shape).astype(np.int8, copy=False)


def _parts(
    table: np.ndarray, dtype: str, points: np.ndarray | None, bits: int, dense: bool, whole: bool, first: int, last: int
) -> dict[str, np.ndarray]:
    if whole:
        first, last = 0, 1
    found = {"scale": as_float32(table[first:last], dtype).reshape(-1)}
    if points is not None:
        if points.dtype == np.int8:
            zero = points[first:last]
        else:
            rows, words = (WORD, bits) if dense else (WORD // bits, 1)  # so many rows fill so many words
            stored = points[first // rows * words : -(-last // rows) * words].T
            unpacked = unpack_stream(stored, bits) if dense else unpack_words(stored, bits)
            zero = unpacked[:, first % rows : first % rows + last - first].T
            zero = zero.astype(np.int16) - (1 << (bits - 1))
        found["zero_point"] = zero.astype(np.int8).reshape(-1)
    return found


def _unpacked(
    words: np.ndarray, bits: int, dense: bool, columns: int, first: int, last: int
) -> UInt8[np.ndarray, "rows columns"]:
    integers = (unpack_stream if dense else unpack_words)(words[first:last], bits)
    return as_codes(np.ascontiguousarray(integers[:, :columns]), bits)


def _read_floats(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """NVFP4, which has a scale for the tensor too, or MXFP4."""
    codes = checkpoint.require(name, ("U8",))
    layer = name.removesuffix(PACKED)
    scales_name, whole_name = f"{layer}weight_scale", f"{layer}weight_global_scale"
    nvfp4 = whole_name in checkpoint
    found = blocks.named("nvfp4" if nvfp4 else "mxfp4")
    scales = checkpoint.require(scales_name, ("F8_E4M3",) if nvfp4 else ("U8", "F8_E8M0"))
    rows, columns = codes.shape[0], 2 * codes.shape[1]
    if scales.shape != (rows, -(-columns // found.length)):
        raise checkpoint.damaged(
            scales_name,
            f"must have a scale for each {found.length} of {rows} × {columns} weights, but has shape {scales.shape}",
        )
    used = (name, scales_name, *([whole_name] if nvfp4 else []))
    whole = {}
    if nvfp4:
        value = checkpoint.floats(whole_name)
        if value.size != 1:
            raise checkpoint.damaged(whole_name, f"must be one number, but has the shape {value.shape}")
        whole["global_scale"] = value.reshape(1)

    def parts(first: int, last: int) -> dict[str, np.ndarray]:
        return {"scale": np.array(scales[first:last]).reshape(-1), **whole}

    grouped = Grouped(found, (rows, columns), partial(_nibbles, codes), parts)
    return grouped.tensor(name, checkpoint.bits(used), (f"{layer}weight",)), used


def _nibbles(codes: np.ndarray, first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
    return unpack_nibbles(codes[first:last])


COMPRESSED_TENSORS = PackedLayout("compressed-tensors", find_compressed, read_compressed)
