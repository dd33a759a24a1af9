"""Count zeros, negative zeros and values that are not finite, in one pass."""

import numpy as np
from jaxtyping import UInt32

from nbquant.kernels.compiled import compiled

SIGN, EXPONENT = np.uint32(0x80000000), np.uint32(0x7F800000)
ZERO = np.uint32(0)


@compiled()
def count_special(bits: UInt32[np.ndarray, " n"]) -> tuple[int, int, int]:
    """Count zeros of both signs, negative zeros, and infinities or NaN among float32 values given as their bits."""
    zeros = negative = unbounded = 0
    for i in range(len(bits)):
        value = bits[i]
        zeros += (value & ~SIGN) == ZERO
        negative += value == SIGN
        unbounded += (value & EXPONENT) == EXPONENT
    return zeros, negative, unbounded
