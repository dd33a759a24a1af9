"""GGUF's formats with tables of 16 levels: IQ4_NL, MXFP4 and NVFP4."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.kernels.cpu.reference_scales import fit_by_square
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import largest_magnitudes, signed_extremes
from nbquant.quantization.blocks.float_grid import E2M1
from nbquant.quantization.blocks.gguf_blocks import LIBRARY
from nbquant.quantization.blocks.grid import LevelGrid
from nbquant.quantization.blocks.layout import Field, Layout, Plane
from nbquant.quantization.blocks.microscaling import NVFP4_FACTORS, best_powers
from nbquant.quantization.blocks.scale_search import best_scales, factors
from nbquant.quantization.blocks.scales import Scales, scale_alone
from nbquant.quantization.blocks.stored_scales import as_half, round_to_half

GGML = "ggml 0.20.2"

_NON_LINEAR = LevelGrid((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), ties="upper")
_OTHER_SIGN = np.float32(-127 / 113)
_IQ4_FACTORS = np.concatenate([factors(4, 8), factors(4, 5) * _OTHER_SIGN])
_NEGLIGIBLE = np.float32(1e-15)


def _iq4_plain(weight: Blocks) -> Encoded:
    extreme = signed_extremes(weight)
    small = np.abs(extreme) < _NEGLIGIBLE
    codes = _NON_LINEAR.codes(weight, extreme / _NON_LINEAR.levels[0])
    scale = np.empty(len(weight), np.float32)
    fit_by_square(weight, codes, _NON_LINEAR.levels, scale)
    scale[small], codes[small] = 0, 0
    return codes, {"scale": as_half(scale)}


def _iq4_search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    start = signed_extremes(weight) / _NON_LINEAR.levels[0]
    scale = best_scales(weight, sensitivity, _NON_LINEAR, start, _IQ4_FACTORS, round_to_half)
    return _NON_LINEAR.codes(weight, scale), {"scale": as_half(scale)}


IQ4_NL = BlockFormat(
    name="iq4_nl",
    title="GGUF IQ4_NL",
    library=GGML,
    length=32,
    levels=_NON_LINEAR.levels,
    code_bits=4,
    part_bits=(("scale", 16),),
    plain=_iq4_plain,
    search=_iq4_search,
    scales=scale_alone,
    exact_zero=False,
    layout=Layout(18, (Plane(2, 4, 16),), (Field("scale", 0, "<f2"),)),
)

_DOUBLED = LevelGrid((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), ties="zero")
"""E2M1 times 2; the second zero, code 8, is never written, and read as +0."""

_HALF_POWERS = np.ldexp(np.float32(1), np.arange(-128, 128)).astype(np.float32)
"""Half the value of each E8M0 byte. As in gguf, 255 is a number: the largest weights then become infinite."""


def _half_power_scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(_HALF_POWERS[parts["scale"].reshape(-1)])


def _mxfp4_plain(weight: Blocks) -> Encoded:
    largest = largest_magnitudes(weight)
    with np.errstate(divide="ignore"):
        exponent = np.where(largest > 0, np.floor(np.log2(largest)) + 125, 0)
    stored = np.clip(exponent, 0, 255).astype(np.uint8)
    return _DOUBLED.codes(weight, _HALF_POWERS[stored]), {"scale": stored}


def _mxfp4_search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    stored = best_powers(weight, sensitivity, E2M1)
    return _DOUBLED.codes(weight, _HALF_POWERS[stored]), {"scale": stored}


MXFP4_GGUF = BlockFormat(
    name="mxfp4_gguf",
    title="GGUF MXFP4",
    library=LIBRARY,
    length=32,
    levels=_DOUBLED.levels,
    code_bits=4,
    part_bits=(("scale", 8),),
    plain=_mxfp4_plain,
    search=_mxfp4_search,
    scales=_half_power_scales,
    layout=Layout(17, (Plane(1, 4, 16),), (Field("scale", 0, "u1"),)),
)

_BYTES = np.arange(256)
_E4M3 = np.ldexp(
    ((_BYTES & 7) + np.where(_BYTES & 0x78, 8, 0)).astype(np.float32), np.maximum(_BYTES >> 3 & 15, 1) - 10
)
_HALF_E4M3 = np.where(_BYTES == 0x7F, 0, _E4M3 / 2).astype(np.float32)
"""Half the value of each scale byte, its sign ignored. As in gguf, 0x7f is 0, and 0xff is a number."""
_MOST_SCALE = np.uint8(0x7E)


def _nvfp4_scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(_HALF_E4M3[parts["scale"].reshape(-1)])


def _scale_bytes(scale: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Round scales to E4M3, halves up; too large ones become 448."""
    limited = np.clip(scale, 0, 448).astype(np.float32)
    subnormal = (limited * np.float32(512) + np.float32(0.5)).astype(np.int32)
    normal = ((limited.view(np.int32) + (1 << 19)) >> 20) - (120 << 3)
    return np.minimum(np.where(limited < np.float32(2**-6), np.minimum(subnormal, 7), normal), _MOST_SCALE).astype(
        np.uint8
    )


def _nvfp4_rows(weight: Blocks) -> Blocks:
    return weight.reshape(len(weight) * 4, -1)


def _nvfp4_encoded(weight: Blocks, stored: UInt8[np.ndarray, " groups"]) -> Encoded:
    codes = _DOUBLED.codes(_nvfp4_rows(weight), _HALF_E4M3[stored])
    return codes.reshape(weight.shape), {"scale": stored.reshape(-1, 4)}


def _nvfp4_plain(weight: Blocks) -> Encoded:
    return _nvfp4_encoded(weight, _scale_bytes(largest_magnitudes(_nvfp4_rows(weight)) / np.float32(6)))


def _nvfp4_search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    h = None if sensitivity is None else _nvfp4_rows(sensitivity)
    rows = _nvfp4_rows(weight)
    start = largest_magnitudes(rows) / np.float32(E2M1.most)
    scale = best_scales(rows, h, E2M1, start, NVFP4_FACTORS, lambda values: 2 * _HALF_E4M3[_scale_bytes(values)])
    return _nvfp4_encoded(weight, _scale_bytes(scale))


NVFP4_GGUF = BlockFormat(
    name="nvfp4_gguf",
    title="GGUF NVFP4",
    library=GGML,
    length=64,
    levels=_DOUBLED.levels,
    code_bits=4,
    part_bits=(("scale", 8),),
    plain=_nvfp4_plain,
    search=_nvfp4_search,
    scales=_nvfp4_scales,
    groups=4,
    layout=Layout(36, (Plane(4, 4, 8),), (Field("scale", 0, "u1", 4),)),
)
