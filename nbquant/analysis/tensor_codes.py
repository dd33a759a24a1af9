"""The codes of one tensor of a quantized file: how often each is used, and which weights it restores."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from nbquant.formats.packed_tensor import PackedTensor
from nbquant.progress import Progress, track

BARS = 120
CODES = 256


@dataclass(frozen=True)
class TensorCodes:
    """Codes and weights of a tensor.

    Attributes:
        name: Name in the file.
        format: Name of its block format, or of the type it is stored in.
        level: Level of each code before scaling; empty without a block format.
        count: Weights with each code.
        mean: Mean of the weights that each code restores, over all blocks; NaN where it is not used.
        spread: Their standard deviation: how far the scales of blocks move the level.
        edge: Edges of the bars [weight].
        height: Restored weights in each bar.
        blocks: Number of blocks; 0 without a block format.
    """

    name: str
    format: str
    level: Float[np.ndarray, " k"]
    count: Int64[np.ndarray, " k"]
    mean: Float[np.ndarray, " k"]
    spread: Float[np.ndarray, " k"]
    edge: Float[np.ndarray, " b_1"]
    height: Int64[np.ndarray, " b"]
    blocks: int


def tensor_codes(packed: PackedTensor, progress: Progress = False) -> TensorCodes:
    """Count codes and restored weights of a tensor, a piece at a time, in two passes.

    Args:
        packed: The tensor.
        progress: See :data:`nbquant.progress.Progress`; counts pieces.

    Raises:
        ValueError: A tensor that is not decoded here, is damaged, or restores no finite weight.
        nbquant.progress.Cancelled: By ``progress``.
    """
    if packed.values is None:
        raise ValueError(f"{packed.name!r} is stored as {packed.kind}, whose weights cannot be restored here.")
    pieces = list(packed.pieces())
    low, high = np.inf, -np.inf
    count, total, square = np.zeros(CODES, np.int64), np.zeros(CODES), np.zeros(CODES)
    blocks = 0
    steps = [(first, last, again) for again in (False, True) for first, last in pieces]
    edge, height = np.zeros(0), np.zeros(BARS, np.int64)
    for first, last, again in track(steps, "pieces", progress):
        values = packed.values(first, last).reshape(-1)
        finite = values[np.isfinite(values)]
        if not again:
            low, high = min(low, float(finite.min(initial=np.inf))), max(high, float(finite.max(initial=-np.inf)))
            if packed.codes is not None:
                found = packed.codes(first, last)
                codes, weights = found.codes.reshape(-1), np.where(np.isfinite(values), values, 0.0).astype(np.float64)
                count += np.bincount(codes, minlength=CODES)
                total += np.bincount(codes, weights, CODES)
                square += np.bincount(codes, weights * weights, CODES)
                blocks += len(found.parts[0].values) if found.parts else 0
            continue
        if not len(edge):
            edge = _edges(low, high, packed.name)
        height += np.histogram(finite, edge)[0]
    levels = len(packed.format.levels) if packed.format is not None and packed.codes is not None else 0
    count, total, square = count[:levels], total[:levels], square[:levels]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        spread = np.sqrt(np.maximum(square / count - mean * mean, 0.0))
    level = np.zeros(0) if not levels or packed.format is None else packed.format.levels.astype(np.float64)
    return TensorCodes(packed.name, packed.kind, level, count, mean, spread, edge, height, blocks)


def _edges(low: float, high: float, name: str) -> np.ndarray:
    if not low <= high:
        raise ValueError(f"{name!r} must restore finite weights, but none is finite: the file is damaged.")
    margin = 0.01 * (high - low) or max(abs(low) * 0.01, 1e-6)
    return np.linspace(low - margin, high + margin, BARS + 1)
