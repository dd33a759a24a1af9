"""Checks of what is encoded."""

import numpy as np
from jaxtyping import Float32

from nbquant.quantization.blocks.extremes import largest_magnitudes

Matrix = Float32[np.ndarray, "rows columns"]


def checked_input(
    weight: np.ndarray, sensitivity: np.ndarray | None, search: bool, finite: bool = True
) -> tuple[Matrix, Matrix | None]:
    """Convert weights and sensitivities to matrices of float32.

    Args:
        weight: Weights; a vector is one row.
        sensitivity: Their sensitivities, for a search.
        search: Whether scales are searched.
        finite: Whether to check that weights are finite.

    Raises:
        ValueError: No weights, other types or shapes, negative sensitivities, sensitivities without a search, or
            numbers that are not finite.
    """
    matrix = _matrix_of(weight, "weights")
    if finite:
        require_finite(matrix, "weights")
    if sensitivity is not None and not search:
        raise ValueError("a library's own rounding takes no sensitivities: pass search=True, or leave them out.")
    return matrix, None if sensitivity is None else _sensitivity(sensitivity, matrix.shape)


def _matrix_of(values: np.ndarray, what: str) -> Matrix:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise ValueError(f"{what} must be floating-point numbers, but are {array.dtype}.")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{what} must be a matrix or a vector of at least one, but have shape {array.shape}.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(np.atleast_2d(array), np.float32)


def require_finite(matrix: Matrix, what: str) -> None:
    """Refuse numbers that are not finite.

    Raises:
        ValueError: There are some.
    """
    if not np.isfinite(largest_magnitudes(matrix)).all():
        bad = int((~np.isfinite(matrix)).sum())
        raise ValueError(f"{what} must be finite in float32, but {bad} of {matrix.size} are not: replace NaN and inf.")


def _sensitivity(values: np.ndarray, shape: tuple[int, int]) -> Matrix:
    h = _matrix_of(values, "sensitivities")
    require_finite(h, "sensitivities")
    if h.shape != shape:
        raise ValueError(f"one sensitivity for each of {shape[0]} × {shape[1]} weights is required, but got {h.shape}.")
    if h.min() < 0:
        count = int((h < 0).sum())
        raise ValueError(f"sensitivities must be non-negative, but {count} of {h.size} are not (min {h.min():.3g}).")
    return h
