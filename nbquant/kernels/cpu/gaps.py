"""Gaps between the non-zero weights."""

import numpy as np

from nbquant.kernels.compiled import compiled

Array = np.ndarray


@compiled()
def count_gaps(weight: Array, run: int, counts: Array, long: Array) -> tuple[int, int]:
    """Count the zeros in front of each weight that is not zero.

    Args:
        weight: A part of a tensor.
        run: Zeros at the end of the part before.
        counts: How often each gap below its length was found; added to.
        long: Takes the gaps that are not, of which there can be 1 + len(weight) // len(counts).

    Returns:
        Zeros at the end, and the number of gaps written to ``long``.
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
