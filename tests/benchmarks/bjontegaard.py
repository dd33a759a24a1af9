"""The Bjøntegaard difference between two curves: how many more bytes one takes at equal divergence, on average."""

from collections.abc import Sequence

import numpy as np

Curve = Sequence[tuple[float, float]]


def more_bytes(curve: Curve, basis: Curve) -> float:
    """Compute the mean difference in bytes at equal KL, relative to the basis; NaN without common values of KL.

    Both curves are straight lines through their points in log bytes over log KL; the mean is over the common range of
    log KL.

    Args:
        curve: Points (bytes, KL), in any order.
        basis: Those of the curve that it is compared with.

    Source: Bjøntegaard 2001 (ITU-T VCEG-M33), with straight lines in place of cubics.
    """
    (x, y), (u, v) = (_lines(points) for points in (curve, basis))
    low, high = max(x[0], u[0]), min(x[-1], u[-1])
    if not low < high:
        return float("nan")
    at = np.unique(np.clip(np.concatenate([x, u]), low, high))
    off = np.interp(at, x, y) - np.interp(at, u, v)
    return float(np.expm1(np.trapezoid(off, at) / (high - low)))


def _lines(points: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of KL, ascending, and of bytes."""
    size, kl = np.log(np.array(sorted(points, key=lambda point: point[1]), float)).T
    return kl, size
