"""Integers whose offset is a real number: ŵ = s q + m (MLX, quanto) or ŵ = s (q − z) (HQQ)."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.scales import Scales

MINIMUM, ZERO = "minimum", "zero"
"""The two conventions, and the parts that hold the offset."""


def unsigned_format(bits: int, offset: str, stored_bits: float | None = None) -> BlockFormat:
    """Make the format of unsigned integers with a scale and a real offset.

    Args:
        bits: Bits of an integer, 1 to 8.
        offset: ``MINIMUM`` or ``ZERO``.
        stored_bits: Bits that are stored for each; by default as many.
    """
    return replace(
        blocks.named("int4_asym"),
        name=f"uint{bits}_{offset}",
        title=f"uint{bits}, real {offset}",
        library="",
        levels=np.arange(1 << bits, dtype=np.float32),
        code_bits=stored_bits or bits,
        part_bits=(("scale", 32), (offset, 32)),
        plain=_refuse,
        search=_refuse,
        scales=_with_minimum if offset == MINIMUM else _with_zero,
    )


def _with_minimum(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(_flat(parts["scale"]), minimum=_flat(parts[MINIMUM]))


def _with_zero(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(_flat(parts["scale"]), zero=_flat(parts[ZERO]))


def _flat(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).reshape(-1)


def _refuse(weight: Blocks, sensitivity: Blocks | None = None) -> Encoded:
    raise ValueError("weights can be read in this format, but not encoded: use another, such as int4_asym.")
