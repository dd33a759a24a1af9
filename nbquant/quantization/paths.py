"""Search of trellis paths for tensors that share steps or codes, alternating with their code lengths."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64, UInt8
from torch import Tensor

from nbquant.coding.levels import rows_of_block
from nbquant.coding.trellis import levels_of, states_of
from nbquant.kernels import dispatch

CLASSES = 3  # of a neighbour's level: 0, 1 and larger
MOST_LEVELS = 255  # levels with their own code length
PRIOR = 8.0  # pseudo-count of the overall distribution in each context
TOLERANCE = 2e-4  # relative fall of J below which a turn counts as converged …
PATIENCE = 2  # … after this many such turns, as J may rise once
MOST_TURNS = 12
FEW, TURNS_OF_FEW = 1 << 13, 25  # up to so many weights, more turns are affordable
LEAST_SAMPLED, DESIGNED_ON = 3 << 16, 1 << 16  # from so many weights on, steps and code lengths come from a sample
LEAST_COLUMNS, LONGEST, LEAST_ROWS = 64, 16, 512  # at least so many or a quarter, strips of so many; so many rows
TURNS_OVER_ALL = 1
LANES, LEAST_CUT, WIDE = 16, 64, 256  # strips of a matrix: of fewer columns one, else this many for so many columns
IN_TURN = 4  # columns of a strip on a CUDA device
ROUNDED = 0.4  # below one half: rate counts
FIRST_SHARE = 0.25  # share of λ applied to levels before their code lengths are known
LARGEST = 1 << 30  # largest integer
FIXED = 1e6  # in units of λ: no path is cheap enough to move a pruned weight


Sums = tuple[float, float, float]  # Σ ½h w², Σ ½h w m, Σ ½h m²


@dataclass(frozen=True, eq=False)
class Matrix:
    """One tensor in the trellis search.

    Attributes:
        target: Weights w.
        sensitivity: Their sensitivities h.
        group: Index of the group that shares its step.
        code: Index of the code it uses.
        step: Step Δ.
        integers: Integers m of the best path so far; None at first.
        left: Guessed classes of the levels to the left of each strip of columns; of a sample, whose strips lie apart,
            for good.
        is_sample: Whether it is a sample of the columns of a larger matrix.
    """

    target: Float[Tensor, "rows cols"]
    sensitivity: Float[Tensor, "rows cols"]
    group: str
    code: str
    step: float
    integers: Int32[Tensor, "rows cols"] | None = None
    left: UInt8[Tensor, "strips rows"] | None = None
    is_sample: bool = False

    @property
    def levels(self) -> tuple[Int[np.ndarray, "rows cols"], Int[np.ndarray, "rows cols"]]:
        """Levels of the integers, and the quantizer of each (0 or 1)."""
        assert self.integers is not None
        parts = [part.cpu().numpy() for part in self.integers.split(rows_of_block(self.target.shape[1]))]
        levels = [levels_of(part, *part.shape) for part in parts]
        odd = [states_of(level, *level.shape) >= 4 for level in levels]
        return np.concatenate(levels, dtype=np.int64), np.concatenate(odd).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Paths:
    """Trellis paths with their loss and bits.

    Attributes:
        matrices: The tensors with their integers.
        loss: Σ ½h (w − mΔ)².
        bits: Ideal bits of the levels, given the quantizer in force and the classes of their neighbours.
    """

    matrices: tuple[Matrix, ...]
    loss: float
    bits: float


def find_paths(
    matrices: Sequence[Matrix], lmbda: float, fixed_step: bool, ticks: Iterator[object], turns: int = MOST_TURNS
) -> Paths:
    """Find paths of least J = Σ ½h (w − mΔ)² + λ · bits, iterating until J stops falling.

    Starts from a share of the code lengths of geometric levels, so that insensitive weights go to zero. Then
    alternates: code lengths counted on the paths; best paths for these lengths; best steps for these integers. Columns
    are decided from left to right in strips, which are independent: the level to the left of a strip is that of the
    previous turn, at first a guess.

    Of many weights, a sample of columns is enough to find steps and code lengths; one turn over all weights follows.

    Args:
        matrices: The tensors with their initial steps.
        lmbda: λ [loss/bit].
        fixed_step: Whether the steps stay fixed.
        ticks: Advanced before each tensor of each turn; may raise to cancel.
        turns: Largest number of turns.

    Raises:
        ValueError: A step too small for the weights.
    """
    for m in matrices:
        reach = dispatch.largest(m.target)
        if not reach < LARGEST * m.step:
            raise ValueError(
                f"step must be above {reach / LARGEST:.3g} for weights up to {reach:.3g}, but is {m.step:.3g}: "
                "pass a larger one, or a larger lmbda"
            )
    costs = first_costs(matrices)
    total = sum(m.target.numel() for m in matrices)
    sampled: list[Matrix] = []
    if turns == MOST_TURNS and total > LEAST_SAMPLED:
        sampled = [sample_of(m, DESIGNED_ON / total) for m in matrices]
    if sampled and sum(m.target.numel() for m in sampled) <= total / 2:
        design = alternate(sampled, costs, FIRST_SHARE, lmbda, fixed_step, ticks, MOST_TURNS).matrices
        costs, _ = costs_of(design)
        matrices = [replace(m, step=d.step) for m, d in zip(matrices, design, strict=True)]
        return alternate(matrices, costs, 1.0, lmbda, fixed_step, ticks, TURNS_OVER_ALL)
    few = total <= FEW and turns == MOST_TURNS
    return alternate(matrices, costs, FIRST_SHARE, lmbda, fixed_step, ticks, TURNS_OF_FEW if few else turns)


def alternate(
    matrices: Sequence[Matrix],
    costs: Mapping[str, Float[np.ndarray, "2 l p k"]],
    share: float,
    lmbda: float,
    fixed_step: bool,
    ticks: Iterator[object],
    turns: int,
) -> Paths:
    """Alternate between paths, steps and code lengths; at first a share of λ is applied to the given code lengths."""
    best, stalled = None, 0
    for turn in range(turns):
        found = tuple(_walked(m, costs[m.code], lmbda if turn else share * lmbda, ticks) for m in matrices)
        sums = [_sums(m) for m in found]
        if not fixed_step:
            found = _stepped(found, sums)
        costs, bits = costs_of(found)
        paths, matrices = Paths(found, math.fsum(map(_loss, found, sums)), bits), found
        settled = best is not None and _price(best, lmbda) - _price(paths, lmbda) < TOLERANCE * _price(best, lmbda)
        stalled = stalled + 1 if settled else 0
        best = paths if best is None or _price(paths, lmbda) < _price(best, lmbda) else best
        if stalled == PATIENCE:
            break
    assert best
    return best


def alike(value: float, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """One sensitivity for all weights, which takes no memory."""
    return torch.full((), value, dtype=torch.float32, device=weight.device).expand(weight.shape)


def held(
    sensitivity: Float[Tensor, "..."], zero: Bool[Tensor, "..."], lmbda: float, step: float
) -> Float[Tensor, "..."]:
    """Sensitivities with which pruned weights stay zero."""
    return torch.where(zero, 2 * FIXED * lmbda / step**2, sensitivity)


def sample_of(matrix: Matrix, share: float) -> Matrix:
    """Strips of neighbouring columns, evenly spread, in about this share of the matrix; all if it has few columns.

    Of many rows those in the middle.
    """
    rows, cols = matrix.target.shape
    wanted = max(share * cols, min(LEAST_COLUMNS, cols / 4))
    strips = LANES * math.ceil(wanted / (LANES * LONGEST))
    length = max(2, round(wanted / strips))
    if strips * length > cols / 2:
        return matrix
    device = matrix.target.device
    first = torch.arange(strips, device=device) * (cols - length) // (strips - 1)
    chosen = (first[:, None] + torch.arange(length, device=device)).reshape(-1)
    count = min(rows, max(LEAST_ROWS, math.ceil(share * rows * cols / len(chosen))))
    top = (rows - count) // 2
    target, h = (x[top : top + count] for x in (matrix.target, matrix.sensitivity))
    left = _guessed_left(target, first, matrix.step)
    return replace(matrix, target=target[:, chosen], sensitivity=h[:, chosen], left=left, is_sample=True)


def _left(matrix: Matrix) -> UInt8[Tensor, "strips rows"]:
    """Classes of the levels to the left of each strip of columns, from the integers or guessed."""
    if matrix.left is not None and matrix.is_sample:
        return matrix.left
    cols = matrix.target.shape[1]
    strips = 1 if cols < LEAST_CUT else LANES * max(cols // WIDE, 1)
    if matrix.target.device.type != "cpu":  # all strips run at once, columns of a strip in turn
        strips = max(cols // IN_TURN, 1)
    first = torch.arange(0, max(cols, 1), max(-(-cols // strips), 1), device=matrix.target.device)
    if matrix.integers is None:
        return _guessed_left(matrix.target, first, matrix.step)
    before = matrix.integers[:, (first - 1).clamp(min=0)] * (first > 0)
    return _classes((before.abs() + 1) // 2).T.contiguous()


def _guessed_left(
    target: Float[Tensor, "rows cols"], first: Int64[Tensor, " strips"], step: float
) -> UInt8[Tensor, "strips rows"]:
    """Guess the classes of the levels to the left of some columns; 0 at the left end."""
    before = target[:, (first - 1).clamp(min=0)] * (first > 0)
    return _classes(_nearest_levels(before, step)).T.contiguous()


def _nearest_levels(target: Float[Tensor, "rows cols"], step: float) -> Float[Tensor, "rows cols"]:
    """Magnitudes of levels of a uniform quantizer with a dead zone, as a trellis has about two steps apart."""
    return (target.detach().abs() / (2 * step) + ROUNDED).floor()


def _classes(levels: Tensor) -> UInt8[Tensor, "..."]:
    return levels.clamp(max=CLASSES - 1).to(torch.uint8)


def _price(paths: Paths, lmbda: float) -> float:
    return paths.loss + lmbda * paths.bits


def _walked(matrix: Matrix, costs: Float[np.ndarray, "2 l p k"], lmbda: float, ticks: Iterator[object]) -> Matrix:
    """Find its paths, which start again after so many rows, as blocks of a tensor do."""
    next(ticks, None)
    rows, left, bits = rows_of_block(matrix.target.shape[1]), _left(matrix), torch.from_numpy(costs)
    found = torch.empty(matrix.target.shape, dtype=torch.int32, device=matrix.target.device)
    for start in range(0, max(len(found), 1), rows):
        part = slice(start, start + rows)
        # ½h and λ, or h and 2λ
        found[part] = dispatch.viterbi_in_strips(
            matrix.target[part], matrix.sensitivity[part], matrix.step, bits, left[:, part], 2 * lmbda
        )
    return replace(matrix, integers=found)


def _stepped(matrices: tuple[Matrix, ...], sums: Sequence[Sums]) -> tuple[Matrix, ...]:
    """The same integers with the steps of least loss, rounded as stored."""
    best: dict[str, float] = {}
    for group in {m.group for m in matrices}:
        own = [of for m, of in zip(matrices, sums, strict=True) if m.group == group]
        cross, square = (math.fsum(of[i] for of in own) for i in (1, 2))
        best[group] = float(np.float32(cross / square)) if cross > 0 and square > 0 else 0.0
    return tuple(replace(m, step=best[m.group] or m.step) for m in matrices)


def _sums(matrix: Matrix) -> Sums:
    assert matrix.integers is not None
    power, cross, square = dispatch.path_sums(matrix.target, matrix.sensitivity, matrix.integers)
    return 0.5 * power, 0.5 * cross, 0.5 * square


def _loss(matrix: Matrix, sums: Sums) -> float:
    """Σ ½h (w − mΔ)² from its sums."""
    power, cross, square = sums
    return max(power - 2 * matrix.step * cross + matrix.step**2 * square, 0.0)


def costs_of(matrices: Sequence[Matrix]) -> tuple[dict[str, Float[np.ndarray, "2 l p k"]], float]:
    """Compute the bits of levels for each code, and of all levels together.

    Counted for each quantizer, class to the left and class above.
    """
    tables, total = {}, 0.0
    for code in dict.fromkeys(m.code for m in matrices):
        counts = np.zeros((2, CLASSES, CLASSES, MOST_LEVELS + 1), np.int64)
        for m in matrices:
            if m.code == code:
                assert m.integers is not None
                rows = rows_of_block(m.integers.shape[1])
                counts += dispatch.count_levels(m.integers.cpu().numpy(), rows, MOST_LEVELS)
        tables[code], bits = bits_of(counts)
        total += bits
    return tables, total


def first_bits(magnitude: float, step: float) -> Float[np.ndarray, "2 l p k"]:
    """Estimate the bits of levels before any are counted: those of a geometric distribution.

    Args:
        magnitude: Mean magnitude of the targets.
        step: Step Δ [weight].
    """
    mean, level = max(magnitude / (2 * step), 1e-3), np.arange(MOST_LEVELS + 1)
    bits = np.log2(1 + mean) + level * np.log2((1 + mean) / mean) + (level > 0)
    return np.broadcast_to(bits, (2, CLASSES, CLASSES, len(level))).astype(np.float32)


def first_costs(matrices: Sequence[Matrix]) -> dict[str, Float[np.ndarray, "2 l p k"]]:
    """Estimate the same for each code, of tensors that may differ in step."""
    found = {}
    for code in dict.fromkeys(m.code for m in matrices):
        own = [m for m in matrices if m.code == code]
        total = math.fsum(_magnitudes(m.target) / m.step for m in own)
        found[code] = first_bits(total / max(sum(m.target.numel() for m in own), 1), 1.0)
    return found


def _magnitudes(target: Float[Tensor, "rows cols"]) -> float:
    return math.fsum(float(part.double().abs().sum()) for part in target.split(rows_of_block(target.shape[1])))


def bits_of(counts: Int[np.ndarray, "2 l p k"]) -> tuple[Float[np.ndarray, "2 l p k"], float]:
    """Compute the ideal bits of each level, sign included, from its frequency; and of all levels together.

    Rare contexts are smoothed by the overall distribution.
    """
    used = int(np.flatnonzero(counts.any(axis=(0, 1, 2))).max(initial=0))
    n = counts[..., : min(used + 1, MOST_LEVELS) + 1].astype(float)
    of_all = n.sum(axis=(1, 2), keepdims=True) + 0.5
    share = n + PRIOR * of_all / of_all.sum(axis=-1, keepdims=True)
    bits = np.log2(share.sum(axis=-1, keepdims=True) / share)
    total = float((n * bits).sum()) + float(n[..., 1:].sum())
    bits[..., 1:] += 1
    return bits.astype(np.float32), total
