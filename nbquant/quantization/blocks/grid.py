"""Grids of levels: how scaled weights are rounded to codes, and the error of candidate scales."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from nbquant.kernels.cpu import block_codes, block_search

Blocks = Float32[np.ndarray, "blocks length"]
Candidates = Float32[np.ndarray, "blocks candidates"]

NONE_1 = np.empty(0, np.float32)
NONE_2 = np.empty((0, 0), np.float32)
_MOST = np.finfo(np.float32).max


@dataclass(frozen=True)
class IntegerGrid:
    """Successive integers.

    Attributes:
        low: Least level.
        high: Greatest level.
        first: Level of code 0; codes are bytes, in two's complement.
    """

    low: int
    high: int
    first: int = 0

    @property
    def neighbours(self) -> int:
        """Neighbours of a least-squares scale that are tried with it: as many as the kernel takes at once."""
        return block_search.LANES

    @cached_property
    def levels(self) -> Float32[np.ndarray, " k"]:
        """Level of each code."""
        if self.first == 0 and self.low < 0:
            return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
        return np.arange(self.first, self.high + 1, dtype=np.float32)

    def errors(
        self,
        weight: Blocks,
        h: Blocks,
        scale: Candidates,
        zero: Candidates = NONE_2,
        minimum: Candidates = NONE_2,
    ) -> Float64[np.ndarray, "blocks candidates"]:
        """Compute the weighted error of each candidate."""
        count = scale.shape[1]
        scale, zero, minimum = in_lanes(scale), in_lanes(zero), in_lanes(minimum)
        error = np.empty(scale.shape)
        block_search.integer_errors(weight, h, scale, zero, minimum, float(self.low), float(self.high), error)
        return error[:, :count]

    def codes(
        self,
        weight: Blocks,
        scale: Float32[np.ndarray, " blocks"],
        zero: Float32[np.ndarray, " blocks"] = NONE_1,
        minimum: Float32[np.ndarray, " blocks"] = NONE_1,
    ) -> UInt8[np.ndarray, "blocks length"]:
        """Round scaled weights to the nearest code."""
        out = np.empty(weight.shape, np.uint8)
        first = np.float32(self.first)
        shift = (zero if len(zero) else np.zeros(1, np.float32)) - first
        inverse = inverse_of(scale)
        low, high = float(self.low - self.first), float(self.high - self.first)
        block_codes.round_to_integers(weight, inverse, False, minimum, shift, block_codes.EVEN, low, high, out)
        return out


@dataclass(frozen=True)
class LevelGrid:
    """A few levels in a table.

    Attributes:
        table: Level of each code; several codes may have the same.
        ties: Whether a weight in the middle takes the "lower" or "upper" level, or the one nearer to "zero".
        distinct: Whether of several codes with the same level only the first is used; else the first for weights up to
            the level, and the next above it.
    """

    table: tuple[float, ...]
    ties: str = "lower"
    distinct: bool = True

    @property
    def neighbours(self) -> int:
        """Neighbours of a least-squares scale that are tried with it: few, as each compares weights with a table."""
        return 4

    @cached_property
    def levels(self) -> Float32[np.ndarray, " k"]:
        """Level of each code."""
        return np.array(self.table, np.float32)

    @cached_property
    def order(self) -> UInt8[np.ndarray, " d"]:
        """Codes by increasing level."""
        if not self.distinct:
            return self.levels.argsort(kind="stable").astype(np.uint8)
        return np.unique(self.levels, return_index=True)[1].astype(np.uint8)

    @cached_property
    def thresholds(self) -> Float32[np.ndarray, " d-1"]:
        """Thresholds between successive levels; what exceeds one belongs to the upper level."""
        increasing = self.levels[self.order]
        middle = (increasing[:-1] + increasing[1:]) / 2
        takes_upper = {"lower": middle != middle, "upper": middle == middle, "zero": middle < 0}[self.ties]
        return np.where(takes_upper, np.nextafter(middle, np.float32(-np.inf)), middle)

    def errors(self, weight: Blocks, h: Blocks, scale: Candidates) -> Float64[np.ndarray, "blocks candidates"]:
        """Compute the weighted error of each candidate."""
        error = np.empty(scale.shape)
        block_search.level_errors(weight, h, scale, self.thresholds, self.levels[self.order], error)
        return error

    def codes(self, weight: Blocks, scale: Float32[np.ndarray, " blocks"]) -> UInt8[np.ndarray, "blocks length"]:
        """Round scaled weights to the nearest code."""
        out = np.empty(weight.shape, np.uint8)
        block_codes.round_to_levels(weight, inverse_of(scale), self.thresholds, self.order, out)
        return out


def in_lanes(candidates: Candidates) -> Candidates:
    """Repeat the first candidate until their number suits the kernels."""
    missing = -candidates.shape[1] % block_search.LANES
    if not missing or not candidates.size:
        return np.ascontiguousarray(candidates)
    return np.concatenate([candidates, np.repeat(candidates[:, :1], missing, axis=1)], axis=1)


def inverse_of(scale: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Invert scales in float32; 0 for a scale of 0, the largest number where the inverse is infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    return np.clip(inverse, -_MOST, _MOST)
