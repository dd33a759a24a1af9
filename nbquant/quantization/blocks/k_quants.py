"""GGUF's K-quants: 256 weights in groups, whose scales are integers of 4 to 8 bits times one scale in float16."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from nbquant.kernels.cpu import block_codes as kernels
from nbquant.kernels.cpu import reference_scales as reference
from nbquant.quantization.blocks.block_format import BlockFormat, Blocks, Encoded
from nbquant.quantization.blocks.extremes import signed_extremes
from nbquant.quantization.blocks.grid import NONE_1, IntegerGrid
from nbquant.quantization.blocks.k_search import search_affine, search_symmetric
from nbquant.quantization.blocks.layout import Field, Layout, Packed, Plane
from nbquant.quantization.blocks.scales import Scales
from nbquant.quantization.blocks.six_bits import pack_8_pairs, pack_16, unpack_8_pairs, unpack_16
from nbquant.quantization.blocks.stored_scales import as_half

GGML = "ggml 0.20.2"
LENGTH = 256

Groups = Float32[np.ndarray, "groups length"]
_NO_SHIFT = np.zeros(1, np.float32)


def _rounded(
    weight: Groups, scale: Float32[np.ndarray, " groups"], minimum: Float32[np.ndarray, " groups"], low: int, high: int
) -> UInt8[np.ndarray, "groups length"]:
    """Round to the nearest level, from code 0 on; groups with a scale of 0 are left to the caller."""
    codes = np.empty(weight.shape, np.uint8)
    divisor = np.where(scale == 0, np.float32(1), scale)
    shift = np.array([-low], np.float32)
    kernels.round_to_integers(weight, divisor, True, minimum, shift, kernels.EVEN, 0.0, float(high - low), codes)
    return codes


@dataclass(frozen=True)
class Affine:
    """Scales and minima of groups, both integers times a scale of the block: Q2_K, Q4_K, Q5_K.

    Attributes:
        bits: Bits of a code.
        groups: Groups of a block.
        sub_bits: Bits of a group's scale, and of its minimum.
        importance: How the reference encoder weights errors.
        start: First inverse scale that it tries; see :func:`nbquant.kernels.cpu.reference_scales.fit_ranges`.
        steps: Number of further ones.
        absolute: Whether it compares absolute errors.
    """

    bits: int
    groups: int
    sub_bits: int
    importance: int
    start: float
    steps: int
    absolute: bool

    @property
    def most(self) -> int:
        """Greatest integer scale."""
        return (1 << self.sub_bits) - 1

    @property
    def grid(self) -> IntegerGrid:
        """Levels."""
        return IntegerGrid(0, (1 << self.bits) - 1)

    def scales(self, parts: Mapping[str, np.ndarray]) -> Scales:
        """Multiply the integers of groups by the scales of their block."""
        scale = parts["scale"].astype(np.float32)[:, None] * parts["sub_scale"].astype(np.float32)
        minimum = parts["minimum_scale"].astype(np.float32)[:, None] * parts["sub_minimum"].astype(np.float32)
        return Scales(scale.reshape(-1), minimum=-minimum.reshape(-1))

    def plain(self, weight: Blocks) -> Encoded:
        """Encode as ggml's reference does: fit each group alone, then round scales and minima to integers."""
        rows = weight.reshape(len(weight) * self.groups, -1)
        scale, minimum = np.empty((2, len(rows)), np.float32)
        codes = np.empty(rows.shape, np.uint8)
        reference.fit_ranges(
            rows, self.importance, self.grid.high, self.start, self.steps, self.absolute, scale, minimum, codes
        )
        parts: dict[str, np.ndarray] = {}
        for values, whole, each in ((scale, "scale", "sub_scale"), (minimum, "minimum_scale", "sub_minimum")):
            table = values.reshape(len(weight), self.groups)
            largest = np.maximum(table.max(axis=1), 0)
            with np.errstate(divide="ignore"):
                inverse = np.where(largest > 0, np.float32(self.most) / largest, np.float32(0))
            parts[whole] = as_half(largest / np.float32(self.most))
            parts[each] = np.clip(np.rint(inverse[:, None] * table), 0, self.most).astype(np.uint8)
        stored = self.scales(parts)
        again = _rounded(rows, stored.scale, stored.minimum, 0, self.grid.high)
        codes = np.where(stored.scale[:, None] == 0, codes, again)
        return codes.reshape(weight.shape), parts

    def search(self, weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        """Encode with the scales of least weighted error that are found."""
        return search_affine(weight, sensitivity, self.grid, self.groups, self.most, self.plain)


@dataclass(frozen=True)
class Symmetric:
    """Scales of groups that are signed integers times a scale of the block: Q3_K, Q6_K.

    Attributes:
        half: Number of negative levels.
        sub_half: Number of negative integer scales.
        stored_from_zero: Whether integer scales are stored with ``sub_half`` added.
        fit: Kernel that fits the scales of groups.
    """

    half: int
    sub_half: int
    stored_from_zero: bool
    fit: Callable[..., None]

    groups = 16

    @property
    def grid(self) -> IntegerGrid:
        """Levels."""
        return IntegerGrid(-self.half, self.half - 1, first=-self.half)

    def _integers(self, stored: np.ndarray) -> Float32[np.ndarray, "blocks groups"]:
        shift = self.sub_half if self.stored_from_zero else 0
        return stored.astype(np.float32) - np.float32(shift)

    def _stored(self, integers: np.ndarray) -> np.ndarray:
        return (integers + self.sub_half).astype(np.uint8) if self.stored_from_zero else integers.astype(np.int8)

    def scales(self, parts: Mapping[str, np.ndarray]) -> Scales:
        """Multiply the integers of groups by the scale of their block."""
        scale = parts["scale"].astype(np.float32)[:, None] * self._integers(parts["sub_scale"])
        return Scales(scale.reshape(-1))

    def plain(self, weight: Blocks) -> Encoded:
        """Encode as ggml's reference does: fit each group alone, then round scales to integers."""
        rows = weight.reshape(len(weight) * self.groups, -1)
        scale = np.empty(len(rows), np.float32)
        codes = np.empty(rows.shape, np.uint8)
        self.fit(rows, self.half, scale, codes)
        table = scale.reshape(len(weight), self.groups)
        extreme = signed_extremes(table)
        nothing = np.abs(extreme) < (0.0 if self.stored_from_zero else reference.NEGLIGIBLE)
        nothing |= extreme == 0
        inverse = np.float32(-self.sub_half) / np.where(nothing, np.float32(1), extreme)
        integers = np.clip(np.rint(inverse[:, None] * table), -self.sub_half, self.sub_half - 1)
        whole = np.where(nothing, np.float32(0), np.float32(1) / inverse)
        stored = self._stored(integers)
        stored[nothing] = 0
        parts = {"scale": as_half(whole), "sub_scale": stored}
        used = self.scales(parts).scale
        again = _rounded(rows, used, NONE_1, -self.half, self.half - 1)
        blocks = np.where(used[:, None] == 0, codes, again).reshape(weight.shape)
        if not self.stored_from_zero:
            blocks[nothing] = 0
        return blocks, parts

    def search(self, weight: Blocks, sensitivity: Blocks | None) -> Encoded:
        """Encode with the scales of least weighted error that are found."""

        def start(part: Blocks) -> tuple[np.ndarray, np.ndarray]:
            parts = self.plain(part)[1]
            return parts["scale"].astype(np.float32), self._integers(parts["sub_scale"])

        codes, whole, integers = search_symmetric(weight, sensitivity, self.grid, self.groups, self.sub_half, start)
        return codes, {"scale": whole, "sub_scale": self._stored(integers)}


def _affine_format(name: str, kind: Affine, layout: Layout) -> BlockFormat:
    return BlockFormat(
        name=name,
        title=f"GGUF {name.upper()}",
        library=GGML,
        length=LENGTH,
        levels=kind.grid.levels,
        code_bits=kind.bits,
        part_bits=(
            *(("scale", 16), ("minimum_scale", 16)),
            *(("sub_scale", kind.sub_bits), ("sub_minimum", kind.sub_bits)),
        ),
        plain=kind.plain,
        search=kind.search,
        scales=kind.scales,
        exact_zero=False,
        groups=kind.groups,
        layout=layout,
    )


def _symmetric_format(name: str, kind: Symmetric, bits: int, sub_bits: int, layout: Layout) -> BlockFormat:
    return BlockFormat(
        name=name,
        title=f"GGUF {name.upper()}",
        library=GGML,
        length=LENGTH,
        levels=kind.grid.levels,
        code_bits=bits,
        part_bits=(("scale", 16), ("sub_scale", sub_bits)),
        plain=kind.plain,
        search=kind.search,
        scales=kind.scales,
        groups=kind.groups,
        layout=layout,
    )


def _pack_4_pairs(scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    return scale | (minimum << np.uint8(4))


def _unpack_4_pairs(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return data & np.uint8(15), data >> np.uint8(4)


_PAIR = ("sub_scale", "sub_minimum")

Q2_K = _affine_format(
    "q2_k",
    Affine(2, 16, 4, reference.BY_MAGNITUDE, -0.5, 15, absolute=True),
    Layout(
        84,
        (Plane(16, 2, 32),),
        (
            Packed(_PAIR, 0, 16, _pack_4_pairs, _unpack_4_pairs),
            Field("scale", 80, "<f2"),
            Field("minimum_scale", 82, "<f2"),
        ),
    ),
)
_HEAD = (
    Field("scale", 0, "<f2"),
    Field("minimum_scale", 2, "<f2"),
    Packed(_PAIR, 4, 12, pack_8_pairs, unpack_8_pairs),
)
Q4_K = _affine_format(
    "q4_k",
    Affine(4, 8, 6, reference.BY_MAGNITUDE_AND_MEAN, -1.0, 20, absolute=False),
    Layout(144, (Plane(16, 4, 32),), _HEAD),
)
Q5_K = _affine_format(
    "q5_k",
    Affine(5, 8, 6, reference.BY_MAGNITUDE_AND_MEAN, -0.5, 15, absolute=False),
    Layout(176, (Plane(48, 4, 32), Plane(16, 1, 32, shift=4)), _HEAD),
)
Q3_K = _symmetric_format(
    "q3_k",
    Symmetric(4, 32, stored_from_zero=True, fit=reference.fit_scales_by_descent),
    3,
    6,
    Layout(
        110,
        (Plane(32, 2, 32), Plane(0, 1, 32, shift=2)),
        (
            Packed(("sub_scale",), 96, 12, pack_16, unpack_16),
            Field("scale", 108, "<f2"),
        ),
    ),
)
Q6_K = _symmetric_format(
    "q6_k",
    Symmetric(32, 128, stored_from_zero=False, fit=reference.fit_scales),
    6,
    8,
    Layout(
        210,
        (Plane(0, 4, 64), Plane(128, 2, 32, shift=4)),
        (Field("sub_scale", 192, "i1", 16), Field("scale", 208, "<f2")),
    ),
)
