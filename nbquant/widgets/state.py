"""What the explorer knows and does, without a browser: inputs, their bounds, and the results that follow from them."""

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import traitlets
from torch import Tensor, nn

from nbquant.analysis.curves import METHODS, QUANTIZERS, Method, curve
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.solve import Target, fit_to_target, solve
from nbquant.analysis.statistics import Statistics, tensor_statistics
from nbquant.models.evaluate import Evaluation, Loss, evaluate
from nbquant.models.layers import layer_names
from nbquant.models.select import select
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import CODINGS, Quantizer
from nbquant.quantization.selection import Selection
from nbquant.sensitivity.estimate import METHODS as ESTIMATORS
from nbquant.sensitivity.estimate import sensitivity as estimate_sensitivity
from nbquant.sensitivity.result import Sensitivity
from nbquant.widgets.background import Job, Report, Slot

SLOTS = ("sensitivity", "accuracy", "curves", "exact")
SETTLED = 0.15  # s without a tick, before weights are quantized
QUIET = 0.5  # s that the exact pass takes before a word is said about it

Curves = dict[tuple[str, bool], list[OperatingPoint]]


@dataclass(frozen=True)
class Data:
    """What the explorer measures on.

    Attributes:
        calibration: Batches (inputs, target) for sensitivities.
        test: Batches for accuracy.
    """

    calibration: Iterable[Any]
    test: Iterable[Any]

    @staticmethod
    def of(data: Any) -> "Data":
        """Data of anything with ``calibration`` and ``test``, or of one iterable of batches for both.

        Raises:
            TypeError: Neither.
            ValueError: An iterator, which could be read only once.
        """
        if hasattr(data, "calibration") and hasattr(data, "test"):
            data = Data(data.calibration, data.test)
        elif isinstance(data, Iterable):
            data = Data(data, data)
        else:
            raise TypeError(
                "data must have .calibration and .test, or be an iterable of (inputs, target) batches such as a "
                f"DataLoader, but got a {type(data).__name__}"
            )
        for name in ("calibration", "test"):
            if isinstance(getattr(data, name), Iterator):
                raise ValueError(f"data is read more than once, but {name} is an iterator: pass a list or a DataLoader")
        return data


@dataclass(frozen=True)
class Measurement:
    """Accuracy and loss of the quantized model beside the original's.

    Attributes:
        point: Operating point they were measured at.
        quantized: What was applied, computed from the weights themselves.
        evaluation: Of the quantized model.
        original: Of the original model.
    """

    point: OperatingPoint
    quantized: Quantized
    evaluation: Evaluation
    original: Evaluation


