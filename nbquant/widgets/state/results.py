"""Declare the explorer's results as traits, and show what curves and jobs bring."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import traitlets

from nbquant.analysis.live import largest_ratio, live_table, mean_of_cells
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import solve
from nbquant.analysis.target import targets_of
from nbquant.coding.ledger import Ledger
from nbquant.pipeline.finetune import FineTuned
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.views.rate_distortion import Curve
from nbquant.widgets.jobs.accuracy_search import FoundRatio
from nbquant.widgets.jobs.brush import Brush
from nbquant.widgets.jobs.curves import BOUND, CurveInputs, Curves
from nbquant.widgets.jobs.exact import ExactPass, FitRequest
from nbquant.widgets.jobs.jobs import Jobs
from nbquant.widgets.jobs.layer_bits import LayerBits, layer_bits
from nbquant.widgets.jobs.measure import Measurement
from nbquant.widgets.jobs.save import Saved
from nbquant.widgets.jobs.trace import WeightTracer
from nbquant.widgets.settings import Settings
from nbquant.widgets.state.evaluations import with_evaluation
from nbquant.widgets.state.inputs import Inputs
from nbquant.widgets.state.pins import Pin, Pins

MOST_PARTIAL = 8  # measurements on a part of the samples that are kept
MOST_RATIO = 1e4  # up to which a slider is extended for the sake of a target


class Results(Inputs):
    """Results as read-only traits.

    Attributes:
        settings: Settings that the results follow from.
        selection: The selected weights.
        pruned_to: Density that the module was pruned to; None if it was not.
        parameters: Names of the selected parameters.
        ratio_bounds: Least and largest ratio that any method reaches.
        curves: (method, weighted) to operating points, coarse to fine, for the current selection; filled one by one.
        bound: Rate-distortion bound of the selection; None while it is not there, or where it does not exist.
        table: The chosen method's curve as arrays, with the clusters of the group in focus; None before the first.
        point: Operating point at the target; None before the first.
        by_hand: The point with centres that were moved by hand; None if none were.
        exact: What the weights themselves give there, computed in the background; None while it is not there yet.
        breakdown: Where bits and loss of ``exact`` come from, a little later; None while it is not there yet.
        ledger: Every bit of the file that would be saved now, by its part; None while it is not known.
        sensitivity: Sensitivities in use, undamped; None while there are none, then h is 1.
        pruned: The pruned module that all is of, with its history; None while it is of the module that was given.
        finetuned: ``exact`` after fine-tuning, which is then measured and saved instead; None before
            fine-tuning at this target.
        training: The last fine-tuning that came to its end, whatever the target is by now; None before.
        measurement: Accuracy at ``point``, of a part of the samples until all were asked for; None if it has not been
            measured there.
        measured: All measurements of this selection so far.
        evaluated: What was measured of results of this selection, without the results themselves.
        found: What the point that was searched for an ``accuracy_loss`` loses, and how sure that is; None before, and
            for other targets.
        breaks: What the result at ``point`` breaks; None before it was looked for.
        traced: The way of one weight into the file; None if none was chosen.
        comparison: The result at ``point`` beside that of the pin that is compared; None while there is none.
        brushed: Weights of a region of the parameter in focus; None if none was brushed.
        format_points: All block formats on the selection, as far as they were compared; empty unless ``all_formats``.
        inspected: The quantized file that was opened last; None before.
        tensor_codes: Codes of its tensor ``file_tensor``; None before.
        pins: Operating points that were pinned.
        saved: The last file that was written; None before.
        can_undo: Whether there is a step to undo.
        can_redo: Whether there is one to do again.
        cancelled: Whether something was cancelled since the last change of a setting; see ``resume``.
        activity: What is under way, in words; "" if nothing is.
        progress: Part of it that is done, from 0 to 1; negative if unknown.
        pace: How much of it is done, how fast, and how long it will take, in words.
        error: What the last input could not do; "" if all is well.
    """

    parameters = traitlets.Tuple((), read_only=True)
    ratio_bounds = traitlets.Tuple((1.0, 32.0), read_only=True)
    curves: "traitlets.Dict[tuple[str, bool], list[OperatingPoint]]" = traitlets.Dict(read_only=True)
    bound = traitlets.Any(None, allow_none=True, read_only=True)
    table = traitlets.Any(None, allow_none=True, read_only=True)
    point = traitlets.Any(None, allow_none=True, read_only=True)
    by_hand = traitlets.Any(None, allow_none=True, read_only=True)
    exact = traitlets.Any(None, allow_none=True, read_only=True)
    breakdown = traitlets.Any(None, allow_none=True, read_only=True)
    ledger = traitlets.Any(None, allow_none=True, read_only=True)
    sensitivity = traitlets.Any(None, allow_none=True, read_only=True)
    pruned = traitlets.Any(None, allow_none=True, read_only=True)
    finetuned = traitlets.Any(None, allow_none=True, read_only=True)
    training = traitlets.Any(None, allow_none=True, read_only=True)
    measurement = traitlets.Any(None, allow_none=True, read_only=True)
    measured = traitlets.Tuple((), read_only=True)
    evaluated = traitlets.Tuple((), read_only=True)
    found = traitlets.Any(None, allow_none=True, read_only=True)
    breaks = traitlets.Any(None, allow_none=True, read_only=True)
    traced = traitlets.Any(None, allow_none=True, read_only=True)
    comparison = traitlets.Any(None, allow_none=True, read_only=True)
    brushed = traitlets.Any(None, allow_none=True, read_only=True)
    format_points = traitlets.Tuple((), read_only=True)
    inspected = traitlets.Any(None, allow_none=True, read_only=True)
    tensor_codes = traitlets.Any(None, allow_none=True, read_only=True)
    pins = traitlets.Tuple((), read_only=True)
    saved = traitlets.Any(None, allow_none=True, read_only=True)
    can_undo = traitlets.Bool(False, read_only=True)
    can_redo = traitlets.Bool(False, read_only=True)
    cancelled = traitlets.Bool(False, read_only=True)
    activity = traitlets.Unicode(read_only=True)
    progress = traitlets.Float(-1.0, read_only=True)
    pace = traitlets.Unicode(read_only=True)
    error = traitlets.Unicode(read_only=True)

    settings: Settings
    selection: Selection

    def __init__(self, slots: Sequence[str], price: Callable[[Quantized], Ledger | None]) -> None:
        """Start without results.

        Args:
            slots: Names of the slots of background jobs; of several under way, the first is told of.
            price: Computes the ledger of a file.
        """
        super().__init__()
        self.pruned_to: float | None = None
        self._jobs = Jobs(slots, self._show_activity, lambda message: self.set_trait("error", message))
        self._exact = ExactPass(self._jobs, self._show_exact, price)
        self._brush = Brush(self._jobs, lambda brushed: self.set_trait("brushed", brushed))
        self._tracer = WeightTracer(lambda found: self.set_trait("traced", found))
        self._pins = Pins(lambda pins: self.set_trait("pins", pins))
        self._found: dict[Any, FoundRatio] = {}  # by what was searched
        self._searched: Any = None  # what is being searched
        self._generation = 0  # of statistics
        self._curves_of: CurveInputs | None = None  # what the curves were computed from
        self._tabled: tuple[list[OperatingPoint], str, int] | None = None  # what the table is of

    @property
    def statistics(self) -> Statistics | None:
        """What the curves are computed from; None before the first."""
        return None if self._curves_of is None else self._curves_of.statistics

    @property
    def followed(self) -> Settings:
        """Settings with a target on the curves: for an accuracy, the ratio that was found or the last target."""
        now = self.settings
        if not now.is_searched:
            return now
        found, last = self._found.get(self._search_key()), self._exact.request
        if found is not None:
            return now.at("ratio", found.ratio)
        if last is not None and last.settings.driver in targets_of(now.method):
            return now.at(last.settings.driver, last.settings.value)
        return now.at("ratio", self.ratio)

    def _search_key(self) -> Any:
        """What a search depends on."""
        return self.settings, self._generation

    @property
    def kept(self) -> Quantized | None:
        """What is measured and saved at this target; None while it is not there yet."""
        return self.exact if self.finetuned is None else self.finetuned.quantized

    @property
    def file(self) -> Saved | None:
        """The file that holds what is kept at this target; None if that was not saved."""
        return self.saved if self.saved is not None and self.saved.quantized is self.kept else None

    @property
    def layer_bits(self) -> tuple[LayerBits, ...]:
        """Formats of the layers with their bits; empty for methods without block formats."""
        request = self._exact.request
        if request is None:
            return ()
        kept = self.exact if request.point is self.point else None
        return layer_bits(request.point.quantizer, request.damped(), kept, dict(self.settings.layer_formats))

    @property
    def focused(self) -> SelectedTensor | None:
        """The parameter in focus; None for a moment, while the selection changes."""
        return next((t for t in self.selection if t.name == self.focus), None)

    @property
    def group(self) -> str:
        """Group of clusters that is shown: that of the layer in focus, or the only one."""
        return "" if self.point is None else self._group_of(self.point)

    def _group_of(self, point: OperatingPoint) -> str:
        layer = "" if self.focused is None else self.focused.layer
        return layer if layer in point.clusters else next(iter(point.clusters), "")

    @property
    def is_stale(self) -> bool:
        """Whether the point that is shown is of earlier settings, whatever the target."""
        request, now = self._exact.request, self.settings
        names = ("layers", "method", "estimator", "samples", "damping", *now.options)
        if self._searched is not None and not self.cancelled:
            return True
        return request is not None and any(getattr(request.settings, n) != getattr(now, n) for n in names)

    def _request(self) -> FitRequest:
        """Get the request behind the point that is shown, or raise if there is none."""
        if self._exact.request is None:
            raise ValueError("there is no operating point yet: choose a target within reach")
        return self._exact.request

    # From curves to a point.

    def _show_curves(self, inputs: CurveInputs, curves: Curves) -> None:
        """Show curves, and go to the target on the chosen one."""
        if inputs.statistics is not self.statistics:
            self.set_trait("measured", ())
            self.set_trait("evaluated", ())
            self._generation += 1
        self._curves_of = inputs
        self.set_trait("curves", curves)
        self.set_trait("bound", inputs.statistics.curves.get(BOUND))
        known = [Curve.of_points(points) for points in curves.values() if points]
        if known:
            least = min(float(c.compression_ratio.min()) for c in known)
            most = max(largest_ratio(c.compression_ratio, c.predicted_loss) for c in known)
            runs = self.settings.record.curve is None and self.followed.driver == "ratio"  # further, if it is asked for
            self.set_trait("ratio_bounds", (least, max(most, min(1.1 * self.ratio, MOST_RATIO)) if runs else most))
        self._choose()

    def _has_to_run(self) -> bool:
        """Whether the method has to run before there are points around the target."""
        points = self._chosen_curve() or []
        return self.settings.record.curve is None and not any(self.followed.target.met(p) for p in points)

    def _chosen_curve(self) -> list[OperatingPoint] | None:
        """The curve of the chosen method and its options; None if it is not there."""
        points, now = self.curves.get(self.settings.key), self.settings
        if not points or now.record.curve is not None:
            return points
        quantizer = points[0].quantizer
        return points if all(getattr(quantizer, name) == value for name, value in now.options.items()) else None

    def _choose(self) -> None:
        """Find the point at the target on the chosen curve, once that is there."""
        inputs, now = self._curves_of, self.followed
        curve = self._chosen_curve()
        if inputs is None or curve is None:
            return
        self._show_table()
        with self._jobs.reporting("target"):
            point = solve(now.target, curve, inputs.statistics)
            of = replace(inputs.settings, method=now.method, weighted=now.weighted, driver=now.driver, value=now.value)
            self._show_point(FitRequest(point, of, curve, inputs.statistics, inputs.selection))

    def _show_table(self) -> None:
        inputs, points = self._curves_of, self._chosen_curve()
        if inputs is None or points is None:
            return
        group = self._group_of(points[0]) if points else ""
        bits = inputs.selection.unselected_bits
        if self._tabled is not None and self._tabled[0] is points and self._tabled[1:] == (group, bits):
            return
        self._tabled = points, group, bits
        mean = mean_of_cells(points[0], inputs.statistics, group) if points else 0.0
        self.set_trait("table", live_table(points, group, bits, mean) if points else None)

    def _show_point(self, request: FitRequest) -> None:
        moved = not request.is_at(self._exact.request)
        if moved:
            for job in ("finetune", "save"):
                self._jobs.tell(job, "")
            self._jobs.cancel("finetune", "glance")
            self.set_trait("finetuned", None)
        if self.finetuned is None:
            self._show_known(request)
        if moved:
            self.set_trait("by_hand", None)
            self._exact.follow(request)  # first, so that the new point is never seen beside the old result
            self.set_trait("point", request.point)
            self._follow(request.point)
            self._price_pins(request.point)
        else:
            self._exact.follow_again(request)

    # From jobs.

    def _show_exact(self, name: str, value: Any) -> None:
        if name == "ledger" and self.finetuned is not None:
            return
        self.set_trait(name, value)
        if name in ("exact", "ledger") and self._exact.result is not None:
            self._price_pins(self._exact.result)

    def _show_finetuned(self, found: FineTuned, ledger: Ledger | None) -> None:
        for name, value in (("finetuned", found), ("ledger", ledger), ("training", found)):
            self.set_trait(name, value)
        self._show_fullest(m for m in self.measured if m.quantized is found.quantized)

    def _drop_finetuned(self) -> None:
        """Show what it was fine-tuned from."""
        self.set_trait("finetuned", None)
        self.set_trait("ledger", self._exact.ledger)
        self._show_known(self._request())

    def _show_known(self, request: FitRequest) -> None:
        """Show what was measured at a point before, unless it was fine-tuned then."""
        quantizer = request.point.quantizer
        self._show_fullest(m for m in self.measured if m.point.quantizer == quantizer and not m.quantized.finetuned)

    def _show_fullest(self, known: Iterable[Measurement]) -> None:
        """Show the measurement on all samples, or on a part of them, or none."""
        self.set_trait("measurement", min(known, key=lambda m: m.partial, default=None))

    def _show_measurement(self, request: FitRequest, measurement: Measurement) -> None:
        """Show it in the place of what was known of the same weights."""
        if measurement.partial and any(m.quantized is measurement.quantized and not m.partial for m in self.measured):
            return
        if not measurement.partial:
            self._pins.measured(request.settings, self.pruned_to, measurement)
        if self.statistics is not request.statistics:
            return
        others = [m for m in self.measured if m.quantized is not measurement.quantized]
        partial = [m for m in others if m.partial][: -MOST_PARTIAL + 1]  # each keeps the weights' indices
        self.set_trait("measured", (*(m for m in others if m not in partial), measurement))
        self.set_trait("evaluated", with_evaluation(self.evaluated, measurement))
        finetuned = self.finetuned is not None and self.finetuned.quantized is measurement.quantized
        if request.is_at(self._exact.request) and (finetuned or self.finetuned is None):
            self.set_trait("measurement", measurement)

    def _show_activity(self, activity: str, progress: float, pace: str) -> None:
        for name, value in (("activity", activity), ("progress", progress), ("pace", pace)):
            self.set_trait(name, value)

    # Pins.

    def _pinned(self, label: str) -> Pin:
        """Make a pin of the operating point that is shown."""
        request = self._request()
        exact = self.point if self.exact is None else self.exact
        costs = self.kept or exact
        pin = Pin(label, request.settings, pruned=self.pruned_to).costing(costs, self._bits(costs))
        if self.finetuned is not None:
            pin = replace(pin, finetuned=True, predicted_loss=exact.predicted_loss_increase)
        if self.measurement is not None and not self.measurement.partial:
            found = self.measurement.evaluation
            pin = replace(pin, accuracy=found.accuracy, loss=found.loss)
        if self.kept is not None:
            self._pins.keep(pin, self.kept)
        return pin

    def _price_pins(self, costs: OperatingPoint | Quantized) -> None:
        if self._exact.request is not None:
            self._pins.costing(self._exact.request.settings, self.pruned_to, costs, self._bits(costs))

    def _bits(self, costs: OperatingPoint | Quantized) -> int:
        """Count the bits of the whole file; without names and checksums while they are not known."""
        if self.ledger is not None and costs is self.kept:
            return self.ledger.total
        return costs.ledger.total + self._request().selection.unselected_bits
