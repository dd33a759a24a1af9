"""NF4 and FP4 of bitsandbytes: tables of 16 levels, a scale for each block, blocks that run across rows."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded, Scales
from nbquant.quantization.blocks.dynamic_map import dequantize_nested, quantize_nested
from nbquant.quantization.blocks.extremes import largest_magnitudes
from nbquant.quantization.blocks.grid import LevelGrid, Weighting, inverse_of
from nbquant.quantization.blocks.layout import Layout, Plane
from nbquant.quantization.blocks.scale_search import PIECE, best_scales, factors, least_error
from nbquant.quantization.blocks.stored_scales import round_to_float

LIBRARY = "bitsandbytes 0.50.2"
LENGTH = 64

NORMAL = LevelGrid(
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    )
)
"""Levels of equal probability under a normal distribution, and 0 (Dettmers et al. 2023, arXiv:2305.14314)."""

_MAGNITUDES = tuple(value / 12 for value in (0, 0.0625, 8, 12, 4, 6, 2, 3))
FLOAT = LevelGrid((*_MAGNITUDES, *(0.0 - value for value in _MAGNITUDES)), distinct=False)
"""A float of four bits with 0.0625 as its only subnormal number.

Two codes are +0: bitsandbytes writes 8 for small positive weights, and 0 for zeros and small negative ones.
"""

_LEAST = np.float32(1e-38)
_NEIGHBOURS = np.arange(-3, 4)


def _codes(
    grid: LevelGrid, weight: Blocks, scale: Float32[np.ndarray, " blocks"]
) -> UInt8[np.ndarray, "blocks length"]:
    out = np.empty(weight.shape, np.uint8)
    kernels.round_to_levels(weight, inverse_of(scale), grid.thresholds, grid.order, out)
    return out


def _format(grid: LevelGrid, name: str, title: str) -> BlockFormat:
    """A float32 scale for each block."""
    # Levels on both sides of 0 differ in NF4, so that a negative scale is as likely to be the better one.
    lopsided = set(grid.table) != {-level for level in grid.table}
    tried = np.concatenate([factors(4, 7), -factors(4, 7)]) if lopsided else factors(4, 12)

    def plain(weight: Blocks) -> Encoded:
        scale = largest_magnitudes(weight)
        return _codes(grid, weight, np.maximum(scale, _LEAST)), {"scale": scale}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale = best_scales(weight, sensitivity, grid, largest_magnitudes(weight), tried, round_to_float)
        return _codes(grid, weight, scale), {"scale": scale}

    return BlockFormat(
        name=name,
        title=title,
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=4,
        part_bits=(("scale", 32),),
        plain=plain,
        search=search,
        scales=lambda parts: Scales(parts["scale"].astype(np.float32).reshape(-1)),
        across_rows=True,
        any_length=True,
        layout=Layout(LENGTH // 2, (Plane(0, -4, 1),)),
    )


def _nested_scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(dequantize_nested(parts["scale"].reshape(-1), parts["nested_scale"], parts["offset"]))


def _parts(scale: Float32[np.ndarray, " blocks"]) -> dict[str, np.ndarray]:
    return dict(zip(("scale", "nested_scale", "offset"), quantize_nested(scale), strict=True))


def _double(grid: LevelGrid, name: str, title: str) -> BlockFormat:
    """Scales in 8 bits, relative to the largest of 256: quiet blocks beside a loud one can get a negative scale."""

    def plain(weight: Blocks) -> Encoded:
        scale = largest_magnitudes(weight)
        return _codes(grid, weight, np.maximum(scale, _LEAST)), _parts(scale)

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        ideal = best_scales(weight, sensitivity, grid, largest_magnitudes(weight), factors(4, 10), round_to_float)
        parts = _parts(ideal)
        weighting = Weighting.of(sensitivity, weight.shape[1])
        tried = np.clip(parts["scale"][:, None].astype(np.int64) + _NEIGHBOURS, 0, 255).astype(np.uint8)
        count = len(_NEIGHBOURS)
        scales = np.stack(
            [dequantize_nested(tried[:, k], parts["nested_scale"], parts["offset"]) for k in range(count)], axis=1
        )
        # Levels above and below 0 differ, so a negative scale is only the best one where nothing else is near.
        piece = max(1, PIECE // weight.shape[1])
        for first in range(0, len(weight), piece):
            part = slice(first, first + piece)
            w = weight[part]
            errors = grid.errors(w, weighting.part(part, len(w)), scales[part])
            (parts["scale"][part],), _ = least_error((tried[part],), errors)
        return _codes(grid, weight, _nested_scales(parts).scale), parts

    return BlockFormat(
        name=name,
        title=title,
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=4,
        part_bits=(("scale", 8), ("nested_scale", 32), ("offset", 32)),
        plain=plain,
        search=search,
        scales=_nested_scales,
        across_rows=True,
        any_length=True,
        layout=Layout(LENGTH // 2, (Plane(0, -4, 1),)),
    )


NF4 = _format(NORMAL, "nf4", "NF4")
NF4_DOUBLE = _double(NORMAL, "nf4_double", "NF4, double quantization")
FP4 = _format(FLOAT, "fp4", "FP4")
FP4_DOUBLE = _double(FLOAT, "fp4_double", "FP4, double quantization")
