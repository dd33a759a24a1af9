"""NF4 and FP4 of bitsandbytes: tables of 16 levels, a scale for each block, blocks that run across rows."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float32

from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.dynamic_map import dequantize_nested, quantize_nested
from nbquant.quantization.blocks.extremes import largest_magnitudes
from nbquant.quantization.blocks.grid import LevelGrid
from nbquant.quantization.blocks.layout import Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales, factors, least_error, pieces
from nbquant.quantization.blocks.scales import Scales, scale_alone
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


def _single(grid: LevelGrid, name: str, title: str) -> BlockFormat:
    """A float32 scale for each block."""
    # Levels on both sides of 0 differ in NF4, so that a negative scale is as likely to be the better one.
    lopsided = set(grid.table) != {-level for level in grid.table}
    tried = np.concatenate([factors(4, 7), -factors(4, 7)]) if lopsided else factors(4, 12)

    def plain(weight: Blocks) -> Encoded:
        scale = largest_magnitudes(weight)
        return grid.codes(weight, np.maximum(scale, _LEAST)), {"scale": scale}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale = best_scales(weight, sensitivity, grid, largest_magnitudes(weight), tried, round_to_float)
        return grid.codes(weight, scale), {"scale": scale}

    return _format(grid, name, title, (("scale", 32),), plain, search, scale_alone)


def _nested_scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(dequantize_nested(parts["scale"].reshape(-1), parts["nested_scale"], parts["offset"]))


def _parts(scale: Float32[np.ndarray, " blocks"]) -> dict[str, np.ndarray]:
    return dict(zip(("scale", "nested_scale", "offset"), quantize_nested(scale), strict=True))


def _double(grid: LevelGrid, name: str, title: str) -> BlockFormat:
    """Scales in 8 bits, relative to the largest of 256: quiet blocks beside a loud one can get a negative scale."""

    def plain(weight: Blocks) -> Encoded:
        scale = largest_magnitudes(weight)
        return grid.codes(weight, np.maximum(scale, _LEAST)), _parts(scale)

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        ideal = best_scales(weight, sensitivity, grid, largest_magnitudes(weight), factors(4, 10), round_to_float)
        parts = _parts(ideal)
        tried = np.clip(parts["scale"][:, None].astype(np.int64) + _NEIGHBOURS, 0, 255).astype(np.uint8)
        count = len(_NEIGHBOURS)
        scales = np.stack(
            [dequantize_nested(tried[:, k], parts["nested_scale"], parts["offset"]) for k in range(count)], axis=1
        )
        # Levels above and below 0 differ, so a negative scale is only the best one where nothing else is near.
        for part, w, h in pieces(weight, sensitivity):
            (parts["scale"][part],), _ = least_error((tried[part],), grid.errors(w, h, scales[part]))
        return grid.codes(weight, _nested_scales(parts).scale), parts

    return _format(
        grid, name, title, (("scale", 8), ("nested_scale", 32), ("offset", 32)), plain, search, _nested_scales
    )


def _format(
    grid: LevelGrid,
    name: str,
    title: str,
    part_bits: tuple[tuple[str, float], ...],
    plain: Callable[[Blocks], Encoded],
    search: Callable[[Blocks, Blocks | None], Encoded],
    scales: Callable[[Mapping[str, np.ndarray]], Scales],
) -> BlockFormat:
    return BlockFormat(
        name=name,
        title=title,
        library=LIBRARY,
        length=LENGTH,
        levels=grid.levels,
        code_bits=4,
        part_bits=part_bits,
        plain=plain,
        search=search,
        scales=scales,
        across_rows=True,
        any_length=True,
        layout=Layout(LENGTH // 2, (Plane(0, -4, 1),)),
    )


NF4 = _single(NORMAL, "nf4", "NF4")
NF4_DOUBLE = _double(NORMAL, "nf4_double", "NF4, double quantization")
FP4 = _single(FLOAT, "fp4", "FP4")
FP4_DOUBLE = _double(FLOAT, "fp4_double", "FP4, double quantization")
