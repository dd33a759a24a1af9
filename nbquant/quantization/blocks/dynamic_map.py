"""The 8-bit dynamic data type of bitsandbytes, in which the scales of NF4 and FP4 are quantized a second time."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from nbquant.quantization.blocks.extremes import largest_magnitudes
from nbquant.quantization.blocks.grid import inverse_of

NESTED = 256
"""Scales that share a scale of their own."""

_EXPONENTS = 7


@cache
def dynamic_map() -> Float32[np.ndarray, "256"]:
    """Compute the 256 values, increasing.

    Each of 7 decades of either sign holds the centres of 2^i equal intervals of [0.1, 1] times its power of ten; 0
    and +1 are added, so that the greatest value is 1 and the least −0.993.

    Source: Dettmers et al. 2022 (arXiv:2110.02861).
    """
    values = [0.0, 1.0]
    for i in range(_EXPONENTS):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        centres = ((edges[:-1] + edges[1:]) / 2.0) * 10 ** (i - _EXPONENTS + 1)
        values += [*centres.tolist(), *(-centres).tolist()]
    return np.sort(np.array(values)).astype(np.float32)


def quantize_nested(
    scale: Float32[np.ndarray, " n"],
) -> tuple[UInt8[np.ndarray, " n"], Float32[np.ndarray, " m"], Float32[np.ndarray, "1"]]:
    """Quantize scales as bitsandbytes does: their distance from the mean, in blocks of 256.

    Args:
        scale: Scales of all blocks of a tensor.

    Returns:
        Codes, the largest distance of each 256 scales, and the mean.
    """
    mean = np.array([torch.from_numpy(scale).mean().item()], np.float32)
    distance = scale - mean
    padded = np.zeros(-(-len(scale) // NESTED) * NESTED, np.float32)
    padded[: len(scale)] = distance
    nested = largest_magnitudes(padded.reshape(-1, NESTED))
    return nearest_codes(distance, nested), nested, mean


def nearest_codes(distance: Float32[np.ndarray, " n"], nested: Float32[np.ndarray, " m"]) -> UInt8[np.ndarray, " n"]:
    """Round distances from the mean to values of the map, as bitsandbytes does on a CPU.

    Relative distances are rounded to 65,536 equal steps from −1 to 1 before the nearest value is looked up, so that
    some codes near a threshold, and of very small distances, are not the nearest.
    """
    each = np.repeat(nested, NESTED)[: len(distance)]
    relative = np.clip(distance * inverse_of(each), -1, 1)
    step = ((relative + np.float32(1)) * np.float32(0.5) * _STEPS + np.float32(0.5)).astype(np.int32)
    return np.where(each == 0, np.uint8(0), _codes_of_steps()[step])


_STEPS = np.float32(65535)


@cache
def _codes_of_steps() -> UInt8[np.ndarray, "65536"]:
    values = dynamic_map()
    steps = np.arange(65536, dtype=np.float32) / _STEPS * np.float32(2) - np.float32(1)
    return np.searchsorted((values[:-1] + values[1:]) / 2, steps).astype(np.uint8)


def dequantize_nested(
    codes: UInt8[np.ndarray, " n"], nested: Float32[np.ndarray, " m"], mean: Float32[np.ndarray, "1"], first: int = 0
) -> Float32[np.ndarray, " n"]:
    """Compute the scales that codes stand for, from the place of the ``first`` one; they can be negative."""
    each = nested.astype(np.float32)[np.arange(first, first + len(codes)) // NESTED]
    return dynamic_map()[codes] * each + np.float32(mean.reshape(-1)[0])
