"""What the explorer knows and does, without a browser: inputs, their bounds, and the results that follow from them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from threading import get_ident
from typing import Any

import traitlets
from torch import nn

from nbquant.analysis.by_hand import moved
from nbquant.analysis.live import largest_ratio, live_table, mean_of_cells
from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import solve
from nbquant.analysis.target import targets_of
from nbquant.models.evaluate import Loss
from nbquant.models.select import Sensitivities
from nbquant.pipeline.prune import Pruned
from nbquant.quantization import methods
from nbquant.quantization.kmeans import KMeans
from nbquant.quantization.moments import Calibration
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.sensitivity import estimators
from nbquant.views.rate_distortion import Curve
from nbquant.views.region import Region
from nbquant.widgets import code, session, work
from nbquant.widgets.background import Report
from nbquant.widgets.brush import Brush
from nbquant.widgets.curve_pass import BOUND, Basis, CurvePass, Curves
from nbquant.widgets.exact import Aim, ExactPass
from nbquant.widgets.history import History
from nbquant.widgets.jobs import Jobs, message_of
from nbquant.widgets.network import Network
from nbquant.widgets.pins import Pin, Pins
from nbquant.widgets.results import Saved
from nbquant.widgets.settings import DRIVERS, SIZES, Settings
from nbquant.widgets.weights import Weights

SLOTS = ("prune", "sensitivity", "curves", "exact", "finetune", "accuracy", "save", "deliver", "brush")
MOST_RATIO = 1e4  # that a slider goes to for the sake of a target
ESTIMATES_KEPT = 3  # of which sensitivities are at hand when they are chosen again, beside the first


class ExplorerState(traitlets.HasTraits):
    """Inputs and results of the explorer.

    Setting an input updates the results: the target at once from ready curves; selection, coding and damping in the
    background, where the newest setting wins, from histograms that are made once. The exact pass over the weights
    follows when the target has come to rest. What fails is told in ``error`` and leaves the last results standing; an
    input that cannot be meant at all goes back to what it was. One of ``ratio``, ``rate``, ``levels``, ``lmbda`` and
    ``step`` is asked for, the one that was set last; the others follow the point.

    Attributes:
        layers: Names of the selected layers.
        method: "kmeans", "uniform", "ecsq", "trellis" or "feedback". The last two have no curve: they run on the
            weights at several λ, in the background. Coding and codebooks are first as the method has them by default,
            and so they are when one of the last two is chosen.
        weighted: Weigh by sensitivity.
        coding: "huffman", "fixed" or "context".
        per_layer: A codebook for each layer, or one for all.
        pinned_zero: For k-means: one of the levels is exactly zero.
        ratio: Compression ratio of the selection; asked for, it is the least.
        rate: R [bit/weight]; asked for, it is the largest.
        levels: Number of reconstruction values; asked for, it is the largest.
        lmbda: λ of ECSQ [loss/bit]; 0 for other methods.
        step: Δ of uniform quantization [weight]; 0 for other methods.
        estimator: Name of the sensitivity estimator.
        samples: Calibration samples that it sees; 0 is all.
        damping: ε of h + ε·mean(h). Without it ECSQ sets many weights of small h to zero at high ratios, whose errors
            point the same way, so that far more accuracy is lost than the diagonal predicts.
        focus: Parameter whose sensitivities are shown.
        density: Part of the weights that pruning keeps.
        epochs: Passes over the training batches that fine-tuning makes.
        path: File that is saved to, ending in ``.nbq``.
        log_count: Whether the histogram's axis of counts is logarithmic.
        pooling: "max" or "mean" of the entries that share a pixel of a map.
        size: "standard", "compact" (half a screen) or "projection" (for a class).
        compared: Place of the pin to be compared with; −1 for none.
        driver: Which of ``ratio``, ``rate``, ``levels``, ``lmbda`` and ``step`` is asked for.
        parameters: Names of the selected parameters.
        ratio_bounds: Least and largest ratio that any method reaches.
        curves: (method, weighted) to operating points, coarse to fine, for the current selection; filled one by one.
        table: The chosen method's curve as arrays, with the clusters of the group in focus; None before the first.
        point: Operating point at the target; None before the first.
        by_hand: The point with centres that were moved by hand; None if none were.
        exact: What the weights themselves give there, computed in the background; None while it is not there yet.
        breakdown: Where bits and loss of ``exact`` come from, a little later; None while it is not there yet.
        sensitivity: Sensitivities in use, undamped; None while there are none, then h is 1.
        pruned: The pruned module that all is of, with its history; None while it is of the module that was given.
        ledger: Every bit of the file that would be saved now, by its part; None while it is not known.
        finetuned: ``exact`` after fine-tuning, which then is measured and saved in its stead; None until it has been
            fine-tuned at this target.
        training: The last fine-tuning that came to its end, whatever the target is by now; None before.
        measurement: Accuracy at ``point``; None if it has not been measured there.
        measured: All measurements of this selection so far.
        brushed: Weights of a region of the parameter in focus; None if none was brushed.
        pins: Operating points that were pinned.
        saved: The last file that was written; None before.
        can_undo: Whether there is a step to undo.
        can_redo: Whether there is one to do again.
        activity: What is under way, in words; "" if nothing is.
        progress: Part of it that is done, from 0 to 1; negative if unknown.
        pace: How much of it is done, how fast, and how long it will take, in words.
        error: What the last input could not do; "" if all is well.
    """

    layers = traitlets.Tuple()
    method = traitlets.Unicode(KMeans.method)
    weighted = traitlets.Bool(KMeans.weighted)
    coding = traitlets.Unicode(KMeans.coding)
    per_layer = traitlets.Bool(KMeans.per_layer)
    pinned_zero = traitlets.Bool(KMeans.pinned_zero)
    ratio = traitlets.Float(14.0)
    rate = traitlets.Float(0.0)
    levels = traitlets.Int(0)
    lmbda = traitlets.Float(0.0)
    step = traitlets.Float(0.0)
    estimator = traitlets.Unicode(estimators.DEFAULT.name)
    samples = traitlets.Int(0, min=0)
    damping = traitlets.Float(0.1, min=0.0)
    focus = traitlets.Unicode()
    epochs = traitlets.Int(1, min=1)
    density = traitlets.Float(0.1, min=0.0, max=1.0)
    path = traitlets.Unicode("model.nbq")
    log_count = traitlets.Bool(False)
    pooling = traitlets.Enum(("max", "mean"), "max")
    size = traitlets.Enum(SIZES, "standard")
    compared = traitlets.Int(-1)

    driver = traitlets.Enum(DRIVERS, "ratio", read_only=True)
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
    brushed = traitlets.Any(None, allow_none=True, read_only=True)
    pins = traitlets.Tuple((), read_only=True)
    saved = traitlets.Any(None, allow_none=True, read_only=True)
    can_undo = traitlets.Bool(False, read_only=True)
    can_redo = traitlets.Bool(False, read_only=True)
    activity = traitlets.Unicode(read_only=True)
    progress = traitlets.Float(-1.0, read_only=True)
    pace = traitlets.Unicode(read_only=True)
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
            **inputs: First values of the inputs; ``layers`` as for :func:`nbquant.select`; of ``ratio``, ``rate``,
                ``levels``, ``lmbda`` and ``step`` at most one.

        Raises:
            TypeError: What is no module, path or data, or an input of a name or type that there is not.
            ValueError: Layers that cannot be selected, an input out of its range, several targets, data that can be
                read only once or come with a checkpoint.
            OSError: Files that are not there or cannot be read.
        """
        super().__init__()
        self._quiet: int | None = None  # thread in which inputs follow, so that their changes are nobody's wish
        self._weights = Weights(model, sensitivity, inputs.pop("layers", None))
        self.selection: Selection = self._weights.first
        self.settings: Settings = self._first_settings(inputs)
        self._network = Network.of(self._weights.origin, data, loss)
        self._given = code.Given(model, data, sensitivity, loss is not None)
        self._original = self._weights.origin
        self._jobs = Jobs(SLOTS, self._show_activity, lambda message: self.set_trait("error", message))
        self._curves = CurvePass(self._jobs, self._show, lambda: self.settings, self._calibration)
        self._exact = ExactPass(self._jobs, self._show_exact, lambda found: work.priced(self._weights, found))
        self._brush = Brush(self._jobs, lambda brushed: self.set_trait("brushed", brushed))
        self._pins = Pins(lambda pins: self.set_trait("pins", pins))
        self._history = History()
        self._basis: Basis | None = None
        self._tabled: tuple[list[OperatingPoint], str, int] | None = None  # what the table is of
        self._cancelled = False
        self._pruned_to: float | None = None
        self.available_layers = self._weights.layers
        # Sensitivities that were in use, by estimator and samples; given ones stand for the first.
        self._weighed: tuple[str, int] | None = None
        self._estimates: dict[tuple[str, int], Weights] = {}
        self._given_weights = None if sensitivity is None else self._weights
        self._put(self.settings)
        # Until the curves are there; a control must not cut the ratio that was asked for.
        self.set_trait("ratio_bounds", (min(1.0, self.ratio), max(32.0, 1.1 * self.ratio)))
        if sensitivity is not None:
            self._weigh((self.estimator, self.samples), self._weights)
        self._reselect()
        self.observe(self._on_input, [name for name in _INPUTS if name != "focus"])
        self.observe(lambda change: self._on_focus(), ["focus"])
        if sensitivity is None and self._network is not None:
            self.estimate()

    def _first_settings(self, inputs: Mapping[str, Any]) -> Settings:
        known = [name for name, trait in self.traits().items() if not trait.read_only]
        usual = methods.named(inputs["method"]).options if inputs.get("method") in methods.names() else {}
        for name, value in ({name: usual[name] for name in usual if name in known} | dict(inputs)).items():
            if name not in known:
                raise TypeError(f"the explorer's inputs are {', '.join(known)}, but {name!r} came")
            try:
                self.set_trait(name, value)
            except traitlets.TraitError as error:
                raise ValueError(f"{name} cannot be {value!r}: {message_of(error)}") from None
        asked = [name for name in DRIVERS if name in inputs] or ["ratio"]
        if len(asked) > 1:
            raise ValueError(f"at most one of {', '.join(DRIVERS)} can be asked for, but {' and '.join(asked)} came")
        own = {f.name: getattr(self, f.name) for f in fields(Settings) if f.name not in ("layers", "driver", "value")}
        layers = self.selection.layers
        return Settings(**own, layers=layers, driver=asked[0], value=getattr(self, asked[0])).checked()

    # What the user can ask for beside setting inputs.

    def drive(self, name: str, value: float) -> None:
        """Ask for a ratio, rate, number of levels, λ or step; what cannot be is told in ``error``."""
        with self._deciding():
            self._accept(self.settings.at(name, value), name)

    def choose_point(self, method: str, weighted: bool, driver: str, value: float) -> None:
        """Go to a point of any curve, as one step."""
        with self._deciding():
            chosen = replace(self.settings, method=method, weighted=weighted)
            self._accept(chosen.at(driver, value))

    def undo(self) -> None:
        """Go back by one step, if there is one."""
        with self._deciding():
            self._go(self._history.undo(self.settings))

    def redo(self) -> None:
        """Do again what was undone last, if nothing was done since."""
        with self._deciding():
            self._go(self._history.redo(self.settings))

    def pin(self, label: str = "") -> None:
        """Pin the operating point that is shown, under a label or the next letter."""
        with self._deciding():
            aim = self._exact.aim
            if aim is None:
                raise ValueError("there is no operating point to pin yet: choose a target within reach")
            exact = self.point if self.exact is None else self.exact
            costs = self.kept or exact
            pin = Pin(label or self._pins.name(), aim.settings, pruned=self.pruned_to).costing(costs, self._bits(costs))
            if self.finetuned is not None:
                pin = replace(pin, finetuned=True, predicted_loss=exact.predicted_loss_increase)
            if self.measurement is not None:
                found = self.measurement.evaluation
                pin = replace(pin, accuracy=found.accuracy, loss=found.loss)
            self._pins.add([pin])

    def unpin(self, index: int) -> None:
        """Remove a pin."""
        with self._deciding():
            self._pins.remove(index)
            self.compared = -1

    def go_to(self, index: int) -> None:
        """Take up all settings of a pin."""
        with self._deciding():
            settings = self._pins[index].inputs
            self._weights.select(settings.layers)
            self._accept(settings)

    def move_centre(self, index: int, value: float) -> None:
        """Put a centre of the group in focus elsewhere, the others staying; what it costs is ``by_hand``."""
        with self._deciding():
            aim = self._exact.aim
            if aim is None:
                raise ValueError("there is no operating point yet: choose a target within reach")
            if isinstance(index, bool) or not isinstance(index, int):
                raise ValueError(f"the index of a centre must be a whole number, but is {index!r}")
            self.set_trait("by_hand", moved(self.by_hand or aim.point, aim.statistics, self.group, index, value))

    def release(self) -> None:
        """Put all centres back that were moved by hand."""
        with self._deciding():
            self.set_trait("by_hand", None)

    def brush(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Brush the places of the map of the parameter in focus that a box touches, in units of its axes."""
        self._brush.take(self.focused, lambda shape: Region.of(shape, x, y))

    def brush_text(self, text: str) -> None:
        """Brush rows and columns given as in "0:10, 5:20"; an empty text is none."""
        if not text.strip():
            self.unbrush()
        else:
            self._brush.take(self.focused, lambda shape: Region.parse(text, shape))

    def unbrush(self) -> None:
        """Forget the brushed region."""
        self._brush.clear()

    def session(self) -> dict[str, Any]:
        """All inputs, pins and the view, as plain values for JSON."""
        with self._jobs.lock:
            return session.session(self)

    def save_session(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, or replace it as a whole."""
        with self._deciding():
            session.write_session(self.session(), path)

    def restore(self, source: Mapping[str, Any] | bytes | str | os.PathLike[str]) -> None:
        """Take up a session, its JSON, or the path of a file of it; unless all fits only ``error`` changes."""
        with self._deciding():
            found = session.read_session(source, self, self._weights.select)
            self._accept(found.settings)
            for name, value in found.alongside.items():
                self.set_trait(name, value)
            if found.pins is not None:
                self.compared = -1
                self._pins.replace_all(found.pins)

    def code(self) -> str:
        """Lines of Python that give what is shown here."""
        with self._jobs.lock:
            return code.lines(
                self._given,
                self.settings,
                layers=self._weights.asked_for(self.selection.layers),
                estimated=self._weights is not self._given_weights,
                weighs=self.sensitivity is not None,
                offset=self.damping * self.sensitivity.mean if self.sensitivity is not None else 0.0,
                density=self.pruned_to,
                epochs=None if self.finetuned is None else len(self.finetuned.history) - 1,
                path=None if self.file is None else str(self.file.path),
            )

    def estimate(self) -> None:
        """Estimate the sensitivities with the chosen estimator, in the background."""
        work.estimate(self)

    def finetune(self) -> None:
        """Fine-tune what the weights give at the target, in the background; from there, not from the last time."""
        work.finetune(self)

    def measure(self) -> None:
        """Measure the accuracy of what would be saved, in the background, and what was predicted of the loss."""
        work.measure(self)

    def prune(self) -> None:
        """Prune the module that was given to the chosen density, in the background; all then starts from the result.

        With data what is left is trained in between, and sensitivities are estimated again; without, they stay.
        """
        work.prune_module(self)

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write what the weights give at the target, fine-tuned if they were, to a file, in the background.

        Args:
            path: Replaces the input of this name.
        """
        if path is not None:
            self.path = os.fspath(path)
        work.save_file(self)

    def deliver(self, take: Callable[[str, bytes], None]) -> None:
        """Hand the file that :meth:`save` would write to ``take``, its name first, in the background."""
        work.deliver_file(self, take)

    def tell(self, source: str, message: str) -> None:
        """Say in ``error`` what went wrong with something that a view does by itself; "" takes it back."""
        with self._jobs.lock:
            self._jobs.tell(source, message)

    def cancel(self) -> None:
        """Stop all that is under way in the background; what is shown stays."""
        with self._jobs.lock:
            self._cancelled = True
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
    def layer_sizes(self) -> dict[str, int]:
        """Number of weights of each layer, selected or not."""
        return self._weights.sizes

    @property
    def is_prunable(self) -> bool:
        """Whether there is a module to prune."""
        return isinstance(self._original, nn.Module)

    @property
    def pruned_to(self) -> float | None:
        """Density that the module was pruned to; None if it was not."""
        return self._pruned_to

    @property
    def kept(self) -> Quantized | None:
        """What is measured and saved at this target; None while it is not there yet."""
        return self.exact if self.finetuned is None else self.finetuned.quantized

    @property
    def file(self) -> Saved | None:
        """The file that holds what is kept at this target; None if that was not saved."""
        return self.saved if self.saved is not None and self.saved.quantized is self.kept else None

    @property
    def focused(self) -> SelectedTensor | None:
        """The parameter in focus; None for a moment, while the selection changes."""
        return next((t for t in self.selection if t.name == self.focus), None)

    @property
    def group(self) -> str:
        """Group of clusters that is shown: that of the layer in focus, or the only one."""
        return "" if self.point is None else self._group_of(self.point)

    # What follows from an input.

    def _on_input(self, change: Any) -> None:
        if self._quiet == get_ident():
            return
        name, value = change["name"], change["new"]
        with self._deciding():
            now = self.settings
            if name in DRIVERS:
                self._accept(now.at(name, value), name)
                return
            wanted = replace(now, **{name: value})
            if name == "method" and value in methods.names():
                wanted = wanted.with_defaults(now)
            if wanted.driver not in targets_of(wanted.method):
                wanted = replace(wanted, driver="ratio", value=self.ratio)
            self._accept(wanted.checked(), name)

    def _on_focus(self) -> None:
        with self._jobs.lock:
            self.set_trait("by_hand", None)
            self._brush.clear()
            self._show_table()

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Do what the user asks as a whole, or tell why not, when all inputs are as they were."""
        with self._jobs.lock:
            try:
                yield
            except (ValueError, TypeError, OSError) as error:
                self._jobs.tell("inputs", message_of(error))
                self._put(self.settings)
            else:
                self._jobs.tell("inputs", "")

    def _accept(self, settings: Settings, step: str = "") -> None:
        """Let new settings be a step of their own, or part of the last change of the same input."""
        if settings != self.settings:
            self._history.record(self.settings, step)
        self._go(settings)

    def _go(self, settings: Settings | None) -> None:
        """Set all inputs at once, and then what follows from them."""
        if settings is None:
            return
        before, self.settings = self.settings, settings
        self._put(settings)
        self.set_trait("can_undo", self._history.can_undo)
        self.set_trait("can_redo", self._history.can_redo)
        self.set_trait("by_hand", None)
        changed = {f.name for f in fields(Settings) if getattr(before, f.name) != getattr(settings, f.name)}
        again, self._cancelled = self._cancelled, False
        if changed & {"estimator", "samples"}:
            again |= self._reweigh()
        if again or changed & {"layers", "damping"}:
            coming = self._reselect()
        else:
            coming = bool(changed & {"coding", "per_layer", "pinned_zero"}) or self._is_to_run()
            if coming:
                self._recompute()
        if not coming:
            self._choose()

    def _put(self, settings: Settings) -> None:
        """Let the inputs have these values, which is no wish of the user's."""
        with self._following():
            self.set_trait("driver", settings.driver)
            for name in _INPUTS:
                if name not in DRIVERS:
                    self.set_trait(name, getattr(settings, name))
            self.set_trait(settings.driver, settings.value)
            self._follow_point()

    @contextmanager
    def _following(self) -> Iterator[None]:
        outer, self._quiet = self._quiet, get_ident()
        try:
            yield
        finally:
            self._quiet = outer

    def _follow_point(self) -> None:
        """Let the quantities that are not asked for be those of the point."""
        point = self.point
        if point is None:
            return
        own = {"levels": point.levels, "rate": point.rate, "ratio": point.compression_ratio, "lmbda": 0.0, "step": 0.0}
        own |= {point.quantizer.parameter.name: point.parameter} if point.quantizer.parameter.name != "levels" else {}
        with self._following():
            for name in DRIVERS:
                if name != self.driver:
                    self.set_trait(name, own[name])

    def _weigh(self, key: tuple[str, int], weights: Weights) -> None:
        """Have other sensitivities, and keep them for when they are chosen again."""
        self._estimates.pop(key, None)
        self._estimates[key] = weights
        others = [k for k, w in self._estimates.items() if w is not self._given_weights]
        for old in others[:-ESTIMATES_KEPT]:
            del self._estimates[old]
        self._weights, self._weighed = weights, key
        self.set_trait("sensitivity", weights.sensitivity)

    def _reweigh(self) -> bool:
        """Have the sensitivities of the chosen estimator, at once if they are at hand."""
        key = self.settings.estimator, self.settings.samples
        if key not in self._estimates:
            self.estimate()
            return False
        self._jobs.cancel("sensitivity")
        self._jobs.tell("sensitivity", "")
        swapped = self._weights is not self._estimates[key]
        self._weigh(key, self._estimates[key])
        return swapped

    def _start_from(self, weights: Weights, pruned: Pruned, asked: float, network: Network | None) -> None:
        """Go on with other weights; what was of the old ones is no more."""
        self._exact.follow(None)
        self._brush.clear()
        for name in ("by_hand", "finetuned", "measurement"):
            self.set_trait(name, None)
        if self._weights is self._given_weights:
            self._given_weights = weights
        self._estimates = {}
        self._weights = weights
        if self.sensitivity is not None and network is None:
            self._weigh((self.settings.estimator, self.settings.samples), weights)
        self._pruned_to = asked
        self.set_trait("pruned", pruned)
        self._reselect()
        if network is not None:
            self._network = network
            self.estimate()

    def _reselect(self) -> bool:
        """Select the layers anew; whether they can be."""
        with self._jobs.lock, self._jobs.reporting("layers"):
            self.selection = self._weights.select(self.settings.layers)
            self.set_trait("parameters", tuple(t.name for t in self.selection))
            if self.focus not in self.parameters:
                largest = max(self.selection, key=lambda t: t.weight.numel())
                self.focus = largest.name
            self._recompute()
            return True
        return False

    def _recompute(self) -> None:
        """All curves of the selection, the chosen method's first, so that the picture follows at once."""
        estimator, samples = self._weighed or (self.settings.estimator, self.settings.samples)
        settings = replace(
            self.settings, layers=self.selection.layers, estimator=estimator, samples=samples
        )  # those that are in effect
        self._curves.start(settings, self._weights, self.selection, self._basis)

    def _show(self, basis: Basis, curves: Curves) -> None:
        if basis.statistics is not self.statistics:
            self.set_trait("measured", ())
        self._basis = basis
        self.set_trait("curves", curves)
        self.set_trait("bound", basis.statistics.curves.get(BOUND))
        known = [Curve.of_points(points) for points in curves.values() if points]
        if known:
            least = min(float(c.compression_ratio.min()) for c in known)
            most = max(largest_ratio(c.compression_ratio, c.predicted_loss) for c in known)
            runs = self.settings.record.curve is None and self.settings.driver == "ratio"  # further, if it is asked for
            self.set_trait("ratio_bounds", (least, max(most, min(1.1 * self.ratio, MOST_RATIO)) if runs else most))
        self._choose()

    @property
    def statistics(self) -> Statistics | None:
        """What the curves are computed from; None before the first."""
        return None if self._basis is None else self._basis.statistics

    def _choose(self) -> None:
        basis, now = self._basis, self.settings
        if basis is None or now.key not in self.curves:
            return
        self._show_table()
        with self._jobs.reporting("target"):
            curve = self.curves[now.key]
            point = solve(now.target, curve, basis.statistics)
            of = replace(basis.settings, method=now.method, weighted=now.weighted, driver=now.driver, value=now.value)
            self._show_point(Aim(point, of, curve, basis.statistics, basis.selection))

    def _is_to_run(self) -> bool:
        """Whether the method has to run before there are points around the target."""
        points = self.curves.get(self.settings.key, []) if self.settings.record.curve is None else None
        return points is not None and not any(self.settings.target.met(p) for p in points)

    def _calibration(self, report: Report) -> Calibration:
        if self._network is None:
            raise ValueError(f"error feedback cannot be calibrated: {self.lacking}")
        return self._network.calibrate(report)

    def _show_table(self) -> None:
        basis, points = self._basis, self.curves.get(self.settings.key)
        if basis is None or points is None:
            return
        group = self._group_of(points[0]) if points else ""
        bits = basis.selection.unselected_bits
        if self._tabled is not None and self._tabled[0] is points and self._tabled[1:] == (group, bits):
            return
        self._tabled = points, group, bits
        mean = mean_of_cells(points[0], basis.statistics, group) if points else 0.0
        self.set_trait("table", live_table(points, group, bits, mean) if points else None)

    def _show_point(self, aim: Aim) -> None:
        moved = not aim.is_at(self._exact.aim)
        if moved:
            for job in ("finetune", "save"):
                self._jobs.tell(job, "")
            self._jobs.cancel("finetune")
            self.set_trait("finetuned", None)
        if self.finetuned is None:
            quantizer = aim.point.quantizer
            known = (m for m in self.measured if m.point.quantizer == quantizer and not m.quantized.finetuned)
            self.set_trait("measurement", next(known, None))
        if moved:
            self.set_trait("by_hand", None)
            self._exact.follow(aim)  # first, so that nobody sees the new point beside the old result
            self.set_trait("point", aim.point)
            self._follow_point()
            self._price_pins(aim.point)
        else:
            self._exact.follow_again()

    def _show_exact(self, name: str, value: Any) -> None:
        if name == "ledger" and self.finetuned is not None:
            return
        self.set_trait(name, value)
        if name in ("exact", "ledger") and self._exact.result is not None:
            self._price_pins(self._exact.result)

    def _price_pins(self, costs: OperatingPoint | Quantized) -> None:
        aim = self._exact.aim
        if aim is not None:
            self._pins.costing(aim.settings, self.pruned_to, costs, self._bits(costs))

    def _bits(self, costs: OperatingPoint | Quantized) -> int:
        """Of the whole file; without names and checksums while they are not known."""
        aim = self._exact.aim
        assert aim is not None
        known = costs is self.kept
        return (
            self.ledger.total
            if self.ledger is not None and known
            else costs.ledger.total + aim.selection.unselected_bits
        )

    def _group_of(self, point: OperatingPoint) -> str:
        layer = "" if self.focused is None else self.focused.layer
        return layer if layer in point.clusters else next(iter(point.clusters), "")

    def _show_activity(self, activity: str, progress: float, pace: str) -> None:
        self.set_trait("activity", activity)
        self.set_trait("progress", progress)
        self.set_trait("pace", pace)


_INPUTS = (*(f.name for f in fields(Settings) if f.name not in ("driver", "value")), *DRIVERS)
