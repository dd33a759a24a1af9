"""Compare the present result with that of a pin, in the background."""

from collections.abc import Callable
from dataclasses import dataclass

from nbquant.models.evaluate import Evaluation
from nbquant.quantization.quantized import Quantized
from nbquant.widgets.jobs.exact import QUIET
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "compare"


@dataclass(frozen=True, eq=False)
class PinComparison:
    """The present result beside that of a pin.

    Attributes:
        label: The pin's.
        quantized: The present result.
        other: The pin's.
        evaluation: Of the present result, with the pin's as the reference, so that the error of the difference is
            paired over the same samples; None where nothing is measured.
        partial: Whether it is of some of the test samples, the first.
    """

    label: str
    quantized: Quantized
    other: Quantized
    evaluation: Evaluation | None
    partial: bool


def compare(
    bench: Workbench,
    label: str,
    other: Callable[[Report], Quantized],
    measures: bool,
    show: Callable[[PinComparison], None],
) -> None:
    """Compare what would be saved with a pin's result.

    Args:
        bench: What to work with.
        label: The pin's.
        other: Gives the pin's result.
        measures: Whether to measure both, where there are data.
        show: Gets the comparison.
    """
    keep = bench.kept(SLOT)
    if keep is None:
        return

    def work(report: Report) -> PinComparison:
        quantized, beside = keep(report), other(report)
        if bench.network is None or not measures:
            return PinComparison(label, quantized, beside, None, partial=False)
        found, whole = bench.network.compare(quantized, beside, report)
        return PinComparison(label, quantized, beside, found, partial=not whole)

    bench.jobs.start(SLOT, f"Comparing with pin {label}", work, show, quiet=QUIET)
