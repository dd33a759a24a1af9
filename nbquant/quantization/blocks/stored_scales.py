"""Types in which scales are stored: float32, float16 and powers of two (E8M0)."""

import numpy as np
from jaxtyping import Float16, Float32, UInt8

from nbquant.kernels.cpu import block_search

E8M0_VALUES = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)).astype(np.float32), np.float32(np.nan))
"""Value of each byte of an E8M0 scale; 255 is NaN."""


def as_half(values: Float32[np.ndarray, "..."]) -> Float16[np.ndarray, "..."]:
    """Convert to float16 as a library does: too large values become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16)


def round_to_half(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round to the nearest finite float16."""
    out = np.empty(values.shape, np.float32)
    block_search.round_to_half(np.ascontiguousarray(values, np.float32).reshape(-1), out.reshape(-1))
    return out


def round_to_float(values: np.ndarray) -> Float32[np.ndarray, "..."]:
    """Round to float32, which is what scales are computed in."""
    return np.asarray(values, np.float32)


def power_exponent(values: Float32[np.ndarray, "..."], offset: int, up_from: int | None) -> UInt8[np.ndarray, "..."]:
    """Take the biased exponent of positive values, less an offset; 0 for zero.

    Args:
        values: Values.
        offset: Subtracted from exponents.
        up_from: Bits of the mantissa to which values are rounded first, halves up; None: truncate.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    if up_from is not None:
        bits = bits + (1 << (22 - up_from))
    return np.clip((bits >> 23) - offset, 0, 254).astype(np.uint8)


def round_to_power(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round positive values down to a power of two that E8M0 holds."""
    return E8M0_VALUES[power_exponent(values, 0, None)]
