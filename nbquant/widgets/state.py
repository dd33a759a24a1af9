"""What the explorer knows and does, without a browser: inputs, their bounds, and the results that follow from them."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import traitlets
from torch import Tensor, nn

from nbquant.analysis.curves import METHODS, QUANTIZERS, Method, curve
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.solve import Target, solve
from nbquant.analysis.statistics import Statistics
from nbquant.coding.ledger import Ledger
from nbquant.models.evaluate import Evaluation, Loss
from nbquant.models.select import Sensitivities
from nbquant.pipeline.finetune import FineTuned
from nbquant.pipeline.prune import Pruned, prune
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import CODINGS
from nbquant.quantization.selection import Selection
from nbquant.sensitivity.estimate import METHODS as ESTIMATORS
from nbquant.storage.write import file_ledger, save
from nbquant.widgets.background import Report
from nbquant.widgets.exact import Aim, ExactPass
from nbquant.widgets.jobs import Jobs, message_of
from nbquant.widgets.network import Network
from nbquant.widgets.results import Measurement, Saved
from nbquant.widgets.weights import Weights

SLOTS = ("prune", "sensitivity", "curves", "exact", "finetune", "accuracy", "save")

Curves = dict[tuple[str, bool], list[OperatingPoint]]


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
        density: Part of the weights that pruning keeps.
        epochs: Passes over the training batches that fine-tuning makes.
        path: File that is saved to, ending in ``.nbq``.
        parameters: Names of the selected parameters.
        ratio_bounds: Least and largest ratio that any method reaches.
        curves: (method, weighted) to operating points, coarse to fine, for the current selection; filled one by one.
        point: Operating point at the target; None before the first.
        exact: What the weights themselves give there, computed in the background; None while it is not there yet.
        sensitivity: Sensitivities in use, undamped; None while there are none, then h is 1.
        pruned: The pruned module that all is of, with its history; None while it is of the module that was given.
        ledger: Every bit of the file that would be saved now, by its part; None while it is not known.
        finetuned: ``exact`` after fine-tuning, which then is measured and saved in its stead; None until it has been
            fine-tuned at this target.
        training: The last fine-tuning that came to its end, whatever the target is by now; None before.
        measurement: Accuracy at ``point``; None if it has not been measured there.
        measured: All measurements of this selection so far.
        saved: The last file that was written; None before.
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
    epochs = traitlets.Int(1, min=1)
    density = traitlets.Float(0.1, min=0.0, max=1.0)
    path = traitlets.Unicode("model.nbq")

    parameters = traitlets.Tuple((), read_only=True)
    ratio_bounds = traitlets.Tuple((1.0, 32.0), read_only=True)
    curves: "traitlets.Dict[tuple[str, bool], list[OperatingPoint]]" = traitlets.Dict(read_only=True)
    point = traitlets.Any(None, allow_none=True, read_only=True)
    exact = traitlets.Any(None, allow_none=True, read_only=True)
    ledger = traitlets.Any(None, allow_none=True, read_only=True)
    sensitivity = traitlets.Any(None, allow_none=True, read_only=True)
    pruned = traitlets.Any(None, allow_none=True, read_only=True)
    finetuned = traitlets.Any(None, allow_none=True, read_only=True)
    training = traitlets.Any(None, allow_none=True, read_only=True)
    measurement = traitlets.Any(None, allow_none=True, read_only=True)
    measured = traitlets.Tuple((), read_only=True)
    saved = traitlets.Any(None, allow_none=True, read_only=True)
    activity = traitlets.Unicode(read_only=True)
    progress = traitlets.Float(-1.0, read_only=True)
    error = traitlets.Unicode(read_only=True)

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        data: Any = None,
        *,
        sensitivity: Sensitivities | None = None,
        loss: Loss | None = None,
        **inputs: Any,
    ) -> None:
        """Make a state and start on its first results.

        Args:
            model: Any module, which is copied and never changed; or the path of a checkpoint, which is mapped.
            data: See :meth:`Data.of`; None for a checkpoint, or where nothing is to be estimated or measured.
            sensitivity: Sensitivities to use, or the path of a file of them; None estimates them in the background,
                with h = 1 until they are there, or for good without a module or data.
            loss: loss(output, target), the mean over a batch; None is cross-entropy.
            **inputs: First values of the inputs; ``layers`` as for :func:`nbquant.select`.

        Raises:
            TypeError: What is no module, path or data, or an input of a name or type that there is not.
            ValueError: Layers that cannot be selected, an input out of its range, data that can be read only once or
                come with a checkpoint.
            OSError: Files that are not there or cannot be read.
        """
        super().__init__()
        self._weights = Weights(model, sensitivity, inputs.pop("layers", None))
        self._take(inputs)
        self._network = Network.of(self._weights.origin, data, loss)
        self._jobs = Jobs(SLOTS, self._show_activity, lambda message: self.set_trait("error", message))
        self._original = self._weights.origin
        self._exact = ExactPass(self._jobs, self._show_exact, self._priced, self._show_ledger)
        self.available_layers = self._weights.layers
        self.selection: Selection = self._weights.first
        self.statistics: Statistics | None = None
        self.layers = self.selection.layers
        # Until the curves are there; a control must not cut the ratio that was asked for.
        self.set_trait("ratio_bounds", (min(1.0, self.ratio), max(32.0, 1.1 * self.ratio)))
        self.set_trait("sensitivity", self._weights.sensitivity)
        self._reselect()
        self.observe(lambda change: self._reselect(), ["layers", "damping"])
        self.observe(lambda change: self._recompute(), ["coding", "per_layer"])
        self.observe(lambda change: self._choose(), ["method", "weighted", "ratio"])
        self.observe(lambda change: self.estimate(), ["estimator"])
        if sensitivity is None and self._network is not None:
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
        network, estimator = self._network, self.estimator
        if network is None:
            self._jobs.tell("sensitivity", f"sensitivities cannot be estimated: {self.lacking}")
            return

        def done(found: Mapping[str, Tensor]) -> None:
            self._weights.weigh(found, self.layers)
            self.set_trait("sensitivity", self._weights.sensitivity)
            self._reselect()

        self._jobs.start(
            "sensitivity", "Estimating sensitivities", lambda report: network.estimate(estimator, report), done
        )

    def finetune(self) -> None:
        """Fine-tune what the weights give at the target, in the background; from there, not from the last time."""
        network, epochs, aim = self._network, self.epochs, self._exact.aim
        if network is None:
            self._jobs.tell("finetune", f"there is nothing to fine-tune with: {self.lacking}")
            return
        quantize = self._awaited("finetune")
        if quantize is None or aim is None:
            return

        def work(report: Report) -> tuple[FineTuned, Ledger | None]:
            found = network.finetune(quantize(report), epochs, report)
            return found, self._priced(found.quantized)

        def done(result: tuple[FineTuned, Ledger | None]) -> None:
            found, ledger = result
            if aim.is_at(self._exact.aim):
                self.set_trait("finetuned", found)
                self.set_trait("ledger", ledger)
                self.set_trait("training", found)
                self.set_trait("measurement", None)

        self._jobs.start("finetune", "Fine-tuning", work, done)

    def measure(self) -> None:
        """Measure the accuracy of what would be saved, in the background."""
        network, aim = self._network, self._exact.aim
        if network is None:
            self._jobs.tell("accuracy", f"accuracy cannot be measured: {self.lacking}")
            return
        keep = self._kept("accuracy")
        if keep is None or aim is None:
            return

        def work(report: Report) -> tuple[Quantized, Evaluation, Evaluation]:
            quantized = keep(report)
            return quantized, *network.evaluate(quantized, report)

        def done(found: tuple[Quantized, Evaluation, Evaluation]) -> None:
            measurement = Measurement(aim.point, *found)
            if self.statistics is not aim.statistics:
                return
            self.set_trait("measured", (*self.measured, measurement))
            finetuned = self.finetuned is not None and self.finetuned.quantized is measurement.quantized
            if aim.is_at(self._exact.aim) and (finetuned or self.finetuned is None):
                self.set_trait("measurement", measurement)

        self._jobs.start("accuracy", "Measuring accuracy", work, done)

    def prune(self) -> None:
        """Prune the module that was given to the chosen density, in the background; all then starts from the result.

        With data what is left is trained in between, and sensitivities are estimated again; without, they stay.
        """
        network, original, density = self._network, self._original, self.density
        if not isinstance(original, nn.Module):
            self._jobs.tell("prune", f"there is nothing to prune: {self.lacking}")
            return

        def work(report: Report) -> Pruned:
            return prune(original, density, progress=report) if network is None else network.prune(density, report)

        def done(found: Pruned) -> None:
            self._jobs.cancel("finetune", "accuracy")
            self._exact.follow(None)  # what it was of is no more
            self.set_trait("finetuned", None)
            self.set_trait("measurement", None)
            self._weights = Weights(found.model, self.sensitivity, self.selection.layers)
            self.set_trait("pruned", found)
            self._reselect()
            if network is not None:
                assert isinstance(self._weights.origin, nn.Module)
                self._network = network.with_model(self._weights.origin)
                self.estimate()

        self._jobs.start("prune", "Pruning", work, done)

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write what the weights give at the target, fine-tuned if they were, to a file, in the background.

        Args:
            path: Replaces the input of this name.
        """
        if path is not None:
            self.path = os.fspath(path)
        target, origin, keep = Path(self.path), self._weights.origin, self._kept("save")
        if keep is None:
            return

        def work(report: Report) -> Saved:
            quantized = keep(report)
            return Saved(target, quantized, save(quantized, target, origin, progress=report))

        self._jobs.start("save", "Saving", work, lambda saved: self.set_trait("saved", saved))

    def cancel(self) -> None:
        """Stop all that is under way in the background; what is shown stays."""
        self._jobs.cancel()

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is under way in the background; False if ``timeout`` [s] ran out."""
        return self._jobs.wait(timeout)

    # What can be said of the results.

    @property
    def lacking(self) -> str:
        """What is missing to estimate, fine-tune and measure, and how to give it; "" if nothing is."""
        if self._network is not None:
            return ""
        if isinstance(self._weights.origin, nn.Module):
            return "there are no data; give them with explore(model, data)"
        return "a checkpoint has weights only; load it into its module, and call explore(model, data)"

    @property
    def is_prunable(self) -> bool:
        """Whether there is a module to prune."""
        return isinstance(self._original, nn.Module)

    @property
    def kept(self) -> Quantized | None:
        """What is measured and saved at this target; None while it is not there yet."""
        return self.exact if self.finetuned is None else self.finetuned.quantized

    @property
    def file(self) -> Saved | None:
        """The file that holds what is kept at this target; None if that was not saved."""
        return self.saved if self.saved is not None and self.saved.quantized is self.kept else None

    @property
    def group(self) -> str:
        """Group of clusters that is shown: that of the layer in focus, or the only one."""
        if self.point is None or len(self.point.clusters) == 1:
            return next(iter(self.point.clusters)) if self.point is not None else ""
        layer = next((t.layer for t in self.selection if t.name == self.focus), "")
        return layer if layer in self.point.clusters else next(iter(self.point.clusters))

    # What follows from an input.

    def _reselect(self) -> None:
        with self._jobs.lock, self._jobs.reporting("layers"):
            self.selection = self._weights.select(self.layers)
            self.set_trait("parameters", tuple(t.name for t in self.selection))
            if self.focus not in self.parameters:
                largest = max(self.selection, key=lambda t: t.weight.numel())
                self.focus = largest.name
            self._recompute()

    def _recompute(self) -> None:
        """All curves of the selection, the chosen method's first, so that the picture follows at once."""
        selection, look = self.selection, self._weights.looking_at(self.selection)
        h, damping = self.sensitivity, self.damping
        chosen, coding, per_layer = self._key, self.coding, self.per_layer

        def work(report: Report) -> tuple[Statistics, Curves]:
            statistics = look(report).damped(damping * h.mean if h is not None and damping else 0.0)
            found: Curves = {}
            for i, key in enumerate(sorted(METHODS, key=lambda k: k != chosen)):
                found[key] = curve(Method(*key, coding, per_layer), statistics)
                report(i + 1, len(METHODS))
                if i == 0:
                    self._show(selection, statistics, dict(found))
            return statistics, found

        def done(result: tuple[Statistics, Curves]) -> None:
            self._show(selection, *result)

        self._jobs.start("curves", "Computing curves", work, done)

    def _show(self, selection: Selection, statistics: Statistics, curves: Curves) -> None:
        with self._jobs.lock:
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
        with self._jobs.lock:
            if self.statistics is None or self._key not in self.curves:
                return
            with self._jobs.reporting("ratio"):
                self._show_point(solve(Target("ratio", self.ratio), self.curves[self._key], self.statistics))

    def _show_point(self, point: OperatingPoint) -> None:
        assert self.statistics is not None
        # The curve of the point that is shown: right after a change of method that method's may not be there yet.
        curve = self.curves[point.quantizer.method, point.quantizer.weighted]
        aim = Aim(point, self.ratio, curve, self.statistics, self.selection)
        moved = not aim.is_at(self._exact.aim)
        if moved:
            for job in ("finetune", "save"):
                self._jobs.tell(job, "")
            self._jobs.cancel("finetune")
            self.set_trait("finetuned", None)
        if self.finetuned is None:
            known = (m for m in self.measured if m.point.quantizer == point.quantizer and not m.quantized.finetuned)
            self.set_trait("measurement", next(known, None))
        self.set_trait("point", point)
        if moved:
            self._exact.follow(aim)

    def _kept(self, job: str) -> Callable[[Report], Quantized] | None:
        """What is kept at this target, once it is there; None where there is no target, which is told."""
        finetuned = self.finetuned
        return self._awaited(job) if finetuned is None else lambda report: finetuned.quantized

    def _awaited(self, job: str) -> Callable[[Report], Quantized] | None:
        """The same before fine-tuning."""
        found = self._exact.awaited()
        if found is None:
            self._jobs.tell(job, "there is no operating point yet: choose a target within reach")
        return found

    def _show_exact(self, quantized: Quantized | None) -> None:
        self.set_trait("ledger", None)
        self.set_trait("exact", quantized)

    def _show_ledger(self, ledger: Ledger | None) -> None:
        if self.finetuned is None:
            self.set_trait("ledger", ledger)

    def _priced(self, quantized: Quantized) -> Ledger | None:
        """The ledger of its file; None where it cannot be saved, which is told when that is tried."""
        try:
            return file_ledger(quantized, self._weights.origin)
        except (ValueError, OSError):
            return None

    @property
    def _key(self) -> tuple[str, bool]:
        return self.method, self.weighted

    def _show_activity(self, activity: str, progress: float) -> None:
        self.set_trait("activity", activity)
        self.set_trait("progress", progress)
