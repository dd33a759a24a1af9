"""ONNX Runtime's MatMulNBits: unsigned codes in blocks along a row, padded with code 0, with a scale in float32."""

import numpy as np

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.affine_search import best_zero_points
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import ranges
from nbquant.quantization.blocks.grid import NONE_1, IntegerGrid, inverse_of
from nbquant.quantization.blocks.layout import Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales, two_sided_factors
from nbquant.quantization.blocks.scales import scale_alone, scale_and_zero
from nbquant.quantization.blocks.stored_scales import round_to_float

LIBRARY = "onnxruntime 1.32.0"
LENGTH = 32

_HALF = np.float32(0.5)


def _layout(bits: int) -> Layout:
    return Layout(LENGTH * bits // 8, (Plane(0, bits, 1),))


def _symmetric(bits: int) -> BlockFormat:
    """The extreme weight becomes code 0, so that scales are negative where it is positive; 2^(b−1) stands for 0."""
    half = 1 << (bits - 1)
    grid = IntegerGrid(-half, half - 1, first=-half)

    def start(weight: Blocks) -> np.ndarray:
        least, most = ranges(weight)
        return np.where(np.abs(most) > np.abs(least), most, least) / np.float32(-half)

    def plain(weight: Blocks) -> Encoded:
        scale = start(weight)
        codes = np.empty(weight.shape, np.uint8)
        shift = np.array([half], np.float32) + _HALF
        inverse, high = inverse_of(scale), 2.0 * half - 1
        kernels.round_to_integers(weight, inverse, False, NONE_1, shift, kernels.TRUNCATE, 0.0, high, codes)
        return codes, {"scale": scale}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale = best_scales(weight, sensitivity, grid, start(weight), two_sided_factors(bits), round_to_float)
        return grid.codes(weight, scale), {"scale": scale}

    return BlockFormat(
        name=f"matmul{bits}",
        title=f"MatMulNBits {bits}",
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=bits,
        part_bits=(("scale", 32),),
        plain=plain,
        search=search,
        scales=scale_alone,
        padding_code=0,
        layout=_layout(bits),
        any_length=True,
    )


def _affine(bits: int) -> BlockFormat:
    """A range widened to hold 0, and an unsigned zero point."""
    high = (1 << bits) - 1
    grid = IntegerGrid(0, high)

    def plain(weight: Blocks) -> Encoded:
        least, most = ranges(weight)
        least, most = np.minimum(least, 0), np.maximum(most, 0)
        scale = (most - least) / np.float32(high)
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = np.clip(np.floor(-least / scale + _HALF), 0, high)
        zero = np.where(scale == 0, np.float32(0), zero)
        codes = np.empty(weight.shape, np.uint8)
        shift, inverse = zero + _HALF, inverse_of(scale)
        kernels.round_to_integers(weight, inverse, False, NONE_1, shift, kernels.TRUNCATE, 0.0, float(high), codes)
        return codes, {"scale": scale, "zero_point": zero.astype(np.uint8)}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale, zero = best_zero_points(weight, sensitivity, grid, round_to_float)
        return grid.codes(weight, scale, zero), {"scale": scale, "zero_point": zero.astype(np.uint8)}

    return BlockFormat(
        name=f"matmul{bits}_asym",
        title=f"MatMulNBits {bits} asymmetric",
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=bits,
        part_bits=(("scale", 32), ("zero_point", bits)),
        plain=plain,
        search=search,
        scales=scale_and_zero,
        padding_code=0,
        layout=_layout(bits),
        any_length=True,
    )


MATMUL4, MATMUL8 = (_symmetric(bits) for bits in (4, 8))
MATMUL4_ASYM, MATMUL8_ASYM = (_affine(bits) for bits in (4, 8))
