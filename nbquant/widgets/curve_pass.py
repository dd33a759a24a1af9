"""All curves of a selection, found in the background, the chosen one first."""

from collections.abc import Callable
from dataclasses import dataclass

from nbquant.analysis.curves import METHODS, curve
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.quantization.selection import Selection
from nbquant.sensitivity.result import Sensitivity
from nbquant.widgets.background import Report
from nbquant.widgets.jobs import Jobs
from nbquant.widgets.settings import Settings
from nbquant.widgets.weights import Weights

SLOT = "curves"

Curves = dict[tuple[str, bool], list[OperatingPoint]]


@dataclass(frozen=True, eq=False)
class Basis:
    """What curves are of.

    Attributes:
        settings: Settings for which they were asked; of the target and the chosen method newer ones count.
        weights: Where the selection was taken from.
        selection: The weights, with their sensitivities undamped.
        statistics: Of them, damped.
    """

    settings: Settings
    weights: Weights
    selection: Selection
    statistics: Statistics


class CurvePass:
    """Finds the curves of the newest settings; those that no longer are asked for are dropped."""

    def __init__(
        self, jobs: Jobs, show: Callable[[Basis, Curves], None], chosen: Callable[[], tuple[str, bool]]
    ) -> None:
        """Run in the slot "curves" of ``jobs``.

        Args:
            jobs: Where to run.
            show: Gets what was found so far, under the lock: first the chosen curve, in the end all.
            chosen: Tells which is the chosen one now.
        """
        self._jobs, self._show, self._chosen = jobs, show, chosen

    def start(self, settings: Settings, weights: Weights, selection: Selection, last: Basis | None) -> None:
        """Go for the curves of a selection; what ``last`` knows of it is not computed again."""
        look, h = weights.looking_at(selection), weights.sensitivity
        offset = _offset(h, settings.damping)
        known = last is not None and last.weights is weights and last.selection.layers == selection.layers
        same = last.statistics if last is not None and known and last.statistics.offset == offset else None

        def work(report: Report) -> tuple[Basis, Curves]:
            basis = Basis(settings, weights, selection, look(report).damped(offset) if same is None else same)
            found: Curves = {}
            while len(found) < len(METHODS):
                chosen = self._chosen()
                key = chosen if chosen not in found else next(k for k in METHODS if k not in found)
                found[key] = curve(settings.curve_of(*key), basis.statistics)
                with self._jobs.lock:
                    report(len(found), len(METHODS))
                    if key == self._chosen():
                        self._show(basis, dict(found))
            return basis, found

        self._jobs.start(SLOT, "Computing curves", work, lambda result: self._show(*result))


def _offset(sensitivity: Sensitivity | None, damping: float) -> float:
    """What is added to each h [loss/weight²]."""
    return damping * sensitivity.mean if sensitivity is not None and damping else 0.0
