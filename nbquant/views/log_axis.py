"""Ranges and ticks of logarithmic axes."""

from typing import Any

import numpy as np


def widened(limits: tuple[float, float], by: float) -> tuple[float, float]:
    """Take the log₁₀ of limits, at least half a decade apart, with a margin relative to their distance."""
    low, high = np.log10(limits[0]), np.log10(limits[1])
    short = max(0.0, 0.5 - (high - low)) / 2
    low, high = low - short, high + short
    return float(low - by * (high - low)), float(high + by * (high - low))


def ratio_ticks(left: float, right: float) -> dict[str, list[float] | list[str]]:
    """Place ticks at 1, 2, 5, 10 ×, finer where the range is short."""
    steps = (1, 2, 5) if right - left > 1 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    ticks = [s * 10.0**d for d in range(int(np.floor(left)), int(np.ceil(right)) + 1) for s in steps]
    shown = [t for t in ticks if left <= np.log10(t) <= right]
    return {"tickvals": shown, "ticktext": [f"{t:g}×" for t in shown]}


def decade_ticks(low: float, high: float) -> dict[str, Any]:
    """Place ticks at powers of ten, finer where the range is short."""
    return {"dtick": 1 if high - low < 6 else 2} if high - low > 1.5 else {"dtick": "D2"}
