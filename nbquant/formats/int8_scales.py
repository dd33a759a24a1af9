"""Weights as int8 with a scale for the tensor, each output, or each group, as small projects write them by hand.

The codes are ``NAME.qweight``, of the shape of the weight, and the scales ``NAME.scale``, which broadcast to it. The
weight is s q.

Source: fracast 0.1.0.
"""

from dataclasses import replace

from nbquant.formats.float8 import scaled
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor

CODES, SCALES = ".qweight", ".scale"
AXES = range(1, 6)


def find_int8(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout."""
    return [name for name in checkpoint.files if name.endswith(CODES) and checkpoint.is_stored(name, ("I8",))]


def read_int8(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: Missing scales, or such that do not fit.
    """
    weight = name.removesuffix(CODES)
    codes, used = checkpoint.require(name, ("I8",), AXES), (name, f"{weight}{SCALES}")
    scales = checkpoint.floats(used[1], range(6))
    table = scales if scales.size == 1 else scales.reshape(len(scales), -1) if scales.ndim > 1 else scales
    rows = len(codes) if codes.ndim > 1 else 1
    grouped = scaled(checkpoint, name, codes.reshape(rows, -1), "int8", used[1], table)
    return replace(grouped.tensor(name, checkpoint.bits(used), (weight,)), shape=codes.shape), used


INT8 = PackedLayout("int8 with scales", find_int8, read_int8)
