"""GGUF's formats of 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0."""

from collections.abc import Mapping

import numpy as np

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded, Scales
from nbquant.quantization.blocks.grid import NONE_1, IntegerGrid, inverse_of
from nbquant.quantization.blocks.layout import Field, Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales
from nbquant.quantization.blocks.stored_scales import as_half, round_to_half

LIBRARY = "gguf 0.19.0"
LENGTH = 32


def _scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(parts["scale"].astype(np.float32).reshape(-1))


def _largest(weight: Blocks) -> np.ndarray:
    extreme = np.empty(len(weight), np.float32)
    kernels.first_of_largest_magnitude(weight, extreme)
    return extreme


_Q8 = IntegerGrid(-128, 127)


def _q8_plain(weight: Blocks) -> Encoded:
    scale = np.abs(_largest(weight)) / np.float32(127)
    codes = np.empty(weight.shape, np.uint8)
    shift = np.zeros(1, np.float32)
    kernels.round_to_integers(weight, inverse_of(scale), False, NONE_1, shift, kernels.AWAY, -128.0, 127.0, codes)
    return codes, {"scale": as_half(scale)}


_Q8_FACTORS = np.concatenate([[1], np.linspace(0.97, 1.01, 24)]).astype(np.float32)


def _q8_search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    start = np.abs(_largest(weight)) / np.float32(127)
    scale = best_scales(weight, sensitivity, _Q8, start, _Q8_FACTORS, round_to_half)
    return _Q8.codes(weight, scale), {"scale": as_half(scale)}


Q8_0 = BlockFormat(
    name="q8_0",
    title="GGUF Q8_0",
    library=LIBRARY,
    length=LENGTH,
    levels=_Q8.levels,
    code_bits=8,
    part_bits=(("scale", 16),),
    plain=_q8_plain,
    search=_q8_search,
    scales=_scales,
    layout=Layout(34, (Plane(2, 8, 32),), (Field("scale", 0, "<f2"),)),
)
