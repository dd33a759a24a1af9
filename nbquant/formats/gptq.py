"""GPTQ's layout: integers packed along the input, with zero points, and a group for each column.

Words of ``qweight`` hold the integers of successive columns of one output, without a gap; those of ``qzeros`` the zero
points of successive outputs. The weight of output i and column j is s (q − z) of group ``g_idx[j]``.

In the first version of the layout, which has no mark, zero points are stored less one; readers add it and keep as many
bits as integers have, so that the greatest one stands for 0. The configuration names the second with
``checkpoint_format: gptq_v2``.

Source: AutoGPTQ, as published, and GPTQModel 7.7.0 (Frantar et al. 2022, arXiv:2210.17323).
"""

from functools import partial

import numpy as np
from jaxtyping import UInt8

from nbquant.formats.grouped_tensor import Grouped, checked_groups, group_length, with_group_index
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor, as_float32
from nbquant.formats.packed_words import WORD, as_codes, unpack_stream
from nbquant.quantization.blocks import formats as blocks
from nbquant.tensorfile import FLOATS

CODES = "qweight"
BITS = (2, 3, 4, 8)
PLANAR = "gptq_p"  # GPTQModel 7.7.0: integers of 3 bits in planes, which are listed but not decoded


def find_gptq(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout; those of AWQ have the same name and another shape."""
    return [
        name
        for name in checkpoint.files
        if name.rpartition(".")[2] == CODES and not checkpoint.is_stored(name, ("I8",))
    ]


def read_gptq(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    layer = name.removesuffix(CODES)
    words = checkpoint.require(name, ("I32",))
    scales_name, zeros_name, groups_name = f"{layer}scales", f"{layer}qzeros", f"{layer}g_idx"
    scales = checkpoint.require(scales_name, FLOATS)
    zeros = checkpoint.require(zeros_name, ("I32",))
    groups, rows = scales.shape
    bits = _bits(checkpoint, zeros_name, zeros.shape[1] if len(zeros) == groups else 0, rows)
    columns = words.shape[0] * WORD // bits
    if words.shape[1] != rows or words.shape[0] * WORD % bits:
        raise checkpoint.damaged(name, f"has the shape {words.shape}, which does not fit {rows} outputs of {bits} bits")
    used = [name, scales_name, zeros_name]
    if checkpoint.config.get("checkpoint_format") == PLANAR and bits == 3:
        stored, others = checkpoint.bits(used), (f"{layer}weight",)
        return PackedTensor(name, (rows, columns), "int3, planar", None, stored, None, None, others), tuple(used)
    version_2 = checkpoint.config.get("checkpoint_format") == "gptq_v2"
    one = 0 if version_2 else 1
    found = blocks.named(f"int{bits}_asym")
    dtype = checkpoint.stored(scales_name).dtype
    grouped = Grouped(
        found, (rows, columns), partial(_codes, words, bits), partial(_parts, scales, dtype, zeros, bits, one)
    )
    if groups_name in checkpoint and checkpoint.stored(groups_name).count:
        used.append(groups_name)
        grouped = with_group_index(grouped, checked_groups(checkpoint, groups_name, columns, groups), groups)
    else:
        said = checkpoint.config.get("group_size")
        length = group_length(checkpoint, scales_name, columns, groups, said)
        grouped = Grouped(found.with_length(length), grouped.shape, grouped.codes, grouped.parts)
    return grouped.tensor(name, checkpoint.bits(used), (f"{layer}weight",)), tuple(used)


def _bits(checkpoint: PackedCheckpoint, name: str, words: int, rows: int) -> int:
    """Bits of an integer, by the words of the zero points of all rows."""
    possible = [bits for bits in BITS if -(-rows * bits // WORD) == words]
    likely = [bits for bits in possible if bits == checkpoint.config.get("bits")] or possible
    if len(likely) != 1:
        raise checkpoint.damaged(
            name,
            f"must have zero points of {', '.join(map(str, BITS))} bits for the groups of {rows} outputs, but has the "
            f"shape {checkpoint.stored(name).shape}",
        )
    return likely[0]


def _codes(words: np.ndarray, bits: int, first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
    return as_codes(unpack_stream(words[:, first:last].T, bits), bits)


def _parts(
    scales: np.ndarray, dtype: str, zeros: np.ndarray, bits: int, one: int, first: int, last: int
) -> dict[str, np.ndarray]:
    # Words from that of the first row; three bits of 32 rows fill three words.
    start, end = first // WORD * bits, -(-last // WORD) * bits
    integers = unpack_stream(zeros[:, start:end], bits)[:, first % WORD : first % WORD + last - first]
    point = ((integers.astype(np.int16) + one) & ((1 << bits) - 1)) - (1 << (bits - 1))
    return {
        "scale": as_float32(scales[:, first:last].T, dtype).reshape(-1),
        "zero_point": point.T.astype(np.int8).reshape(-1),
    }


GPTQ = PackedLayout("GPTQ", find_gptq, read_gptq)
