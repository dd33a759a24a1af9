"""Context coding: adaptive arithmetic coding of a matrix of levels, predicted from neighbouring levels.

A level is coded by binary decisions: is it 0; its sign; is its magnitude larger than 1, 2, …. The probability of each
is learned while coding, by several predictions: from all levels, from neighbouring levels, from the magnitudes in the
row and the column, by row, and by column. They are mixed in the logistic domain, with learned weights, and the
decision costs −log₂ of its probability. No table is stored, and zeros need no positions. All arithmetic is in integers.

Source: Mahoney 2005 (mixing of predictions, as in PAQ and lpaq); Marpe, Schwarz and Wiegand 2003 (binary decisions);
Kirchhoffer et al. 2021 (the same for network weights, ISO/IEC 15938-17).
"""

import numpy as np
from jaxtyping import Int, Int32

from nbquant.coding.code import Code, ideal_lengths
from nbquant.kernels.cpu import context as kernel

LARGEST = kernel.LARGEST  # magnitudes of levels are smaller


def encode(level: Int[np.ndarray, "rows cols"], dependent: bool = False) -> bytes:
    """Encode a matrix of levels, column by column.

    Args:
        level: Levels, from :func:`nbquant.coding.trellis.levels_of` or any others.
        dependent: Whether they lie on trellis paths, whose state helps to predict them.

    Raises:
        ValueError: Levels of 2³¹ or beyond.
    """
    largest = max(int(level.max(initial=0)), -int(level.min(initial=0)))
    if largest >= LARGEST:
        raise ValueError(f"levels must be smaller than {LARGEST:,}, but go to {largest:,}: use larger steps.")
    data = np.empty(level.size // 2 + 256, np.uint8)
    size = _walk(level, data, False, dependent)
    if size > len(data):
        data = np.empty(size, np.uint8)
        _walk(level, data, False, dependent)
    return data[:size].tobytes()


def decode(data: bytes, rows: int, cols: int, dependent: bool = False) -> Int32[np.ndarray, "rows cols"]:
    """Decode the levels of a stream, with the arguments of :func:`encode`.

    Raises:
        ValueError: A stream that :func:`encode` cannot have written.
    """
    level = np.empty((rows, cols), np.int32)
    size = _walk(level, np.frombuffer(bytearray(data), np.uint8), True, dependent)
    if size == kernel.TOO_LARGE:
        raise ValueError(f"levels must be smaller than {LARGEST:,}, but are not.")
    if size != len(data):
        raise ValueError(f"the stream must hold {rows} × {cols} levels and end with them, but does not.")
    return level


def _walk(level: Int[np.ndarray, "rows cols"], data: np.ndarray, decoding: bool, dependent: bool) -> int:
    return kernel.walk(np.ascontiguousarray(level, np.int32), data, decoding, dependent, kernel.initial_model())


CONTEXT = Code(
    name="context",
    label="adaptive (context)",
    title="adaptive code",
    reason="neighbouring weights predict it",
    lengths=ideal_lengths,
    stored="context",
    major=2,
    encode=encode,
    decode=decode,
)
