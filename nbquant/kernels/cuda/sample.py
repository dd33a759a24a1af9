"""Range of exponents in a sample of values, which sets the range of the kernels' tables."""

import torch
from jaxtyping import Float
from torch import Tensor

SAMPLE = 1 << 14  # values
MANTISSA_BITS = 23


def exponents(values: Float[Tensor, " n"]) -> tuple[int, int]:
    """Find the least and largest biased exponent in a sample of the values, without zeros and non-finite ones."""
    bits = values[:: max(1, len(values) // SAMPLE)].float().view(torch.int32) & 0x7FFFFFFF
    exponent = bits >> MANTISSA_BITS
    unusual = (bits == 0) | (exponent == 255)
    least = int(torch.where(unusual, 255, exponent).min())
    return (127, 127) if least == 255 else (least, int(torch.where(unusual, 0, exponent).max()))
