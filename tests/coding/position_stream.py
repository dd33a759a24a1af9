"""Count and write positions with NumPy, in the words of FORMAT.md: an oracle for the kernels."""

from dataclasses import dataclass

import numpy as np

from nbquant.coding.positions import GapCode, GapHistogram, gap_code


@dataclass(frozen=True)
class EncodedPositions:
    """The bit stream, its code (None if there is nothing to write), entries, weights and filler symbols."""

    data: bytes
    code: GapCode | None
    size: int
    count: int
    fillers: int


def gaps_of(mask):
    """Zeros before each True of a mask of any shape, in row-major order; none if all are True."""
    mask = np.asarray(mask, bool).ravel()
    return np.zeros(0, np.int64) if mask.all() else np.diff(np.flatnonzero(mask), prepend=-1) - 1


def gap_histogram(mask):
    return GapHistogram(*np.unique(gaps_of(mask), return_counts=True))


def encode_positions(mask, code=None):
    """Write the positions of one tensor's weights; ``code`` None makes the best one for this tensor."""
    mask, gaps = np.asarray(mask, bool), gaps_of(mask)
    if not gaps.size:
        return EncodedPositions(b"", None, mask.size, int(mask.sum()), 0)
    if code is None:
        code = gap_code(gap_histogram(mask))
    symbols = [s for gap in gaps for s in [code.span] * (gap // code.span) + [gap % code.span]]
    return EncodedPositions(code.code.encode(symbols), code, mask.size, int(mask.sum()), len(symbols) - len(gaps))
