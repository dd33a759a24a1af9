"""Kernel that counts the gaps between non-zero weights."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray


@compiled()
def count_gaps(weight: Array, run: int, counts: Array, long: Array) -> tuple[int, int]:
    """Count the zeros before each non-zero weight.

    Args:
        weight: A part of a tensor.
        run: Zeros at the end of the previous part.
        counts: Incremented: number of gaps of each length below its size.
        long: Output: longer gaps, at most 1 + len(weight) // len(counts).

    Returns:
        Number of zeros at the end, and number of gaps written to ``long``.
    """
    found = 0
    for i in range(len(weight)):
        if weight[i] == 0:
            run += 1
            continue
        if run < len(counts):
            counts[run] += 1
        else:
            long[found] = run
            found += 1
        run = 0
    return run, found
