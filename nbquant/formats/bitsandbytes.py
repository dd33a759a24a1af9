"""The 4-bit layout of bitsandbytes: NF4 and FP4 in blocks that run across rows, with single or nested scales.

Bytes hold two codes, the first in the higher bits. Beside them are ``absmax``, a scale for each block, or its code if
scales are nested; ``quant_map``, the levels; and ``quant_state``, a JSON object with the shape.

Source: bitsandbytes 0.50.2 (Dettmers et al. 2023, arXiv:2305.14314).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.formats.packed_checkpoint import PackedCheckpoint, PackedLayout
from nbquant.formats.packed_tensor import PackedTensor
from nbquant.formats.packed_words import unpack_nibbles
from nbquant.quantization.blocks import formats as blocks
from nbquant.quantization.blocks.block_codes import BlockCodes, Part
from nbquant.quantization.blocks.block_format import BlockFormat
from nbquant.quantization.blocks.dynamic_map import NESTED, dequantize_nested, dynamic_map
from nbquant.quantization.blocks.scaling import block_matrix
from nbquant.tensorfile import parse_json

STATE = ".quant_state.bitsandbytes__"
TYPES = ("nf4", "fp4")
MOST_LENGTH = 1 << 16  # weights of a block; the library has up to 4,096
MOST_STATE = 10_000  # bytes of the JSON object


@dataclass(frozen=True, eq=False)
class _Weight:
    """A weight: bytes of codes, scales of blocks, and what scales are made of if they are nested."""

    shape: tuple[int, int]
    format: BlockFormat  # with plain scales
    stored: BlockFormat
    data: UInt8[np.ndarray, " bytes"]
    absmax: np.ndarray
    nested: Float32[np.ndarray, " groups"] | None
    offset: Float32[np.ndarray, "1"]

    def codes(self, first: int, last: int) -> BlockCodes:
        """Codes and parts of the blocks that begin in some rows, a row if these do not end with a block."""
        rows, columns = self.shape
        length = self.format.length
        start = -(-first * columns // length)
        total = rows * columns
        end = min(-(-last * columns // length) * length, total)
        codes = self._read(start * length, end)
        scales = np.array(self.absmax[start : -(-end // length)])
        values = {"scale": scales}
        if self.nested is not None:
            nested = self.nested[-(-start // NESTED) : -(-(start + len(scales)) // NESTED)]
            values |= {"nested_scale": nested, "offset": self.offset}
        parts = tuple(Part(name, values[name], bits) for name, bits in self.stored.part_bits)
        whole = start * length == first * columns and end == last * columns
        matrix = codes.reshape(last - first if whole else 1, -1)
        padding = np.zeros(total % 2 if end == total else 0, np.uint8)
        return BlockCodes(self.stored.name, matrix, parts, padding, self.stored.code_bits)

    def values(self, first: int, last: int) -> Float32[np.ndarray, "rows columns"]:
        """Weights of some rows, decoded from the blocks that they are in."""
        columns, length = self.shape[1], self.format.length
        start = first * columns // length
        end = min(-(-last * columns // length) * length, self.shape[0] * columns)
        codes = self._read(start * length, end)[None]
        scale = self._scale(start, -(-end // length))
        with np.errstate(over="ignore", invalid="ignore"):
            decoded = self.format.decode(self.format.assemble(codes, {"scale": scale}))[0]
        skipped = first * columns - start * length
        return decoded[skipped : skipped + (last - first) * columns].reshape(last - first, columns)

    def _read(self, first: int, last: int) -> UInt8[np.ndarray, " weights"]:
        """Codes of successive weights, the first an even one."""
        data = self.data[first // 2 : -(-last // 2)]
        return unpack_nibbles(data[None], high_first=True)[0, : last - first]

    def _scale(self, start: int, end: int) -> Float32[np.ndarray, " blocks"]:
        if self.nested is None:
            return self.absmax[start:end].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return dequantize_nested(self.absmax[start:end], self.nested, self.offset, start)


def find_bitsandbytes(checkpoint: PackedCheckpoint) -> list[str]:
    """List the tensors with codes in this layout: those that have scales, a state, or both."""
    names = checkpoint.files
    states = (name.partition(STATE)[0] for name in names if STATE in name)
    scaled = (name.removesuffix(".absmax") for name in names if name.endswith(".absmax"))
    found = dict.fromkeys((*states, *scaled))
    return [name for name in found if checkpoint.is_stored(name, ("U8", "I8", "BF16", "F16", "F32"))]


def read_bitsandbytes(checkpoint: PackedCheckpoint, name: str) -> tuple[PackedTensor, tuple[str, ...]]:
    """Read the record of a weight.

    Raises:
        ValueError: A missing part, or one that does not fit.
    """
    kind = next((kind for kind in TYPES if f"{name}{STATE}{kind}" in checkpoint), None)
    state_name = f"{name}{STATE}{kind or TYPES[0]}"
    raw = checkpoint.require(state_name, ("U8",), (1,))
    if len(raw) > MOST_STATE:
        raise checkpoint.damaged(state_name, f"must be at most {MOST_STATE} bytes, but is {len(raw):,}")
    file = checkpoint.files[state_name].path
    state = parse_json(raw.tobytes(), f"tensor {state_name!r} of {str(file)!r}")
    shape, length = _shape(state), _length(state)
    if shape is None or length is None or state.get("quant_type") != kind:
        raise checkpoint.damaged(
            state_name, "must tell the shape, an even blocksize and the quant_type of its name, but does not"
        )
    data = checkpoint.require(name, ("U8", "I8", "BF16", "F16", "F32"), (1, 2))
    data = data.reshape(-1).view(np.uint8)
    weights = math.prod(shape)
    if len(data) != -(-weights // 2):
        raise checkpoint.damaged(name, f"has {len(data):,} bytes for the {weights:,} weights of shape {shape}")
    map_name, scales_name = f"{name}.quant_map", f"{name}.absmax"
    if not np.array_equal(checkpoint.floats(map_name, (1,)), blocks.named(str(kind)).levels):
        raise checkpoint.damaged(map_name, f"must have the 16 levels of {kind}, but has others")
    used = [name, state_name, map_name, scales_name]
    nested, offset = None, np.zeros(1, np.float32)
    if f"{name}.nested_absmax" in checkpoint:
        nested, offset = _nested(checkpoint, name, state, scales_name, -(-weights // length))
        used += [f"{name}.nested_absmax", f"{name}.nested_quant_map"]
    absmax = checkpoint.require(scales_name, ("U8",) if nested is not None else ("F32",), (1,))
    if len(absmax) != -(-weights // length):
        raise checkpoint.damaged(
            scales_name, f"must have a scale for each {length} of {weights:,} weights, but has {len(absmax):,}"
        )
    found = blocks.named(f"{kind}/{length}")
    stored = found if nested is None else blocks.named(f"{kind}_double/{length}")
    weight = _Weight(block_matrix(shape), found, stored, data, absmax, nested, offset)
    bits = checkpoint.bits(used)
    return PackedTensor(name, shape, stored.name, stored, bits, weight.codes, weight.values), tuple(used)


def _nested(
    checkpoint: PackedCheckpoint, name: str, state: dict[str, Any], scales_name: str, count: int
) -> tuple[Float32[np.ndarray, " groups"], Float32[np.ndarray, "1"]]:
    nested_name, map_name = f"{name}.nested_absmax", f"{name}.nested_quant_map"
    nested = checkpoint.floats(nested_name, (1,))
    offset = state.get("nested_offset")
    if state.get("nested_blocksize") != NESTED or type(offset) is not float:
        raise checkpoint.damaged(
            scales_name, f"is nested, so that the state must tell a nested_blocksize of {NESTED} and a nested_offset"
        )
    if len(nested) != -(-count // NESTED):
        raise checkpoint.damaged(
            nested_name, f"must have a scale for each {NESTED} of {count:,} scales, but has {len(nested):,}"
        )
    if not np.array_equal(checkpoint.floats(map_name, (1,)), dynamic_map()):
        raise checkpoint.damaged(map_name, "must have the 256 levels of the dynamic map, but has others")
    with np.errstate(over="ignore"):
        return nested, np.array([offset]).astype(np.float32)


def _shape(state: dict[str, Any]) -> tuple[int, ...] | None:
    shape = state.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        return None
    return tuple(shape)


def _length(state: dict[str, Any]) -> int | None:
    length = state.get("blocksize")
    return length if type(length) is int and 2 <= length <= MOST_LENGTH and length % 2 == 0 else None


BITSANDBYTES = PackedLayout("bitsandbytes", find_bitsandbytes, read_bitsandbytes)
