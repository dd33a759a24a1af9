"""Scales of a quantized tensor: what turns the levels of a block format into weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_codes import BlockCodes, Part
from nbquant.quantization.blocks.block_format import ROW, TENSOR, BlockFormat

_PROBED = 300  # blocks
_NESTED = 256  # blocks that share a scale of their scales


@dataclass(frozen=True, eq=False)
class Scaling:
    """Scales of a tensor in a block format.

    Attributes:
        format: Name of the format.
        codes: Code of each value of the codebook.
        parts: Scales and other side information, as stored.
        dtype: Type of the restored weights.
    """

    format: str
    codes: UInt8[np.ndarray, " k"]
    parts: tuple[Part, ...]
    dtype: torch.dtype

    def dequantize(self, assignment: Int[Tensor, " n"], shape: Sequence[int]) -> Float[Tensor, "..."]:
        """Compute the weights of indices into the codebook."""
        decoded = formats.named(self.format).decode(self.encoded(assignment, shape))
        return torch.from_numpy(decoded).to(self.dtype).reshape(tuple(shape))

    def encoded(self, assignment: Int[Tensor, " n"], shape: Sequence[int]) -> BlockCodes:
        """Put codes and parts together for indices into the codebook."""
        codes = self.codes[assignment.cpu().numpy()].reshape(block_matrix(shape))
        return formats.named(self.format).assemble(codes, {part.name: part.values for part in self.parts})

    def bits(self) -> dict[str, int]:
        """Count the stored bits of each part."""
        return {part.name: int(part.values.size * part.bits) for part in self.parts}


def block_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor: its first axis and all others; a vector is one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, prod(shape) // rows if rows else 0


def ordered_codes(found: BlockFormat, used: UInt8[np.ndarray, " k"]) -> UInt8[np.ndarray, " k"]:
    """Sort codes by level; −0.0 comes before 0.0, and of equal levels the lower code first."""
    levels = found.levels[used]
    return used[np.lexsort([used, ~np.signbit(levels), levels])]


def part_shapes(found: BlockFormat, shape: Sequence[int]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Find the type and shape of each part of a tensor, in the order in which they are stored.

    Args:
        found: The format.
        shape: Shape of the tensor.
    """
    blocks = found.blocks_of(block_matrix(shape))[0]
    result = {}
    for name, (dtype, once, many) in _probed(found.name).items():
        of = {_PROBED: 1, -(-_PROBED // _NESTED): _NESTED}.get(many[0], blocks)  # blocks that share a value
        result[name] = dtype, (-(-blocks // of), *once[1:])
    return result


@lru_cache(maxsize=64)
def _probed(name: str) -> dict[str, tuple[np.dtype, tuple[int, ...], tuple[int, ...]]]:
    """Type and shape of each part, of one block and of many."""
    found = formats.named(name.partition("/")[0])  # parts do not depend on a length that is free
    length = 4 if found.length in (ROW, TENSOR) else found.length
    one, many = (found.encode(np.ones((count, length), np.float32)) for count in (1, _PROBED))
    return {
        a.name: (a.values.dtype, a.values.shape, b.values.shape) for a, b in zip(one.parts, many.parts, strict=True)
    }
