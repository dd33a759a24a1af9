"""Search for the highest ratio that loses at most so much accuracy, in the background."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nbquant.analysis.accuracy_loss import fit_accuracy
from nbquant.analysis.target import Target
from nbquant.models.evaluate import Evaluation
from nbquant.quantization.accuracy_loss import AccuracyLoss
from nbquant.quantization.quantized import Quantized
from nbquant.widgets.jobs.jobs import message_of
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "search"
SETTLED = 0.4  # s without a newer wish, before anything is tried
TRIES = 11  # about: three by factors of two, then to a hundredth


@dataclass(frozen=True)
class FoundRatio:
    """What a search found.

    Attributes:
        ratio: The target of the fit that passed.
        loss: What it was found to lose, and how sure that is.
    """

    ratio: float
    loss: AccuracyLoss


def search(
    bench: Workbench,
    at_most: float,
    fit: Callable[[Target, Report], Quantized],
    show: Callable[[FoundRatio | str], None],
) -> None:
    """Search by sequential tests on paired test samples; see :mod:`nbquant.analysis.accuracy_loss`.

    Args:
        bench: What to work with.
        at_most: Accuracy that may be lost [percentage points].
        fit: fit(target, report) quantizes the weights to a ratio.
        show: Gets what was found, or why nothing was.
    """
    network = bench.with_network(SLOT, "no accuracy can be searched for")
    if network is None:
        return

    def work(report: Report) -> FoundRatio | str:
        for _ in range(10):  # so that a drag need not wait
            report(0, None)
            time.sleep(SETTLED / 10)
        tried: list[tuple[float, Quantized]] = []

        def told(done: float, total: float | None = None) -> None:
            report(len(tried), float(max(TRIES, len(tried) + 1)))

        def fit_to(target: Target) -> Quantized:
            bench.jobs.rename(SLOT, f"Testing whether {target.value:.3g}× loses at most {at_most:g} points")
            found = fit(target, told)
            tried.append((target.value, found))
            return found

        def evaluations(quantized: Quantized) -> Iterator[Evaluation]:
            return network.evaluations(quantized, told)

        try:
            found = fit_accuracy(at_most, fit_to, evaluations, told)
        except (ValueError, TypeError, RuntimeError) as error:
            return message_of(error)
        assert found.accuracy is not None
        ratio = next(ratio for ratio, quantized in tried if quantized.tensors is found.tensors)
        return FoundRatio(ratio, found.accuracy)

    bench.jobs.start(SLOT, f"Searching for a loss of {at_most:g} points", work, show)
