"""Search for the stored scales of K-quants: integers of groups times scales of blocks in float16.

From two starts, ggml's own scales and the best ones of each group alone, these steps alternate: the integers next to
the present ones are compared for each group; the scales of a block are fitted to all its codes by least squares and
rounded to float16. A step that raises a block's error is not taken.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float16, Float32, Float64, UInt8

from nbquant.quantization.blocks.affine_search import best_ranges, fit_sums
from nbquant.quantization.blocks.extremes import signed_extremes
from nbquant.quantization.blocks.grid import NONE_2, Blocks, IntegerGrid
from nbquant.quantization.blocks.scale_search import best_scales, least_error, pieces, two_sided_factors
from nbquant.quantization.blocks.stored_scales import as_half, round_to_float, round_to_half

Plain = Callable[[Blocks], tuple[np.ndarray, dict[str, np.ndarray]]]
Start = Callable[[Blocks], tuple[np.ndarray, np.ndarray]]
PerBlock = Float32[np.ndarray, " blocks"]
Integers = Float32[np.ndarray, "blocks groups"]

_ROUNDS = 2
_STEPS = np.array([(i, j) for i in (0, -1, 1) for j in (0, -1, 1)], np.float32).T
_SIGNED_STEPS = np.array([0, -1, 1, -2, 2], np.float32)


def search_affine(
    weight: Blocks, sensitivity: Blocks | None, grid: IntegerGrid, groups: int, most: int, plain: Plain
) -> tuple[UInt8[np.ndarray, "blocks length"], dict[str, np.ndarray]]:
    """Search for integer scales and minima of groups, and the two scales of their block.

    Args:
        weight: Weights.
        sensitivity: Sensitivities; None: all 1.
        grid: Levels of codes.
        groups: Groups of a block.
        most: Greatest integer.
        plain: Encoder whose scales are the first start.
    """
    made = []
    for _, w, its_h in pieces(weight, sensitivity):
        rows, h = _grouped(w, groups), _grouped(its_h, groups)
        start = plain(w)[1]
        first = _Affine(
            *(start[name].astype(np.float32) for name in ("scale", "minimum_scale", "sub_scale", "sub_minimum"))
        )
        scale, minimum = best_ranges(rows, h, grid, round_to_float, to_zero=True)
        second = _Affine.of(scale.reshape(-1, groups), -minimum.reshape(-1, groups), most)
        best = min_by_block(*(_descend_affine(rows, h, grid, most, state) for state in (first, second)))
        stored = best.scales()
        codes = grid.codes(rows, stored[0], minimum=-stored[1]).reshape(w.shape)
        made.append((codes, best.parts()))
    return _joined(made)


class _Affine:
    """Scales of blocks and integers of groups."""

    def __init__(self, scale: PerBlock, minimum: PerBlock, sub_scale: Integers, sub_minimum: Integers) -> None:
        self.scale, self.minimum, self.sub_scale, self.sub_minimum = scale, minimum, sub_scale, sub_minimum
        self.error = np.full(len(scale), np.inf)

    @staticmethod
    def of(scale: Integers, minimum: Integers, most: int) -> "_Affine":
        """Round the scales and minima of groups: the largest of a block becomes the greatest integer."""
        found = []
        for table in (scale, minimum):
            whole = round_to_half(np.maximum(table.max(axis=1), 0) / np.float32(most))
            divisor = np.where(whole > 0, whole, np.float32(np.inf))[:, None]
            found.append((whole, np.clip(np.rint(table / divisor), 0, most).astype(np.float32)))
        (first, integers), (second, others) = found
        return _Affine(first, second, integers, others)

    def scales(self) -> tuple[Float32[np.ndarray, " groups"], Float32[np.ndarray, " groups"]]:
        """Scale and minus the minimum of each group."""
        return (
            (self.scale[:, None] * self.sub_scale).reshape(-1),
            (self.minimum[:, None] * self.sub_minimum).reshape(-1),
        )

    def parts(self) -> dict[str, np.ndarray]:
        """The parts as stored."""
        return {
            "scale": as_half(self.scale),
            "minimum_scale": as_half(self.minimum),
            "sub_scale": self.sub_scale.astype(np.uint8),
            "sub_minimum": self.sub_minimum.astype(np.uint8),
        }

    def chosen(self, better: np.ndarray, other: "_Affine") -> "_Affine":
        """Take the other's blocks where they are better."""
        new = _Affine(
            np.where(better, other.scale, self.scale),
            np.where(better, other.minimum, self.minimum),
            np.where(better[:, None], other.sub_scale, self.sub_scale),
            np.where(better[:, None], other.sub_minimum, self.sub_minimum),
        )
        new.error = np.where(better, other.error, self.error)
        return new


def min_by_block(first: "_Affine", second: "_Affine") -> "_Affine":
    """Take the better of two for each block."""
    return first.chosen(second.error < first.error, second)


def _descend_affine(rows: Blocks, h: Blocks, grid: IntegerGrid, most: int, state: "_Affine") -> "_Affine":
    groups = state.sub_scale.shape[1]
    for _ in range(_ROUNDS):
        state = _with_best_integers(rows, h, grid, most, state)
        scale, minimum = state.scales()
        sums = fit_sums(rows, h, grid.codes(rows, scale, minimum=-minimum), grid).reshape(-1, groups, 5)
        fitted = _fitted_affine(sums, state)
        other = _with_best_integers(rows, h, grid, most, fitted)
        state = state.chosen(other.error < state.error, other)
    return state


