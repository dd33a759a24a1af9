"""Tensors stored as indices into a codebook."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod

import numpy as np
from jaxtyping import Float32, Int, UInt8

from nbquant.formats.constant import KINDS, Constant
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.formats.packed_words import unpack_range
from nbquant.quantization.blocks.block_codes import BlockCodes, Part
from nbquant.quantization.blocks.block_format import TENSOR, BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.scales import Scales

MOST = 256  # levels of a block format, whose codes are bytes
NAME = "codebook"


def codebook_tensor(
    indices: Constant,
    shape: tuple[int, ...],
    codebook: Float32[np.ndarray, " k"],
    stored: int,
    damaged: Callable[[str], ValueError],
    bits: int | None = None,
) -> PackedTensor:
    """Make the record of a tensor with a codebook.

    Args:
        indices: The indices.
        shape: Shape of the tensor.
        codebook: Reconstruction values.
        stored: Stored bits of indices and codebook.
        damaged: damaged(how) makes the error of an index beyond the codebook.
        bits: Bits of an index; by default those of its type.
    """
    name, width = indices.name, bits or KINDS[indices.type][1]
    columns = prod(shape[1:]) if len(shape) > 1 else prod(shape)

    def rows(first: int, last: int) -> Int[np.ndarray, "rows columns"]:
        raw, start, end = indices.read(), first * columns, last * columns
        found = raw[start:end] if width >= 8 else unpack_range(raw, width, start, end)
        if found.min() < 0 or found.max() >= len(codebook):
            raise damaged(
                f"must have indices from 0 to {len(codebook) - 1}, but has {found.min()} to {found.max()} in rows "
                f"{first} to {last - 1}"
            )
        return found.reshape(last - first, columns)

    def values(first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        return np.take(codebook, rows(first, last))

    if len(codebook) > MOST:
        return PackedTensor(name, shape, NAME, None, stored, None, values)
    found = _format(codebook, width)
    return PackedTensor(name, shape, NAME, found, stored, partial(_codes, found, codebook, rows), values)


Rows = Callable[[int, int], Int[np.ndarray, "rows columns"]]


def _codes(found: BlockFormat, codebook: Float32[np.ndarray, " k"], rows: Rows, first: int, last: int) -> BlockCodes:
    codes: UInt8[np.ndarray, "rows columns"] = np.ascontiguousarray(rows(first, last), np.uint8)
    once = codebook if first == 0 else codebook[:0]  # it is stored once, however many pieces are read
    return BlockCodes(NAME, codes, (Part(NAME, once, 32),), np.empty(0, np.uint8), found.code_bits)


def _format(codebook: Float32[np.ndarray, " k"], bits: float) -> BlockFormat:
    return BlockFormat(
        name=NAME,
        title="Codebook",
        library="",
        length=TENSOR,
        levels=codebook,
        code_bits=bits,
        part_bits=((NAME, 32),),
        plain=_refuse,
        search=_refuse,
        scales=_ones,
    )


def _ones(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(np.ones(1, np.float32))


def _refuse(weight: Blocks, sensitivity: Blocks | None = None) -> Encoded:
    raise ValueError('weights cannot be encoded with the codebook of a file: use a method such as "ecsq".')
