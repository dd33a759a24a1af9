"""Small floating-point numbers as levels: E4M3, E5M2, E3M2, E2M3, E2M1."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from nbquant.kernels.cpu import block_codes, block_search
from nbquant.quantization.blocks.grid import Blocks, Candidates, in_lanes


@dataclass(frozen=True)
class FloatGrid:
    """Floating-point numbers of a few bits, subnormal ones included, with a sign and two zeros.

    Attributes:
        exponent_bits: Bits of the exponent.
        mantissa_bits: Bits of the mantissa.
        greatest: Code of the greatest number; codes above it are infinite or NaN.
    """

    exponent_bits: int
    mantissa_bits: int
    greatest: int

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def least_exponent(self) -> int:
        """Exponent of the least normal number."""
        return 2 - (1 << (self.exponent_bits - 1))

    @property
    def most(self) -> float:
        """The greatest number."""
        return float(self.levels[self.greatest])

    @property
    def neighbours(self) -> int:
        """Neighbours of a least-squares scale that are tried with it: as many as the kernel takes at once."""
        return block_search.LANES

    @cached_property
    def levels(self) -> Float32[np.ndarray, " k"]:
        """Value of each code; NaN for codes of infinity too, as no weight becomes one."""
        code = np.arange(1 << (self.bits - 1))
        normal = code >> self.mantissa_bits > 0
        fraction = (code & ((1 << self.mantissa_bits) - 1)) + np.where(normal, 1 << self.mantissa_bits, 0)
        exponent = np.maximum(code >> self.mantissa_bits, 1) - 1 + self.least_exponent - self.mantissa_bits
        magnitude = np.ldexp(fraction.astype(np.float32), exponent)
        magnitude[self.greatest + 1 :] = np.nan
        return np.concatenate([magnitude, -magnitude])

    def errors(self, weight: Blocks, h: Blocks, scale: Candidates) -> Float64[np.ndarray, "blocks candidates"]:
        """Compute the weighted error of each candidate."""
        count, scale = scale.shape[1], in_lanes(scale)
        error = np.empty(scale.shape)
        block_search.float_errors(weight, h, scale, self.mantissa_bits, self.least_exponent, self.most, error)
        return error[:, :count]

    def codes(self, weight: Blocks, scale: Float32[np.ndarray, " blocks"]) -> UInt8[np.ndarray, "blocks length"]:
        """Divide weights by scales, and round to the nearest code; a scale of 0 makes all of them 0."""
        out = np.empty(weight.shape, np.uint8)
        scratch = np.empty(weight.shape[1], np.int32)
        divisor = np.where(scale == 0, np.float32(np.inf), scale)
        sign = 1 << (self.bits - 1)
        mantissa, exponent = self.mantissa_bits, self.least_exponent
        block_codes.round_to_floats(weight, divisor, mantissa, exponent, self.greatest, sign, scratch, out)
        return out


E4M3 = FloatGrid(4, 3, 0x7E)
E5M2 = FloatGrid(5, 2, 0x7B)
E2M3 = FloatGrid(2, 3, 0x1F)
E3M2 = FloatGrid(3, 2, 0x1F)
E2M1 = FloatGrid(2, 1, 0x7)
