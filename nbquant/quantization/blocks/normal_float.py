"""NF4 and FP4 of bitsandbytes: tables of 16 levels, a scale for each block, blocks that run across rows."""

from collections.abc import Mapping

import numpy as np

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded, Scales
from nbquant.quantization.blocks.extremes import largest_magnitudes
from nbquant.quantization.blocks.grid import LevelGrid, inverse_of
from nbquant.quantization.blocks.layout import Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales
from nbquant.quantization.blocks.stored_scales import round_to_float

LIBRARY = "bitsandbytes 0.50.2"
LENGTH = 64

_NF4 = LevelGrid(
    (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    )
)


def _scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(parts["scale"].reshape(-1))


_FACTORS = np.concatenate([[1], np.linspace(0.7, 1.08, 15)]).astype(np.float32)
_LEAST = np.float32(1e-38)


def _plain(weight: Blocks) -> Encoded:
    scale = largest_magnitudes(weight)
    codes = np.empty(weight.shape, np.uint8)
    inverse = inverse_of(np.maximum(scale, _LEAST))
    kernels.round_to_levels(weight, inverse, _NF4.thresholds, _NF4.order, codes)
    return codes, {"scale": scale}


def _search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    scale = best_scales(weight, sensitivity, _NF4, largest_magnitudes(weight), _FACTORS, round_to_float)
    return _NF4.codes(weight, scale), {"scale": scale}


NF4 = BlockFormat(
    name="nf4",
    title="NF4",
    library=LIBRARY,
    length=LENGTH,
    levels=_NF4.levels,
    code_bits=4,
    part_bits=(("scale", 32),),
    plain=_plain,
    search=_search,
    scales=_scales,
    across_rows=True,
    layout=Layout(32, (Plane(0, -4, 1),)),
)
