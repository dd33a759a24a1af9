"""optimum-quanto's layout: bytes with a scale for each row, or integers of 2 and 4 bits with a real shift.

Integers of less than 8 bits are packed with those of rows far apart, the first in the lowest bits; the weight is
s q − t, or s (q − t) with an integer t. Where rows are cut into groups, the file does not tell how many belong to a row
of the weight: the length of the bias does, and without one each group is a row.

Source: optimum-quanto 0.2.7.
"""

import numpy as np

from nbquant.formats.float8 import FORMATS, scaled
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.formats.real_offsets import MINIMUM, ZERO, unsigned_format
from nbquant.formats.stacked_rows import StackedRows
from nbquant.tensorfile import FLOATS

BYTES, PACKED = "._data", "._data._data"
FORMATS_OF_BYTES = {"I8": "int8", **FORMATS}
_BITS = (2, 4)


def find_quanto(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout."""
    return [name for name in checkpoint.files if name.endswith(BYTES)]


def read_quanto(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    if name.endswith(PACKED):
        return _read_packed(checkpoint, name)
    weight = name.removesuffix(BYTES)
    codes = checkpoint.require(name, FORMATS_OF_BYTES)
    scales_name = f"{weight}._scale"
    scales = checkpoint.floats(scales_name)
    used = (name, scales_name)
    kind = FORMATS_OF_BYTES[checkpoint.stored(name).dtype]
    grouped = scaled(checkpoint, name, codes, kind, scales_name, scales)
    return grouped.tensor(name, checkpoint.bits(used), (weight,)), used


def _read_packed(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    weight = name.removesuffix(PACKED)
    scales_name, shift_name = f"{weight}._scale", f"{weight}._shift"
    data = checkpoint.require(name, ("U8",))
    scale = checkpoint.floats(scales_name, (1, 2))
    real = checkpoint.is_stored(shift_name, FLOATS)
    shift = checkpoint.floats(shift_name, (1, 2)) if real else checkpoint.require(shift_name, ("I8", "U8"), (1, 2))
    groups = scale.size
    possible = [bits for bits in _BITS if -(-groups * bits // 8) == len(data)]
    if len(possible) != 1 or shift.size != groups:
        raise checkpoint.damaged(
            name,
            f"must hold integers of 2 or 4 bits for {groups} scales and {shift.size} shifts, but has the shape "
            f"{data.shape}",
        )
    bits, width = possible[0], data.shape[1]
    offset = MINIMUM if real else ZERO
    shifts = tuple(range(0, 8, bits))
    parts = {"scale": scale.reshape(-1), offset: (-shift if real else shift.astype(np.float32)).reshape(-1)}
    rows = _rows(checkpoint, weight, groups)
    shape = (rows, groups // rows * width)
    stacked = StackedRows(unsigned_format(bits, offset), shape, (groups, width), data, shifts, parts, True)
    used = (name, scales_name, shift_name)
    return stacked.tensor(name, checkpoint.bits(used), (weight,)), used


def _rows(checkpoint: PackedCheckpoint, weight: str, groups: int) -> int:
    """Rows of the weight, by the bias beside it."""
    bias = f"{weight.rpartition('.')[0]}.bias"
    shape = checkpoint.stored(bias).shape if bias in checkpoint else ()
    return shape[0] if len(shape) == 1 and shape[0] and groups % shape[0] == 0 else groups


QUANTO = PackedLayout("optimum-quanto", find_quanto, read_quanto)
