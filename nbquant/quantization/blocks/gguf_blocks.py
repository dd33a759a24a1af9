"""GGUF's formats of 32 weights with a scale in float16: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0."""

from collections.abc import Mapping

import numpy as np

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.affine_search import best_ranges
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import largest_magnitudes, ranges, signed_extremes
from nbquant.quantization.blocks.grid import NONE_1, IntegerGrid, inverse_of
from nbquant.quantization.blocks.layout import Field, Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales, factors, two_sided_factors
from nbquant.quantization.blocks.scales import Scales, scale_alone
from nbquant.quantization.blocks.stored_scales import as_half, round_to_half

LIBRARY = "gguf 0.19.0"
LENGTH = 32


def _scale_and_minimum(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(parts["scale"].astype(np.float32), minimum=parts["minimum"].astype(np.float32))


def _symmetric(bits: int, title: str, layout: Layout) -> BlockFormat:
    """A scale that maps the extreme weight to the least level, so that it is negative where the extreme is positive."""
    half = 1 << (bits - 1)
    grid = IntegerGrid(-half, half - 1, first=-half)

    def plain(weight: Blocks) -> Encoded:
        scale = signed_extremes(weight) / np.float32(-half)
        codes = np.empty(weight.shape, np.uint8)
        shift = np.array([half + 0.5], np.float32)
        kernels.round_to_integers(
            weight, inverse_of(scale), False, NONE_1, shift, kernels.TRUNCATE, 0.0, 2.0 * half - 1, codes
        )
        return codes, {"scale": as_half(scale)}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        start = signed_extremes(weight) / np.float32(-half)
        scale = best_scales(weight, sensitivity, grid, start, two_sided_factors(bits), round_to_half)
        return grid.codes(weight, scale), {"scale": as_half(scale)}

    return BlockFormat(
        name=f"q{bits}_0",
        title=title,
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=bits,
        part_bits=(("scale", 16),),
        plain=plain,
        search=search,
        scales=scale_alone,
        layout=layout,
    )


def _affine(bits: int, title: str, layout: Layout) -> BlockFormat:
    """A scale and a minimum: the least weight is exact up to float16, zeros are not."""
    high = (1 << bits) - 1
    grid = IntegerGrid(0, high)

    def plain(weight: Blocks) -> Encoded:
        least, most = ranges(weight)
        scale = (most - least) / np.float32(high)
        codes = np.empty(weight.shape, np.uint8)
        shift = np.array([0.5], np.float32)
        kernels.round_to_integers(
            weight, inverse_of(scale), False, least, shift, kernels.TRUNCATE, 0.0, float(high), codes
        )
        return codes, {"scale": as_half(scale), "minimum": as_half(least)}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale, minimum = best_ranges(weight, sensitivity, grid, round_to_half)
        codes = grid.codes(weight, scale, minimum=minimum)
        return codes, {"scale": as_half(scale), "minimum": as_half(minimum)}

    return BlockFormat(
        name=f"q{bits}_1",
        title=title,
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=bits,
        part_bits=(("scale", 16), ("minimum", 16)),
        plain=plain,
        search=search,
        scales=_scale_and_minimum,
        exact_zero=False,
        layout=layout,
    )


_SCALE, _MINIMUM = Field("scale", 0, "<f2"), Field("minimum", 2, "<f2")

Q4_0 = _symmetric(4, "GGUF Q4_0", Layout(18, (Plane(2, 4, 16),), (_SCALE,)))
Q4_1 = _affine(4, "GGUF Q4_1", Layout(20, (Plane(4, 4, 16),), (_SCALE, _MINIMUM)))
Q5_0 = _symmetric(5, "GGUF Q5_0", Layout(22, (Plane(6, 4, 16), Plane(2, 1, 1, shift=4)), (_SCALE,)))
Q5_1 = _affine(5, "GGUF Q5_1", Layout(24, (Plane(8, 4, 16), Plane(4, 1, 1, shift=4)), (_SCALE, _MINIMUM)))

_BYTES = IntegerGrid(-128, 127)


def _q8_plain(weight: Blocks) -> Encoded:
    scale = largest_magnitudes(weight) / np.float32(127)
    codes = np.empty(weight.shape, np.uint8)
    shift = np.zeros(1, np.float32)
    kernels.round_to_integers(weight, inverse_of(scale), False, NONE_1, shift, kernels.AWAY, -128.0, 127.0, codes)
    return codes, {"scale": as_half(scale)}


def _q8_search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    start = largest_magnitudes(weight) / np.float32(127)
    scale = best_scales(weight, sensitivity, _BYTES, start, factors(8, 32), round_to_half)
    return _BYTES.codes(weight, scale), {"scale": as_half(scale)}


Q8_0 = BlockFormat(
    name="q8_0",
    title="GGUF Q8_0",
    library=LIBRARY,
    length=LENGTH,
    levels=_BYTES.levels,
    code_bits=8,
    part_bits=(("scale", 16),),
    plain=_q8_plain,
    search=_q8_search,
    scales=scale_alone,
    layout=Layout(34, (Plane(2, 8, 32),), (_SCALE,)),
)
