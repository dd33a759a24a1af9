"""Types in which scales are stored."""

import numpy as np
from jaxtyping import Float16, Float32

HALF_MAX = np.float32(65504)


def as_half(values: Float32[np.ndarray, "..."]) -> Float16[np.ndarray, "..."]:
    """Convert to float16 as a library does: too large values become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16)


def round_to_half(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round to the nearest finite float16."""
    return as_half(np.clip(values, -HALF_MAX, HALF_MAX)).astype(np.float32)


def round_to_float(values: np.ndarray) -> Float32[np.ndarray, "..."]:
    """Round to float32, which is what scales are computed in."""
    return np.asarray(values, np.float32)
