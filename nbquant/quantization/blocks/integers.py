"""Integers of 2 to 8 bits with a float32 scale for a group of weights, a row or a tensor; symmetric or affine."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.affine_search import best_zero_points
from nbquant.quantization.blocks.block_format import ROW, BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import largest_magnitudes, ranges, signed_extremes
from nbquant.quantization.blocks.grid import NONE_1, IntegerGrid, inverse_of
from nbquant.quantization.blocks.scale_search import best_scales, factors, two_sided_factors
from nbquant.quantization.blocks.scales import scale_alone, scale_and_zero
from nbquant.quantization.blocks.stored_scales import round_to_float

PerBlock = Float32[np.ndarray, " blocks"]

COMPRESSED_TENSORS = "compressed-tensors 0.20.1"
TORCHAO = "torchao 0.18.0"
ONNXRUNTIME = "onnxruntime 1.32.0"

_EPSILON = np.float32(2**-23)
_NO_SHIFT = np.zeros(1, np.float32)


def _symmetric(
    name: str,
    title: str,
    library: str,
    grid: IntegerGrid,
    bits: int,
    length: int,
    scale_of: Callable[[Blocks], PerBlock],
    divide: bool = True,
) -> BlockFormat:
    """Levels around an exact zero: ŵ = s q.

    Args:
        name: Name.
        title: Title.
        library: Library.
        grid: Integers.
        bits: Stored bits.
        length: Weights of a block.
        scale_of: Scales as the library computes them.
        divide: Whether the library divides by the scale; else it multiplies by its inverse.
    """
    # One more level below 0 than above: a negative scale turns it to the other side.
    tried = factors(bits, 32) if grid.high == -grid.low else two_sided_factors(bits)

    def plain(weight: Blocks) -> Encoded:
        scale = scale_of(weight)
        codes = np.empty(weight.shape, np.uint8)
        used = scale if divide else inverse_of(scale)
        low, high = float(grid.low), float(grid.high)
        kernels.round_to_integers(weight, used, divide, NONE_1, _NO_SHIFT, kernels.EVEN, low, high, codes)
        return _from_bytes(codes, grid), {"scale": scale}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        start = signed_extremes(weight) / np.float32(grid.low)
        if grid.high == -grid.low:
            start = np.abs(start)
        scale = best_scales(weight, sensitivity, grid, start, tried, round_to_float)
        return grid.codes(weight, scale), {"scale": scale}

    return BlockFormat(
        name=name,
        title=title,
        library=library,
        length=length,
        levels=grid.levels,
        code_bits=bits,
        part_bits=(("scale", 32),),
        plain=plain,
        search=search,
        scales=scale_alone,
        any_length=True,
    )


def _over(levels: float, least: float = float(_EPSILON)) -> Callable[[Blocks], PerBlock]:
    """Scales: the largest magnitude over half the number of steps; ``least`` instead of zero."""

    def scale_of(weight: Blocks) -> PerBlock:
        scale = largest_magnitudes(weight) / np.float32(levels)
        return np.where(scale == 0, np.float32(least), scale)

    return scale_of


def _at_least(levels: float) -> Callable[[Blocks], PerBlock]:
    return lambda weight: np.maximum(largest_magnitudes(weight) / np.float32(levels), _EPSILON)


def _onnx_scale(weight: Blocks) -> PerBlock:
    scale = (2.0 * largest_magnitudes(weight).astype(np.float64) / 254).astype(np.float32)
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)


def _grid(bits: int, full: bool = True) -> IntegerGrid:
    """Signed integers; of eight bits a code is a byte in two's complement, of fewer it starts at 0."""
    half = 1 << (bits - 1)
    return IntegerGrid(-half if full else 1 - half, half - 1, first=0 if bits == 8 else -half)


def _from_bytes(codes: UInt8[np.ndarray, "blocks length"], grid: IntegerGrid) -> UInt8[np.ndarray, "blocks length"]:
    """Make codes of integers in two's complement, in place."""
    codes -= np.uint8(grid.first & 0xFF)
    return codes


INT8 = _symmetric("int8", "int8", ONNXRUNTIME, _grid(8, full=False), 8, ROW, _onnx_scale)
INT8_TORCHAO = _symmetric("int8_torchao", "int8 (torchao)", TORCHAO, _grid(8), 8, ROW, _at_least(127.5), divide=False)
INT4, INT3, INT2 = (
    _symmetric(f"int{bits}", f"int{bits}", COMPRESSED_TENSORS, _grid(bits), bits, 128, _over((2**bits - 1) / 2))
    for bits in (4, 3, 2)
)


def _affine(bits: int) -> BlockFormat:
    """Integers with a zero point: ŵ = s (q − z), the range widened to hold 0."""
    grid = _grid(bits)
    low, high = float(grid.low), float(grid.high)

    def plain(weight: Blocks) -> Encoded:
        least, most = ranges(weight)
        least, most = np.minimum(least, 0), np.maximum(most, 0)
        scale = (most - least) / np.float32(high - low)
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = np.rint(np.clip(np.float32(low) - least / scale, low, high))
        zero = np.nan_to_num(zero).astype(np.float32)
        scale = np.where(scale == 0, _EPSILON, scale)
        codes = np.empty(weight.shape, np.uint8)
        kernels.round_to_integers(weight, scale, True, NONE_1, zero, kernels.SHIFTED, low, high, codes)
        return _from_bytes(codes, grid), {"scale": scale, "zero_point": zero.astype(np.int8)}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale, zero = best_zero_points(weight, sensitivity, grid, round_to_float)
        return grid.codes(weight, scale, zero), {"scale": scale, "zero_point": zero.astype(np.int8)}

    return BlockFormat(
        name=f"int{bits}_asym",
        title=f"int{bits} asymmetric",
        library=COMPRESSED_TENSORS,
        length=ROW if bits == 8 else 128,
        levels=grid.levels,
        code_bits=bits,
        part_bits=(("scale", 32), ("zero_point", bits)),
        plain=plain,
        search=search,
        scales=scale_and_zero,
        any_length=True,
    )


INT8_ASYM, INT4_ASYM, INT3_ASYM, INT2_ASYM = (_affine(bits) for bits in (8, 4, 3, 2))
