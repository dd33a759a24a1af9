"""Kernels of the code table: codeword lengths to ranks among the likely next lengths, and back.

The rank of a length orders all lengths by their likelihood after the previous ones:

- 0 the same length, 1 one more in the direction of the last change, 2 one in the other, 3 two more in the first, …;
- a symbol without a codeword has rank ``UNUSED`` and shifts the later ranks, or 0 if the previous symbol has none
  either.
"""

import numpy as np
from jaxtyping import Int64, UInt8

from nbquant.kernels.compiled import compiled

UNUSED = 4
LONGEST = 32


@compiled()
def ranks(lengths: Int64[np.ndarray, " k"], first: int) -> Int64[np.ndarray, " k"]:
    """Compute the rank of each length [bit]; ``first`` is the length before the first one."""
    found = np.empty(len(lengths), np.int64)
    last, direction, place = first, -1, UNUSED
    for i in range(len(lengths)):
        length = lengths[i]
        if length == 0:
            found[i] = place
            place = 0
            continue
        step = (length - last) * direction
        rank = 2 * step - 1 if step > 0 else -2 * step
        found[i] = rank + 1 if rank >= place else rank
        if length != last:
            direction = 1 if length > last else -1
        last, place = length, UNUSED
    return found


@compiled()
def read_ranks(bits: UInt8[np.ndarray, " b"], start: int, first: int, lengths: Int64[np.ndarray, " k"]) -> int:
    """Read ranks, each as so many zeros and a one, and convert them to lengths [bit].

    Returns:
        The number of bits read; -1 if the stream ends early or a length is not 1 to ``LONGEST``.
    """
    at = start
    last, direction, place = first, -1, UNUSED
    for i in range(len(lengths)):
        rank = 0
        while at < len(bits) and bits[at] == 0:
            rank += 1
            at += 1
        if at == len(bits):
            return -1
        at += 1
        if rank == place:
            lengths[i] = 0
            place = 0
            continue
        if rank > place:
            rank -= 1
        step = (rank + 1) // 2 if rank % 2 else -(rank // 2)
        length = last + step * direction
        if length < 1 or length > LONGEST:
            return -1
        if length != last:
            direction = 1 if length > last else -1
        lengths[i] = length
        last, place = length, UNUSED
    return at
