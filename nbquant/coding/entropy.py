"""Entropy: the least average code length of independent symbols."""

import numpy as np
from jaxtyping import Int64, Integer
from torch import Tensor

Counts = Integer[np.ndarray, " k"] | Integer[Tensor, " k"]


def as_integers(values: object, name: str) -> Int64[np.ndarray, " n"]:
    """Convert an array, tensor or sequence to a flat numpy array of integers, with its own dtype.

    Raises:
        TypeError: They are not integers.
        ValueError: They have more than one axis.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, but have shape {array.shape}: flatten them.")
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, but are {array.dtype}: round and convert them to int64.")
    return array


def entropy(counts: Counts) -> float:
    """Compute the entropy of counted symbols.

    H = −Σ_j p_j log2 p_j,  p_j = n_j / Σ n

    Args:
        counts: Occurrences n_j of each symbol; zeros contribute nothing.

    Returns:
        H [bit/symbol].

    Raises:
        ValueError: No counts, a negative one, or all of them zero.
        TypeError: Counts that are not integers.
    """
    array = as_integers(counts, "counts")
    check_counts(array)
    used = array[array > 0].astype(np.float64)
    total = used.sum()
    # Not −Σ p log2 p: with one symbol this gives 0.0, not −0.0, and rounding stays relative to H.
    return float((used * np.log2(total / used)).sum() / total)


def check_counts(counts: Integer[np.ndarray, " k"]) -> None:
    """Reject counts that do not define a distribution.

    Raises:
        ValueError: No counts, a negative one, or all of them zero.
    """
    if counts.size == 0:
        raise ValueError("counts must name at least one symbol, but there are none.")
    negative = np.flatnonzero(counts < 0)
    if negative.size:
        raise ValueError(
            f"counts must be non-negative, but {negative.size} of {counts.size} are not "
            f"(first {counts[negative[0]]} at symbol {negative[0]})."
        )
    if not counts.any():
        raise ValueError(f"counts must have a symbol that occurs, but all {counts.size} are zero.")
