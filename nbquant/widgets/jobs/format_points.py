"""Compare all block formats on the selection, in the background, as points beside the curves."""

import math
import time
from collections.abc import Callable
from typing import Any

from nbquant.analysis.format_comparison import format_rows
from nbquant.analysis.log_curve import bound_curve
from nbquant.quantization.blocks import formats
from nbquant.views.format_points import FormatPoint
from nbquant.widgets.jobs.curves import CurveInputs
from nbquant.widgets.jobs.exact import damped
from nbquant.widgets.jobs.jobs import Jobs
from nbquant.widgets.jobs.slot import Report

SLOT = "formats"
KNOWN = "format points"  # beside the curves of the selection's statistics
APART = 0.5  # s between two pictures


def known_points(inputs: CurveInputs) -> tuple[FormatPoint, ...]:
    """What was compared on this selection so far."""
    known: dict[Any, Any] = inputs.statistics.curves
    return tuple(point for point in known.get(KNOWN, {}).values() if point is not None)


def compare_formats(jobs: Jobs, inputs: CurveInputs, show: Callable[[tuple[FormatPoint, ...]], None]) -> None:
    """Compare the formats that were not compared on this selection before; ``show`` gets all that is known, often."""
    known: dict[Any, Any] = inputs.statistics.curves
    found: dict[str, FormatPoint | None] = known.setdefault(KNOWN, {})
    missing = [name for name in formats.names() if f"{name} True" not in found]
    if not missing:
        jobs.cancel(SLOT)
        show(known_points(inputs))
        return

    def work(report: Report) -> tuple[FormatPoint, ...]:
        selection = damped(inputs.selection, inputs.statistics, keep=True)
        shown = time.monotonic()
        for row in format_rows(selection, missing, report, bound_curve(inputs.statistics)):
            found[f"{row['format']} {row['search']}"] = _point(row)
            if time.monotonic() - shown > APART:
                shown = time.monotonic()
                with jobs.lock:
                    report(len(found), 2 * len(formats.names()))
                    show(known_points(inputs))
        return known_points(inputs)

    jobs.start(SLOT, "Comparing block formats", work, show)


def _point(row: dict[str, Any]) -> FormatPoint | None:
    """The point of a row; None where the weights are too large for the format's scales."""
    if "rate" not in row:
        return None
    rate, ratio, loss = (row[name] for name in ("rate", "compression_ratio", "predicted_loss_increase"))
    return FormatPoint(row["format"], row["search"], rate, ratio, loss, row.get("bits_wasted", math.nan))
