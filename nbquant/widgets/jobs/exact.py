"""Quantize the weights themselves at a target, in the background."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from nbquant.analysis.breakdown import Breakdown, breakdown
from nbquant.analysis.curve import curve_of
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.coding.ledger import Ledger
from nbquant.progress import Progress
from nbquant.quantization.methods import family_of
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.widgets.jobs.jobs import Jobs
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.settings import Settings

SLOT = "exact"
SETTLED = 0.15  # s without a newer request, before weights are quantized
DAMPED = "damped selection"  # beside the curves of its statistics
QUIET = 0.5  # s that it takes before a word is said about it


def damped(selection: Selection, statistics: Statistics, *, keep: bool = False) -> Selection:
    """The weights with the sensitivities that are counted with.

    Args:
        selection: The weights, with their sensitivities undamped.
        statistics: Of the same weights, damped.
        keep: Whether the result is kept with the statistics: what is known of a selection is known of this one only.
    """
    known: dict[Any, Any] = statistics.curves
    if DAMPED in known:
        return cast(Selection, known[DAMPED])
    found = selection.damped(statistics.offset)
    if keep:
        known[DAMPED] = found
    return found


@dataclass(frozen=True, eq=False)
class FitRequest:
    """A target on a selection, and all that is needed to quantize the weights there.

    Attributes:
        point: The operating point found there.
        settings: What it follows from; their target is reached by several levels, but what the weights give must meet
            this one.
        curve: Operating points of the same method.
        statistics: Of the selection, damped.
        selection: The weights, with their sensitivities undamped.
    """

    point: OperatingPoint
    settings: Settings
    curve: Sequence[OperatingPoint]
    statistics: Statistics
    selection: Selection

    def is_at(self, other: "FitRequest | None") -> bool:
        """Whether the exact pass of both gives the same."""
        return (
            other is not None
            and self.statistics is other.statistics
            and self.settings.target == other.settings.target
            and self.point.quantizer == other.point.quantizer
            and self._finer() == other._finer()
        )

    def _finer(self) -> float | None:
        """Parameter of the next finer point, between which and this one a method that runs looks for the target."""
        place = next((i for i, p in enumerate(self.curve) if p.quantizer == self.point.quantizer), len(self.curve))
        return self.curve[place + 1].parameter if place + 1 < len(self.curve) else None

    def damped(self) -> Selection:
        """The weights with the sensitivities that are counted with."""
        return damped(self.selection, self.statistics)

    def quantize(self, progress: Progress, damped: Selection | None = None) -> Quantized:
        """Quantize the weights themselves; ``damped`` are they, if they are at hand."""
        selection = self.damped() if damped is None else damped
        family = family_of(self.point.quantizer)
        return curve_of(family, selection, self.statistics, self.curve, progress).fit(self.settings.target)


class ExactPass:
    """Quantizes the weights themselves, in the background, once no newer request comes.

    Attributes:
        request: The newest request; None before the first.
        result: What the weights give there; None while it is not there yet.
        ledger: The ledger of its file; None while it is not there yet.
    """

    def __init__(
        self, jobs: Jobs, show: Callable[[str, Any], None], price: Callable[[Quantized], Ledger | None]
    ) -> None:
        """Run in the slot "exact" of ``jobs``.

        Args:
            jobs: Where to run.
            show: Gets "exact", "ledger" and "breakdown", each with what was found; None takes it back.
            price: Finds the ledger of the file.
        """
        self._jobs, self._show, self._price = jobs, show, price
        self.request: FitRequest | None = None
        self.result: Quantized | None = None
        self.ledger: Ledger | None = None

    def follow(self, request: FitRequest | None) -> None:
        """Drop the result, and start on another request; None is none."""
        self.request = request
        self.result = self.ledger = None
        for name in ("breakdown", "ledger", "exact"):
            self._show(name, None)
        if request is None:
            self._jobs.cancel(SLOT)
            return

        def work(report: Report) -> Breakdown:
            for _ in range(10):  # so that a newer tick need not wait
                report(0, None)
                time.sleep(SETTLED / 10)
            selection = request.damped()
            quantized = request.quantize(report, selection)
            with self._jobs.lock:
                report(0, None)
                self.result = quantized
                self._show("exact", quantized)
            ledger = self._price(quantized)
            with self._jobs.lock:
                report(0, None)
                self.ledger = ledger
                self._show("ledger", ledger)
            return breakdown(quantized, selection, report)

        self._jobs.start(
            SLOT, "Quantizing the weights", work, lambda found: self._show("breakdown", found), quiet=QUIET
        )

    def follow_again(self, request: FitRequest) -> None:
        """Take over a request at the same point, whose settings may be newer; start again if it was cancelled."""
        self.request = request
        if self.result is None and not self._jobs.wanted(SLOT):
            self.follow(request)

    def awaited(self) -> Callable[[Report], Quantized] | None:
        """Get what waits for this request's result, or computes it once there is a newer request; None without any."""
        request, result = self.request, self.result
        if request is None:
            return None

        def wait(report: Report) -> Quantized:
            while True:
                with self._jobs.lock:
                    mine = request.is_at(self.request)
                    found, coming = self.result if mine else None, mine and self._jobs.wanted(SLOT)
                if found is not None or not coming:
                    return request.quantize(report) if found is None else found
                report(0, None)
                time.sleep(SETTLED / 10)

        return wait if result is None else lambda report: result
