"""Floating-point weights with shared scales: FP8, MXFP8, MXFP6, MXFP4 and NVFP4."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.quantization.blocks.block_format import TENSOR, BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import largest_magnitudes
from nbquant.quantization.blocks.float_grid import E2M1, E2M3, E3M2, E4M3, E5M2, FloatGrid
from nbquant.quantization.blocks.layout import Layout, Plane
from nbquant.quantization.blocks.scale_search import best_scales
from nbquant.quantization.blocks.scales import Scales, scale_alone
from nbquant.quantization.blocks.stored_scales import E8M0_VALUES, power_exponent, round_to_float, round_to_power

LIBRARY = "compressed-tensors 0.20.1"
OCP = "OCP Microscaling 1.0"

_EPSILON = np.float32(2**-23)
_OCTAVE = np.concatenate([[1], np.exp2(np.linspace(-1, 0.25, 25))]).astype(np.float32)


def _fp8(grid: FloatGrid, name: str, title: str, library: str) -> BlockFormat:
    """One float32 scale that maps the largest weight to the greatest number."""

    def start(weight: Blocks) -> Float32[np.ndarray, " blocks"]:
        return largest_magnitudes(weight) / np.float32(grid.most)

    def plain(weight: Blocks) -> Encoded:
        scale = start(weight)
        scale = np.where(scale == 0, _EPSILON, scale)
        return grid.codes(weight, scale), {"scale": scale}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        scale = best_scales(weight, sensitivity, grid, start(weight), _OCTAVE, round_to_float)
        return grid.codes(weight, scale), {"scale": scale}

    return BlockFormat(
        name=name,
        title=title,
        library=library,
        length=TENSOR,
        levels=grid.levels,
        code_bits=8,
        part_bits=(("scale", 32),),
        plain=plain,
        search=search,
        scales=scale_alone,
        any_length=True,
    )


FP8_E4M3 = _fp8(E4M3, "fp8_e4m3", "FP8 E4M3", LIBRARY)
FP8_E5M2 = _fp8(E5M2, "fp8_e5m2", "FP8 E5M2", "torch 2.13.0")


def power_scales(parts: Mapping[str, np.ndarray]) -> Scales:
    """Read scales that are powers of two; an exponent of 255 is NaN."""
    return Scales(E8M0_VALUES[parts["scale"].reshape(-1)])


def _exponent_of(grid: FloatGrid) -> int:
    """Exponent of the greatest number."""
    return int(np.floor(np.log2(grid.most)))


_POWERS = np.array([1, 2, 0.5, 0.25], np.float32)


def best_powers(weight: Blocks, sensitivity: Blocks | None, grid: FloatGrid) -> UInt8[np.ndarray, " blocks"]:
    """Search for the power of two of least weighted error of each block, as E8M0.

    The largest weight of a block leaves few of them: the power at which it has the exponent of the greatest number,
    twice that, and less, at which it saturates.
    """
    start = E8M0_VALUES[power_exponent(largest_magnitudes(weight), _exponent_of(grid), None)]
    scale = best_scales(weight, sensitivity, grid, start, _POWERS, round_to_power, refinements=0)
    return power_exponent(scale, 0, None)


def _mx(
    grid: FloatGrid, name: str, title: str, library: str, up_from: int | None, layout: Layout | None
) -> BlockFormat:
    """A power of two for 32 weights.

    Args:
        grid: Numbers.
        name: Name.
        title: Title.
        library: Library.
        up_from: Bits of the mantissa to which the largest weight is rounded before its exponent is taken; None: it is
            truncated, so that the largest weights may saturate.
        layout: Bytes.
    """
    offset = _exponent_of(grid)

    def plain(weight: Blocks) -> Encoded:
        stored = power_exponent(largest_magnitudes(weight), offset, up_from)
        return grid.codes(weight, E8M0_VALUES[stored]), {"scale": stored}

    def search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        stored = best_powers(weight, sensitivity, grid)
        return grid.codes(weight, E8M0_VALUES[stored]), {"scale": stored}

    return BlockFormat(
        name=name,
        title=title,
        library=library,
        length=32,
        levels=grid.levels,
        code_bits=grid.bits,
        part_bits=(("scale", 8),),
        plain=plain,
        search=search,
        scales=power_scales,
        layout=layout,
    )


_NIBBLES = Layout(16, (Plane(0, 4, 1),))

MXFP8 = _mx(E4M3, "mxfp8", "MXFP8", LIBRARY, 1, None)
MXFP8_E5M2 = _mx(E5M2, "mxfp8_e5m2", "MXFP8 E5M2", OCP, None, None)
MXFP6 = _mx(E2M3, "mxfp6", "MXFP6", LIBRARY, 3, None)
MXFP6_E3M2 = _mx(E3M2, "mxfp6_e3m2", "MXFP6 E3M2", OCP, None, None)
MXFP4 = _mx(E2M1, "mxfp4", "MXFP4", LIBRARY, 1, _NIBBLES)


_MOST_SCALE = np.float32(E4M3.most)
_SCALE_EPSILON = np.float32(0.125)


def _global_scale(weight: Blocks) -> Float32[np.ndarray, "1"]:
    """Scale that maps the largest weight to the greatest number with the greatest block scale."""
    most = np.maximum(largest_magnitudes(weight).max(), np.finfo(np.float32).tiny)
    with np.errstate(over="ignore"):
        found = np.float32(E4M3.most * E2M1.most) / most
    return np.array([found if np.isfinite(found) else 1], np.float32)


def to_e4m3(scale: Float32[np.ndarray, " blocks"]) -> UInt8[np.ndarray, " blocks"]:
    """Round scales to E4M3, halves to even; too large ones become 448."""
    return E4M3.codes(np.minimum(scale, _MOST_SCALE)[:, None], np.ones(len(scale), np.float32))[:, 0]


def _nvfp4_scales(parts: Mapping[str, np.ndarray]) -> Scales:
    return Scales(E4M3.levels[parts["scale"].reshape(-1)] / np.float32(parts["global_scale"].reshape(-1)[0]))


def _nvfp4_encoded(weight: Blocks, stored: UInt8[np.ndarray, " blocks"], whole: Float32[np.ndarray, "1"]) -> Encoded:
    parts = {"scale": stored, "global_scale": whole}
    return E2M1.codes(weight, _nvfp4_scales(parts).scale), parts


def _nvfp4_plain(weight: Blocks) -> Encoded:
    whole = _global_scale(weight)
    with np.errstate(over="ignore"):
        rounded = E4M3.levels[to_e4m3(whole * (largest_magnitudes(weight) / np.float32(E2M1.most)))]
    return _nvfp4_encoded(weight, to_e4m3(np.where(rounded == 0, _SCALE_EPSILON, rounded)), whole)


NVFP4_FACTORS = np.concatenate([[1], np.linspace(0.8, 1.7, 15)]).astype(np.float32)


def _nvfp4_search(weight: Blocks, sensitivity: Blocks | None) -> Encoded:
    whole = _global_scale(weight)
    rounding = e4m3_rounding(whole[0])
    start = largest_magnitudes(weight) / np.float32(E2M1.most)
    scale = best_scales(weight, sensitivity, E2M1, start, NVFP4_FACTORS, rounding)
    return _nvfp4_encoded(weight, to_e4m3(scale * whole), whole)


def e4m3_rounding(whole: np.float32) -> Callable[[np.ndarray], Float32[np.ndarray, "..."]]:
    """Make the rounding of scales to E4M3 over a global scale."""

    def rounding(scale: np.ndarray) -> Float32[np.ndarray, "..."]:
        return (E4M3.levels[to_e4m3((scale * whole).reshape(-1))] / whole).reshape(scale.shape)

    return rounding


NVFP4 = BlockFormat(
    name="nvfp4",
    title="NVFP4",
    library=LIBRARY,
    length=16,
    levels=E2M1.levels,
    code_bits=4,
    part_bits=(("scale", 8), ("global_scale", 32)),
    plain=_nvfp4_plain,
    search=_nvfp4_search,
    scales=_nvfp4_scales,
    layout=Layout(8, (Plane(0, 4, 1),)),
)