def _with_best_integers(rows: Blocks, h: Blocks, grid: IntegerGrid, most: int, state: "_Affine") -> "_Affine":
    """Compare the integers next to the present ones for each group."""
    shape = state.sub_scale.shape
    near = np.clip(state.sub_scale[..., None] + _STEPS[0], 0, most).reshape(-1, len(_STEPS[0]))
    near_minimum = np.clip(state.sub_minimum[..., None] + _STEPS[1], 0, most).reshape(-1, len(_STEPS[1]))
    each = np.repeat(state.scale, shape[1])[:, None]
    each_minimum = np.repeat(state.minimum, shape[1])[:, None]
    errors = grid.errors(rows, h, each * near, NONE_2, -(each_minimum * near_minimum))
    (integers, others), error = least_error((near, near_minimum), errors)
    new = _Affine(state.scale, state.minimum, integers.reshape(shape), others.reshape(shape))
    new.error = error.reshape(shape).sum(axis=1)
    return new


def _fitted_affine(sums: Float64[np.ndarray, "blocks groups 5"], state: "_Affine") -> "_Affine":
    """Fit both scales of each block to its codes by weighted least squares."""
    a, b = state.sub_scale.astype(np.float64), state.sub_minimum.astype(np.float64)
    n, q1, q2, w1, qw = np.moveaxis(sums, 2, 0)
    aa, ab, bb = (a * a * q2).sum(1), -(a * b * q1).sum(1), (b * b * n).sum(1)
    aw, bw = (a * qw).sum(1), -(b * w1).sum(1)
    determinant = aa * bb - ab * ab
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(determinant > 1e-9 * aa * bb, (bb * aw - ab * bw) / determinant, aw / aa)
        minimum = np.where(determinant > 1e-9 * aa * bb, (aa * bw - ab * aw) / determinant, state.minimum)
    scale = np.where(np.isfinite(scale), scale, state.scale)
    return _Affine(
        round_to_half(scale.astype(np.float32)),
        round_to_half(np.maximum(minimum, 0).astype(np.float32)),
        state.sub_scale,
        state.sub_minimum,
    )


def search_symmetric(
    weight: Blocks, sensitivity: Blocks | None, grid: IntegerGrid, groups: int, sub_half: int, start: Start
) -> tuple[UInt8[np.ndarray, "blocks length"], Float16[np.ndarray, " blocks"], Integers]:
    """Search for the signed integer scales of groups, and the scale of their block.

    Args:
        weight: Weights.
        sensitivity: Sensitivities; None: all 1.
        grid: Levels of codes.
        groups: Groups of a block.
        sub_half: Number of negative integers.
        start: start(weight) returns the scale of each block and the integers of ggml's own encoder.

    Returns:
        Codes, scales of blocks, integers of groups.
    """
    bits = int(np.log2(grid.high - grid.low + 1))
    tried = two_sided_factors(bits)
    made = []
    for _, w, its_h in pieces(weight, sensitivity):
        rows, h = _grouped(w, groups), _grouped(its_h, groups)
        extreme = signed_extremes(rows) / np.float32(grid.low)
        alone = best_scales(rows, h, grid, extreme, tried, round_to_float)
        table = alone.reshape(-1, groups)
        whole = round_to_half(signed_extremes(table) / np.float32(-sub_half))
        states = (start(w), (whole, _integers(table, whole, sub_half)))
        (first, first_error), (second, second_error) = (
            _descend_symmetric(rows, h, grid, sub_half, *state) for state in states
        )
        better = second_error < first_error
        scale = np.where(better, second[0], first[0])
        integers = np.where(better[:, None], second[1], first[1])
        codes = grid.codes(rows, (scale[:, None] * integers).reshape(-1)).reshape(w.shape)
        made.append((codes, {"scale": as_half(scale), "integers": integers}))
    codes, parts = _joined(made)
    return codes, parts["scale"], parts["integers"]


def _integers(table: Integers, whole: PerBlock, sub_half: int) -> Integers:
    divisor = np.where(whole == 0, np.float32(np.inf), whole)[:, None]
    return np.clip(np.rint(table / divisor), -sub_half, sub_half - 1).astype(np.float32)


def _descend_symmetric(
    rows: Blocks, h: Blocks, grid: IntegerGrid, sub_half: int, whole: PerBlock, integers: Integers
) -> tuple[tuple[PerBlock, Integers], Float64[np.ndarray, " blocks"]]:
    error = np.full(len(whole), np.inf)
    trial, trial_integers = whole, integers
    for _ in range(_ROUNDS + 1):
        near = np.clip(trial_integers[..., None] + _SIGNED_STEPS, -sub_half, sub_half - 1)
        near = near.reshape(-1, len(_SIGNED_STEPS))
        errors = grid.errors(rows, h, np.repeat(trial, integers.shape[1])[:, None] * near)
        (chosen,), each = least_error((near,), errors)
        trial_integers = chosen.reshape(integers.shape)
        its_error = each.reshape(integers.shape).sum(axis=1)
        better = its_error < error
        whole, integers = np.where(better, trial, whole), np.where(better[:, None], trial_integers, integers)
        error = np.where(better, its_error, error)
        sums = fit_sums(rows, h, grid.codes(rows, (whole[:, None] * integers).reshape(-1)), grid)
        square, product = (sums[:, k].reshape(integers.shape) for k in (2, 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            fitted = (integers * product).sum(1) / (integers.astype(np.float64) ** 2 * square).sum(1)
        trial = round_to_half(np.where(np.isfinite(fitted), fitted, whole).astype(np.float32))
        trial_integers = integers
    return (whole, integers), error


def _grouped(weight: Blocks, groups: int) -> Blocks:
    return weight.reshape(len(weight) * groups, -1)


def _joined(made: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    parts = {name: np.concatenate([parts[name] for _, parts in made]) for name in made[0][1]}
    return np.concatenate([codes for codes, _ in made]), parts