class ExplorerState(traitlets.HasTraits):
    """Inputs and results of the explorer.

    Setting an input updates the results: the target at once from ready curves; selection, coding and damping in the
    background, where the newest setting wins, from histograms that are made once. The exact pass over the weights
    follows when the target has come to rest. What fails is told in ``error`` and leaves the last results standing.

    Attributes:
        layers: Names of the selected layers.
        method: "kmeans", "uniform" or "ecsq".
        weighted: Weigh by sensitivity.
        coding: "huffman" or "fixed".
        per_layer: A codebook for each layer, or one for all.
        ratio: Target compression ratio of the selection.
        estimator: Name of the sensitivity estimator.
        damping: ε of h + ε·mean(h). Without it ECSQ sets many weights of small h to zero at high ratios, whose errors
            point the same way, so that far more accuracy is lost than the diagonal predicts.
        focus: Parameter whose sensitivities are shown.
        parameters: Names of the selected parameters.
        ratio_bounds: Least and largest ratio that any method reaches.
        curves: (method, weighted) to operating points, coarse to fine, for the current selection; filled one by one.
        point: Operating point at the target; None before the first.
        exact: What the weights themselves give there, computed in the background; None while it is not there yet.
        sensitivity: Sensitivities in use, undamped; None while there are none, then h is 1.
        measurement: Accuracy at ``point``; None if it has not been measured there.
        measured: All measurements of this selection so far.
        activity: What is under way, in words; "" if nothing is.
        progress: Part of it that is done, from 0 to 1; negative if unknown.
        error: What the last input could not do; "" if all is well.
    """

    layers = traitlets.Tuple()
    method = traitlets.Enum(tuple(QUANTIZERS), "kmeans")
    weighted = traitlets.Bool(True)
    coding = traitlets.Enum(CODINGS, "huffman")
    per_layer = traitlets.Bool(False)
    ratio = traitlets.Float(14.0)
    estimator = traitlets.Enum(tuple(ESTIMATORS), "gauss_newton_sampled")
    damping = traitlets.Float(0.1, min=0.0)
    focus = traitlets.Unicode()

    parameters = traitlets.Tuple((), read_only=True)
    ratio_bounds = traitlets.Tuple((1.0, 32.0), read_only=True)
    curves: "traitlets.Dict[tuple[str, bool], list[OperatingPoint]]" = traitlets.Dict(read_only=True)
    point = traitlets.Any(None, allow_none=True, read_only=True)
    exact = traitlets.Any(None, allow_none=True, read_only=True)
    sensitivity = traitlets.Any(None, allow_none=True, read_only=True)
    measurement = traitlets.Any(None, allow_none=True, read_only=True)
    measured = traitlets.Tuple((), read_only=True)
    activity = traitlets.Unicode(read_only=True)
    progress = traitlets.Float(-1.0, read_only=True)
    error = traitlets.Unicode(read_only=True)

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        *,
        sensitivity: Mapping[str, Tensor] | None = None,
        loss: Loss | None = None,
        **inputs: Any,
    ) -> None:
        """Make a state and start on its first results.

        Args:
            model: Any module; it is copied, and never changed.
            data: See :meth:`Data.of`.
            sensitivity: Sensitivities to use; None estimates them in the background, with h = 1 until they are there.
            loss: loss(output, target), the mean over a batch; None is cross-entropy.
            **inputs: First values of the inputs; ``layers`` as for :func:`nbquant.select`.

        Raises:
            TypeError: What is no module or no data, or an input of a name or type that there is not.
            ValueError: Layers that cannot be selected, an input out of its range, data that can be read only once.
        """
        super().__init__()
        self.selection: Selection = select(model, None, inputs.pop("layers", None))
        self._take(inputs)
        self._lock = threading.RLock()
        # A copy of its own: estimating puts hooks on the model, while a cell of the user's may be using it.
        self._model, self._data, self._loss = copy.deepcopy(model), Data.of(data), loss
        self._model_in_use = threading.Lock()
        self._slots = {name: Slot(name) for name in SLOTS}
        self._under_way: dict[str, tuple[str, float]] = {}
        self._errors: dict[str, str] = {}
        self._seen: Statistics | None = None  # of those of them that were looked at
        self._original: Evaluation | None = None
        self._aim: tuple[Statistics | None, Quantizer, float] | None = None  # what ``exact`` is or will be of
        self.available_layers = layer_names(model)
        self.statistics: Statistics | None = None
        self.layers = self.selection.layers
        # Until the curves are there; a control must not cut the ratio that was asked for.
        self.set_trait("ratio_bounds", (min(1.0, self.ratio), max(32.0, 1.1 * self.ratio)))
        if sensitivity is not None:
            given = isinstance(sensitivity, Sensitivity)
            self.set_trait("sensitivity", sensitivity if given else Sensitivity(dict(sensitivity), "given", samples=0))
        self._known = select(self._model, self.sensitivity, self.layers)  # all that was ever selected
        self._reselect()
        self.observe(self._on_selection, ["layers", "damping"])
        self.observe(self._on_curves, ["coding", "per_layer"])
        self.observe(self._on_point, ["method", "weighted", "ratio"])
        self.observe(self._on_estimator, ["estimator"])
        if sensitivity is None:
            self.estimate()

    def _take(self, inputs: Mapping[str, Any]) -> None:
        known = [name for name, trait in self.traits().items() if not trait.read_only]
        for name, value in inputs.items():
            if name not in known:
                raise TypeError(f"the explorer's inputs are {', '.join(known)}, but {name!r} came")
            try:
                self.set_trait(name, value)
            except traitlets.TraitError as error:
                raise ValueError(f"{name} cannot be {value!r}: {message_of(error)}") from None

    # What the user can ask for beside setting inputs.

    def estimate(self) -> None:
        """Estimate the sensitivities with the chosen estimator, in the background."""
        estimator = self.estimator

        def work(report: Report) -> Mapping[str, Tensor]:
            with self._exclusive(report):
                return estimate_sensitivity(
                    self._model, self._data.calibration, estimator, loss=self._loss, progress=report
                )

        def done(found: Mapping[str, Tensor]) -> None:
            self.set_trait("sensitivity", found)
            self._known, self._seen = select(self._model, found, self.layers or []), None
            self._reselect()

        self._start("sensitivity", "Estimating sensitivities", work, done)

    def measure(self) -> None:
        """Quantize the weights themselves at the target and measure accuracy, in the background."""
        point, statistics = self.point, self.statistics
        if point is None or statistics is None:
            self._tell("accuracy", "there is no operating point to measure yet: choose a target within reach")
            return
        exact, quantize = self.exact, self._quantize(point, statistics)

        def work(report: Report) -> tuple[Quantized, Evaluation, Evaluation]:
            with self._exclusive(report):
                original = self._original or evaluate(self._model, self._data.test, self._loss, report)
                self._original = original
                quantized = exact or quantize(report)
                report(0, None)
                return quantized, evaluate(quantized.apply(self._model), self._data.test, self._loss, report), original

        def done(found: tuple[Quantized, Evaluation, Evaluation]) -> None:
            measurement = Measurement(point, *found)
            if self.statistics is not statistics:
                return
            self.set_trait("measured", (*self.measured, measurement))
            if self.point is point:
                self.set_trait("measurement", measurement)

        self._start("accuracy", "Measuring accuracy", work, done)

    def _quantize(self, point: OperatingPoint, statistics: Statistics) -> Callable[[Report], Quantized]:
        """What quantizes the weights themselves to the target that the point was chosen for."""
        selection, target = self.selection, Target("ratio", self.ratio)
        # The curve of the point that is shown: right after a change of method that method's may not be there yet.
        points = self.curves[point.quantizer.method, point.quantizer.weighted]
        return lambda report: fit_to_target(selection.damped(statistics.offset), target, points, statistics, report)

    def cancel(self) -> None:
        """Stop all that is under way in the background; what is shown stays."""
        for slot in self._slots.values():
            slot.cancel()

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is under way in the background; False if ``timeout`` [s] ran out."""
        return all(self._slots[name].wait(timeout) for name in ("sensitivity", "curves", "exact", "accuracy"))

    @property
    def group(self) -> str:
        """Group of clusters that is shown: that of the layer in focus, or the only one."""
        if self.point is None or len(self.point.clusters) == 1:
            return next(iter(self.point.clusters)) if self.point is not None else ""
        layer = next((t.layer for t in self.selection if t.name == self.focus), "")
        return layer if layer in self.point.clusters else next(iter(self.point.clusters))

    # What follows from an input.

    def _on_selection(self, change: Any) -> None:
        self._reselect()

    def _on_curves(self, change: Any) -> None:
        self._recompute()

    def _on_point(self, change: Any) -> None:
        with self._lock:
            self._choose()

    def _on_estimator(self, change: Any) -> None:
        self.estimate()

    def _reselect(self) -> None:
        with self._lock, self._reporting("layers"):
            new = [name for name in self.layers if name not in self._known.layers]
            if new or not self.layers:
                self._known = select(self._model, self.sensitivity, [*self._known.layers, *new] if self.layers else [])
            self.selection = self._known.part(self.layers)
            self.set_trait("parameters", tuple(t.name for t in self.selection))
            if self.focus not in self.parameters:
                largest = max(self.selection, key=lambda t: t.weight.numel())
                self.focus = largest.name
            self._recompute()

    def _recompute(self) -> None:
        """All curves of the selection, the chosen method's first, so that the picture follows at once."""
        selection, known, seen = self.selection, self._known, self._seen
        offset = 0.0 if self.sensitivity is None else self.damping * self.sensitivity.mean
        chosen, coding, per_layer = self._key, self.coding, self.per_layer

        def work(report: Report) -> tuple[Statistics, Statistics, Curves]:
            everything = _with(seen, selection, known, report)
            statistics = everything.part(selection.layers).damped(offset)
            found: Curves = {}
            for i, key in enumerate(sorted(METHODS, key=lambda k: k != chosen)):
                found[key] = curve(Method(*key, coding, per_layer), statistics)
                report(i + 1, len(METHODS))
                if i == 0:
                    self._show(selection, known, everything, statistics, dict(found))
            return everything, statistics, found

        def done(result: tuple[Statistics, Statistics, Curves]) -> None:
            self._show(selection, known, *result)

        self._start("curves", "Computing curves", work, done)

    def _show(
        self, selection: Selection, known: Selection, seen: Statistics, statistics: Statistics, curves: Curves
    ) -> None:
        with self._lock:
            if known is self._known:
                self._seen = seen
            if selection is not self.selection:
                return
            if statistics is not self.statistics:
                self.statistics = statistics
                self.set_trait("measured", ())
            ratios = [p.compression_ratio for points in curves.values() for p in points]
            with self.hold_trait_notifications():
                self.set_trait("curves", curves)
                if ratios:
                    self.set_trait("ratio_bounds", (min(ratios), max(ratios)))
            self._choose()

    def _choose(self) -> None:
        if self.statistics is None or self._key not in self.curves:
            return
        with self._reporting("ratio"):
            self._show_point(solve(Target("ratio", self.ratio), self.curves[self._key], self.statistics))

    def _show_point(self, point: OperatingPoint) -> None:
        known = next((m for m in self.measured if m.point.quantizer == point.quantizer), None)
        self.set_trait("measurement", known)
        self.set_trait("point", point)
        # With the target: levels reach several, but what the weights give must meet the one that was asked for.
        aim = self.statistics, point.quantizer, self.ratio
        if aim != self._aim:
            self._aim = aim
            self.set_trait("exact", None)
            self._follow(point)

    def _follow(self, point: OperatingPoint) -> None:
        """Quantize the weights themselves once the target has come to rest."""
        assert self.statistics is not None
        aim, quantize = self._aim, self._quantize(point, self.statistics)

        def work(report: Report) -> Quantized:
            for _ in range(10):  # so that a newer tick need not wait
                report(0, None)
                time.sleep(SETTLED / 10)
            return quantize(report)

        def done(quantized: Quantized) -> None:
            if self._aim is aim:
                self.set_trait("exact", quantized)

        self._start("exact", "Quantizing the weights", work, done, QUIET)

    @property
    def _key(self) -> tuple[str, bool]:
        return self.method, self.weighted

    # Background work and errors.

    def _start(self, slot: str, activity: str, work: Any, done: Any, quiet: float = 0.0) -> None:
        begun = time.monotonic()

        def finished(result: Any) -> None:
            with self._lock, self._reporting(slot):
                done(result)
            self._settle(slot)

        def failed(error: Exception) -> None:
            with self._lock:
                self._tell(slot, message_of(error))
            self._settle(slot)

        def reported(done: int, total: int | None) -> None:
            if time.monotonic() - begun < quiet:
                return
            with self._lock:
                self._under_way[slot] = activity, done / total if total else -1.0
                self._show_activity()

        reported(0, None)
        self._slots[slot].start(Job(work, finished, failed, lambda: self._settle(slot), reported))

    def _settle(self, slot: str) -> None:
        with self._lock:
            self._under_way.pop(slot, None)
            self._show_activity()

    def _show_activity(self) -> None:
        """Of several activities the one that takes longest."""
        activity, progress = next((self._under_way[s] for s in SLOTS if s in self._under_way), ("", -1.0))
        self.set_trait("activity", activity)
        self.set_trait("progress", progress)

    @contextmanager
    def _exclusive(self, report: Report) -> Iterator[None]:
        """Hold the model for oneself; can be cancelled while waiting for it."""
        while not self._model_in_use.acquire(timeout=0.1):
            report(0, None)
        try:
            yield
        finally:
            self._model_in_use.release()

    @contextmanager
    def _reporting(self, source: str) -> Iterator[None]:
        """Turn what a wrong input raises into ``error``; a right one takes it back."""
        try:
            yield
        except (ValueError, TypeError, RuntimeError) as error:
            self._tell(source, message_of(error))
        else:
            self._tell(source, "")

    def _tell(self, source: str, message: str) -> None:
        """Each input and each work has its own message, so that none hides behind the success of another."""
        self._errors[source] = message
        self.set_trait("error", "; ".join(m for m in self._errors.values() if m))


def _with(seen: Statistics | None, selection: Selection, known: Selection, report: Report) -> Statistics:
    """Statistics of what was seen and of this selection, in the order of ``known``; those seen are not made anew."""
    found = {t.name: t for t in seen.tensors} if seen is not None else {}
    missing = [t for t in selection if t.name not in found]
    if seen is not None and not missing:
        return seen
    found |= {t.name: t for t in tensor_statistics(missing, report)}
    return Statistics(tuple(found[t.name] for t in known if t.name in found))


def message_of(error: Exception) -> str:
    """One line for the user; our own errors say it all, others get their type."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | TypeError | traitlets.TraitError)
    return text if ours and text else f"{type(error).__name__}: {text}"
