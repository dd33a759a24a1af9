"""The exact pass: a target on a selection, and what the weights themselves give there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.solve import Target, fit_to_target
from nbquant.analysis.statistics import Statistics
from nbquant.coding.ledger import Ledger
from nbquant.progress import Progress
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.widgets.background import Report
from nbquant.widgets.jobs import Jobs

SLOT = "exact"
SETTLED = 0.15  # s without a newer aim, before weights are quantized
QUIET = 0.5  # s that it takes before a word is said about it


@dataclass(frozen=True, eq=False)
class Aim:
    """A target with all that it was chosen from.

    Attributes:
        point: The operating point found there.
        ratio: Compression ratio that was asked for: levels reach several, but what the weights give must meet this one.
        curve: Operating points of the same method.
        statistics: Of the selection, damped.
        selection: The weights, with their sensitivities undamped.
    """

    point: OperatingPoint
    ratio: float
    curve: Sequence[OperatingPoint]
    statistics: Statistics
    selection: Selection

    def is_at(self, other: "Aim | None") -> bool:
        """Whether the exact pass of both gives the same."""
        return (
            other is not None
            and self.statistics is other.statistics
            and self.ratio == other.ratio
            and self.point.quantizer == other.point.quantizer
        )

    def quantize(self, progress: Progress) -> Quantized:
        """Quantize the weights themselves."""
        selection = self.selection.damped(self.statistics.offset)
        return fit_to_target(selection, Target("ratio", self.ratio), self.curve, self.statistics, progress)


class ExactPass:
    """Quantizes the weights themselves, in the background, once the aim has come to rest.

    Attributes:
        aim: What it is or will be of; None before the first.
        result: What the weights give there; None while it is not there yet.
    """

    def __init__(
        self,
        jobs: Jobs,
        show: Callable[[Quantized | None], None],
        price: Callable[[Quantized], Ledger | None],
        show_price: Callable[[Ledger | None], None],
    ) -> None:
        """Run in the slot "exact" of ``jobs``.

        Args:
            jobs: Where to run.
            show: Gets each new result.
            price: Finds the ledger of its file, after the result was shown.
            show_price: Gets that.
        """
        self._jobs, self._show, self._price, self._show_price = jobs, show, price, show_price
        self.aim: Aim | None = None
        self.result: Quantized | None = None

    def follow(self, aim: Aim | None) -> None:
        """Drop the result, and go for that of another aim; None is none."""
        self.aim = aim
        self._take(None)
        if aim is None:
            return

        def work(report: Report) -> Ledger | None:
            for _ in range(10):  # so that a newer tick need not wait
                report(0, None)
                time.sleep(SETTLED / 10)
            quantized = aim.quantize(report)
            with self._jobs.lock:
                report(0, None)
                if self.aim is aim:
                    self._take(quantized)
            return self._price(quantized)

        def done(ledger: Ledger | None) -> None:
            if self.aim is aim:
                self._show_price(ledger)

        self._jobs.start(SLOT, "Quantizing the weights", work, done, QUIET)

    def awaited(self) -> Callable[[Report], Quantized] | None:
        """What waits for the result of this aim, or finds it once the aim is another; None without an aim."""
        aim, result = self.aim, self.result
        if aim is None:
            return None

        def wait(report: Report) -> Quantized:
            while True:
                with self._jobs.lock:
                    mine = self.aim is aim
                    found, coming = self.result if mine else None, mine and self._jobs.busy(SLOT)
                if found is not None or not coming:
                    return aim.quantize(report) if found is None else found
                report(0, None)
                time.sleep(SETTLED / 10)

        return wait if result is None else lambda report: result

    def _take(self, result: Quantized | None) -> None:
        self.result = result
        self._show(result)
