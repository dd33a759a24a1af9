"""AWQ's layout: integers of four bits packed along the output, in an interleaved order.

A word of ``qweight`` holds the integers of one column for eight outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7 from the
lowest bits up, and one of ``qzeros`` their zero points. The weight is s (q − z).

Source: layout "gemm" of AutoAWQ 0.2.9 (Lin et al. 2023, arXiv:2306.00978).
"""

from functools import partial

import numpy as np
from jaxtyping import UInt8

from nbquant.formats.grouped_tensor import Grouped, group_length
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.formats.packed_words import unpack_stream
from nbquant.quantization.blocks import formats as blocks
from nbquant.tensorfile import FLOATS

CODES = "qweight"
EACH = 8  # integers of a word
PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where each of eight outputs is within a word
_HALF = 8


def find_awq(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout, by the shapes of codes and scales."""
    return [name for name in checkpoint.files if _is_awq(checkpoint, name)]


def _is_awq(checkpoint: PackedCheckpoint, name: str) -> bool:
    layer, dot, last = name.rpartition(".")
    scales = f"{layer}{dot}scales"
    if last != CODES or scales not in checkpoint:
        return False
    shapes = checkpoint.stored(name).shape, checkpoint.stored(scales).shape
    return all(len(shape) == 2 for shape in shapes) and EACH * shapes[0][1] == shapes[1][1]


def read_awq(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    layer = name.removesuffix(CODES)
    words = checkpoint.require(name, ("I32",))
    scales_name, zeros_name = f"{layer}scales", f"{layer}qzeros"
    scales = checkpoint.require(scales_name, FLOATS)
    zeros = checkpoint.require(zeros_name, ("I32",))
    columns, rows = words.shape[0], EACH * words.shape[1]
    groups = len(scales)
    if zeros.shape != (groups, words.shape[1]):
        raise checkpoint.damaged(
            zeros_name, f"must have the shape {(groups, words.shape[1])} by codes and scales, but has {zeros.shape}"
        )
    length = group_length(checkpoint, scales_name, columns, groups, checkpoint.config.get("group_size"))
    grouped = Grouped(
        blocks.named("int4_asym").with_length(length),
        (rows, columns),
        partial(_unpacked, words),
        partial(_parts, scales, checkpoint.stored(scales_name).dtype, zeros),
    )
    used = (name, scales_name, zeros_name)
    return grouped.tensor(name, checkpoint.bits(used), (f"{layer}weight",)), used


def _unpacked(words: np.ndarray, first: int, last: int) -> UInt8[np.ndarray, "rows lines"]:
    """Integers of some outputs, an output to a row."""
    start, end = first // EACH, -(-last // EACH)
    integers = unpack_stream(words[:, start:end], 4).reshape(len(words), -1, EACH)[:, :, PLACES]
    skipped = first - start * EACH
    return np.ascontiguousarray(integers.reshape(len(words), -1)[:, skipped : skipped + last - first].T)


def _parts(scales: np.ndarray, dtype: str, zeros: np.ndarray, first: int, last: int) -> dict[str, np.ndarray]:
    return {
        "scale": as_float32(scales[:, first:last].T, dtype).reshape(-1),
        "zero_point": (_unpacked(zeros, first, last).astype(np.int8) - np.int8(_HALF)).reshape(-1),
    }


AWQ = PackedLayout("AWQ", find_awq, read_awq)
