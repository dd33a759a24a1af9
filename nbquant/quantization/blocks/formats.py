"""Registry of block formats."""

from nbquant import registry
from nbquant.quantization.blocks.block_format import ROW, TENSOR, BlockFormat
from nbquant.quantization.blocks.gguf_blocks import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from nbquant.quantization.blocks.gguf_tables import IQ4_NL, MXFP4_GGUF, NVFP4_GGUF
from nbquant.quantization.blocks.integers import (
    INT2,
    INT2_ASYM,
    INT3,
    INT3_ASYM,
    INT4,
    INT4_ASYM,
    INT8,
    INT8_ASYM,
    INT8_TORCHAO,
)
from nbquant.quantization.blocks.k_quants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from nbquant.quantization.blocks.matmul_n_bits import MATMUL4, MATMUL4_ASYM, MATMUL8, MATMUL8_ASYM
from nbquant.quantization.blocks.microscaling import (
    FP8_E4M3,
    FP8_E5M2,
    MXFP4,
    MXFP6,
    MXFP6_E3M2,
    MXFP8,
    MXFP8_E5M2,
    NVFP4,
)
from nbquant.quantization.blocks.normal_float import FP4, FP4_DOUBLE, NF4, NF4_DOUBLE
from nbquant.quantization.blocks.ternary import TQ1_0, TQ2_0

BLOCK_FORMATS: tuple[BlockFormat, ...] = (
    *(INT8, INT8_TORCHAO, INT4, INT3, INT2, INT8_ASYM, INT4_ASYM, INT3_ASYM, INT2_ASYM),
    *(MATMUL4, MATMUL4_ASYM, MATMUL8, MATMUL8_ASYM),
    *(FP8_E4M3, FP8_E5M2, MXFP8, MXFP8_E5M2, MXFP6, MXFP6_E3M2, MXFP4, NVFP4),
    *(NF4, NF4_DOUBLE, FP4, FP4_DOUBLE),
    *(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4_GGUF, NVFP4_GGUF, TQ1_0, TQ2_0),
    *(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K),
)
"""All block formats, in the order of menus. Read as ``formats.BLOCK_FORMATS``, so that additions are seen."""

_BASES = (INT8, INT8_TORCHAO, INT4, INT3, INT2, MATMUL4, MATMUL8)
_AFFINE = (INT8_ASYM, INT4_ASYM, INT3_ASYM, INT2_ASYM, MATMUL4_ASYM, MATMUL8_ASYM)
INTEGERS = tuple(each.name for each in (*_BASES, *_AFFINE))
"""Names of the formats of integers with a float32 scale, and perhaps a zero point."""

_ENDS = {"channel": ROW, "tensor": TENSOR}


def names() -> tuple[str, ...]:
    """List the names of all block formats."""
    return tuple(block_format.name for block_format in BLOCK_FORMATS)


def named(name: str) -> BlockFormat:
    """Look up a block format by its name.

    Args:
        name: The name; "int4/64", "int8/channel" or "int8/tensor" sets the length of blocks, where it is free.

    Raises:
        ValueError: An unknown name (names the nearest), or a length that the format cannot have.
    """
    base, slash, length = name.partition("/")
    found = registry.find(BLOCK_FORMATS, base, "block format")
    if not slash:
        return found
    if length not in _ENDS and not length.isdecimal():
        raise ValueError(f"the length of blocks must be a number, channel or tensor, but got {length!r}.")
    return found.with_length(_ENDS.get(length) or int(length))


def is_name(name: str) -> bool:
    """Whether this is the name of a block format, with or without a length."""
    return name.partition("/")[0] in names()
