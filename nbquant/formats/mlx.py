"""MLX's layout: integers in words of 32 bits along a row, with a scale and a minimum, or floating-point numbers.

The weight of "affine" is s q + b. MXFP4, MXFP8 and NVFP4 have no ``biases``, and scales of a byte; NVFP4 has no scale
for the tensor. Bits and length of groups are those of the configuration, for the layer or for all; without one, the
library's usual length of 64, if it fits.

Source: mlx 0.32.4.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nbquant.formats.grouped_tensor import Grouped
from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.formats.packed_words import WORD, unpack_stream
from nbquant.formats.real_offsets import MINIMUM, unsigned_format
from nbquant.quantization.blocks import formats as blocks
from nbquant.tensorfile import FLOATS

CODES = "weight"
BITS, LENGTHS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
USUAL = 64
MODES = {"nvfp4": 4, "mxfp4": 4, "mxfp8": 8}
"""Bits of each format of floating-point numbers."""


def find_mlx(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout, by names and types."""
    return [name for name in checkpoint.files if _is_mlx(checkpoint, name)]


def _is_mlx(checkpoint: PackedCheckpoint, name: str) -> bool:
    layer, dot, last = name.rpartition(".")
    return last == CODES and checkpoint.is_stored(name, ("U32",)) and f"{layer}{dot}scales" in checkpoint


def read_mlx(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight; the matrices of experts are put one below the other.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    layer = name.removesuffix(CODES)
    scales_name, biases_name = f"{layer}scales", f"{layer}biases"
    words = checkpoint.require(name, ("U32",), (2, 3))
    affine = checkpoint.is_stored(scales_name, FLOATS)
    scales = checkpoint.require(scales_name, FLOATS if affine else ("U8",), (2, 3))
    if scales.shape[:-1] != words.shape[:-1]:
        raise checkpoint.damaged(
            scales_name, f"must have scales for the rows of codes of shape {words.shape}, but has shape {scales.shape}"
        )
    words, table = words.reshape(-1, words.shape[-1]), scales.reshape(-1, scales.shape[-1])
    said = _said(checkpoint, layer.removesuffix("."))
    used = [name, scales_name]
    if affine:
        used.append(biases_name)
        biases = checkpoint.floats(biases_name, (2, 3))
        if biases.shape != scales.shape:
            raise checkpoint.damaged(
                biases_name, f"must have the shape {scales.shape} of the scales, but has {biases.shape}"
            )
        bits, length = _bits(checkpoint, name, words.shape[1], table.shape[1], said)
        found = unsigned_format(bits, MINIMUM).with_length(length)
        parts = {"scale": checkpoint.floats(scales_name, (2, 3)).reshape(table.shape)}
        parts[MINIMUM] = biases.reshape(table.shape)
    else:
        mode = _mode(checkpoint, name, words.shape[1], table.shape[1], said)
        bits, found, parts = MODES[mode], blocks.named(mode), {"scale": table}
    shape = (len(words), words.shape[1] * WORD // bits)
    whole = {"global_scale": np.ones(1, np.float32)} if found.name == "nvfp4" else {}
    grouped = Grouped(found, shape, partial(_unpacked, words, bits), partial(_rows, parts, whole))
    return grouped.tensor(name, checkpoint.bits(used)), tuple(used)


def _said(checkpoint: PackedCheckpoint, layer: str) -> Mapping[str, Any]:
    """What the configuration says about a layer."""
    own = checkpoint.config.get(layer)
    return {**checkpoint.config, **own} if isinstance(own, dict) else checkpoint.config


def _bits(checkpoint: PackedCheckpoint, name: str, words: int, groups: int, said: Mapping[str, Any]) -> tuple[int, int]:
    """Bits of an integer, and columns of a group."""
    possible = [(bits, length) for bits in BITS for length in LENGTHS if length * groups * bits == words * WORD]
    told = [each for each in possible if each == (said.get("bits"), said.get("group_size"))]
    likely = told or [each for each in possible if each[1] == USUAL] or possible
    if len(likely) != 1:
        raise checkpoint.damaged(
            name,
            f"has {words} words for {groups} groups of a row, which fits {len(likely)} of groups of "
            f"{', '.join(map(str, LENGTHS))} integers of {', '.join(map(str, BITS))} bits",
        )
    return likely[0]


def _mode(checkpoint: PackedCheckpoint, name: str, words: int, groups: int, said: Mapping[str, Any]) -> str:
    """Name of the format of floating-point numbers."""
    possible = [mode for mode, bits in MODES.items() if words * WORD == groups * bits * blocks.named(mode).length]
    likely = [mode for mode in possible if mode == said.get("mode")] or possible
    if len(likely) != 1:
        raise checkpoint.damaged(
            name, f"has {words} words for {groups} scales of a row, which is none of {', '.join(MODES)}"
        )
    return likely[0]


def _unpacked(words: np.ndarray, bits: int, first: int, last: int) -> UInt8[np.ndarray, "rows columns"]:
    return np.ascontiguousarray(unpack_stream(words[first:last], bits))


def _rows(
    parts: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray], first: int, last: int
) -> dict[str, np.ndarray]:
    return {name: np.array(part[first:last]).reshape(-1) for name, part in parts.items()} | dict(whole)


MLX = PackedLayout("MLX", find_mlx, read_mlx)
