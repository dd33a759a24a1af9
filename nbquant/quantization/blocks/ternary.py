"""GGUF's ternary formats: TQ1_0 and TQ2_0, 256 weights of −1, 0, 1 times a scale in float16."""

import numpy as np

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.kernels.cpu.trits import gather_trits, scatter_trits
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import largest_magnitudes
from nbquant.quantization.blocks.gguf_blocks import LIBRARY
from nbquant.quantization.blocks.grid import NONE_1, IntegerGrid, inverse_of
from nbquant.quantization.blocks.layout import Bytes, Field, Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales
from nbquant.quantization.blocks.scales import scale_alone
from nbquant.quantization.blocks.stored_scales import as_half, round_to_half

LENGTH = 256

_GRID = IntegerGrid(-1, 1, first=-1)
_FACTORS = np.concatenate([[1], np.linspace(0.15, 1.0, 23)]).astype(np.float32)
_RUNS = ((0, 0, 32, 5), (160, 32, 16, 5), (240, 48, 4, 4))
"""First code, first byte, bytes and codes of a byte."""


def _plain(weight: Blocks) -> Encoded:
    scale = largest_magnitudes(weight)
    codes = np.empty(weight.shape, np.uint8)
    shift = np.ones(1, np.float32)
    kernels.round_to_integers(weight, inverse_of(scale), False, NONE_1, shift, kernels.AWAY, 0.0, 2.0, codes)
    return codes, {"scale": as_half(scale)}


def _search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    scale = best_scales(weight, sensitivity, _GRID, largest_magnitudes(weight), _FACTORS, round_to_half, refinements=2)
    return _GRID.codes(weight, scale), {"scale": as_half(scale)}


def _pack_trits(codes: np.ndarray, out: Bytes) -> None:
    for first, offset, stride, count in _RUNS:
        gather_trits(codes, first, stride, count, out, offset)


def _unpack_trits(data: Bytes, codes: np.ndarray) -> None:
    for first, offset, stride, count in _RUNS:
        scatter_trits(data, offset, stride, count, codes, first)


def _format(name: str, title: str, code_bits: float, layout: Layout) -> BlockFormat:
    return BlockFormat(
        name=name,
        title=title,
        library=LIBRARY,
        length=LENGTH,
        levels=_LEVELS,
        code_bits=code_bits,
        part_bits=(("scale", 16),),
        plain=_plain,
        search=_search,
        scales=scale_alone,
        layout=layout,
    )


_LEVELS = np.array([-1, 0, 1, 2], np.float32)  # code 3 of two bits is never written, but read as 2

TQ1_0 = _format(
    "tq1_0",
    "GGUF TQ1_0",
    52 * 8 / LENGTH,
    Layout(54, (), (Field("scale", 52, "<f2"),), pack_codes=_pack_trits, unpack_codes=_unpack_trits),
)
TQ2_0 = _format("tq2_0", "GGUF TQ2_0", 2, Layout(66, (Plane(0, 2, 32),), (Field("scale", 64, "<f2"),)))
