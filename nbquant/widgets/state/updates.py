"""Update the results when settings, sensitivities or the module change."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from torch import Tensor, nn

from nbquant.models.evaluate import Loss
from nbquant.models.select import Sensitivities
from nbquant.pipeline.prune import Pruned
from nbquant.quantization.moments import Calibration
from nbquant.registry import nearest
from nbquant.widgets.jobs.accuracy_search import SLOT as SEARCH
from nbquant.widgets.jobs.accuracy_search import FoundRatio, search
from nbquant.widgets.jobs.curves import CurvePass
from nbquant.widgets.jobs.estimate import estimate
from nbquant.widgets.jobs.format_points import SLOT as FORMATS
from nbquant.widgets.jobs.jobs import message_of
from nbquant.widgets.jobs.measure import glance
from nbquant.widgets.jobs.network import Network
from nbquant.widgets.jobs.save import ledger_of_file
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.weights import Weights
from nbquant.widgets.jobs.workbench import Workbench
from nbquant.widgets.kinds import check
from nbquant.widgets.settings import TARGETS, Settings
from nbquant.widgets.state.estimates import Estimates
from nbquant.widgets.state.history import History
from nbquant.widgets.state.inputs import CHECKED, SETTINGS
from nbquant.widgets.state.moment import Model, Moment
from nbquant.widgets.state.results import Results

SLOTS = (
    "kernels",
    "prune",
    "sensitivity",
    "curves",
    "search",
    "exact",
    "finetune",
    "accuracy",
    "glance",
    "compare",
    "trace",
    "breaks",
    "file",
    "tensor",
    "formats",
    "save",
    "deliver",
    "page",
    "brush",
)


MOST_FOUND = 16  # results of searches that are kept


class Updates(Results):
    """Results that follow the settings, with the weights and the network that they are computed from."""

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        data: Any,
        sensitivity: Sensitivities | None,
        loss: Loss | None,
        inputs: dict[str, Any],
    ) -> None:
        """Start on the first results; arguments and errors as of :class:`ExplorerState`."""
        super().__init__(SLOTS, lambda quantized: ledger_of_file(self._weights, quantized))
        weights = Weights(model, sensitivity, inputs.pop("layers", None))
        self._estimates = Estimates(weights, None if sensitivity is None else weights)
        self.selection = self._weights.first
        self.settings = self._first_settings(inputs, self.selection.layers)
        self._original = self._weights.origin
        self._network = Network.of(self._original, data, loss)
        self._curves = CurvePass(self._jobs, self._show_curves, lambda: self.followed, self._calibration)
        self._history = History()
        self._cancelled = False
        self.available_layers = self._weights.layers
        self._check(self.settings)
        self._put(self.settings, None)
        # Until the curves are there; a control must not cut the ratio that was asked for.
        self.set_trait("ratio_bounds", (min(1.0, self.ratio), max(32.0, 1.1 * self.ratio)))
        if sensitivity is not None:
            self._weigh(self.estimator, self.samples, self._weights)
        self._reselect()
        self.observe(self._on_input, [*SETTINGS, *TARGETS])
        self.observe(lambda change: self._on_focus(), ["focus"])
        self.observe(lambda change: self._measure_at_rest(), ["measure_at_rest"])
        self.observe(self._on_checked, ["compared", *CHECKED])
        if sensitivity is None and self._network is not None:
            self.estimate()

    @property
    def _weights(self) -> Weights:
        """The weights in use, with their sensitivities."""
        return self._estimates.weights

    @property
    def lacking(self) -> str:
        """What is missing to estimate, fine-tune and measure, and how to give it; "" if nothing is."""
        if self._network is not None:
            return ""
        if isinstance(self._weights.origin, nn.Module):
            return "there are no data; give them with explore(model, data)"
        return "a checkpoint has weights only; load it into its module, and call explore(model, data)"

    def _show_exact(self, name: str, value: Any) -> None:
        super()._show_exact(name, value)
        if name == "exact" and value is not None:
            self._measure_at_rest()

    def _measure_at_rest(self) -> None:
        """Measure the point that has come to rest on some samples, unless it has been measured."""
        if self.measure_at_rest and self.measurement is None and self._network is not None:
            glance(self._workbench(), self._show_measurement)

    def _choose(self) -> None:
        super()._choose()
        self._search()

    def _search(self) -> None:
        """Search for the ratio that loses the accuracy that is asked for, unless it is known or not wanted."""
        inputs = self._curves_of
        key = self._search_key() if self.settings.is_searched and inputs is not None else None
        if key is None or inputs is None or key in self._found:
            self._searched = None
            self._jobs.cancel(SEARCH)
            self._jobs.tell(SEARCH, "")
            self.set_trait("found", None if key is None else self._found[key].loss)
            return
        self.set_trait("found", None)
        if self._searched == key and self._jobs.wanted(SEARCH):
            return
        self._searched = key

        def show(found: FoundRatio | str) -> None:
            self._searched = None
            if isinstance(found, str):
                raise ValueError(found)  # which is told
            self._found = dict([*self._found.items(), (key, found)][-MOST_FOUND:])
            self._choose()

        fit = self._curves.quantizing(self.settings, inputs.weights, inputs.selection, inputs)
        search(self._workbench(), self.settings.value, fit, show)

    def _workbench(self) -> Workbench:
        return Workbench(self._jobs, self._weights, self._network, self.lacking, self._exact, self.finetuned)

    # What follows from an input.

    def _on_input(self, change: Any) -> None:
        if not self._is_following:
            with self._deciding():
                self._accept(self.settings.changed(change["name"], change["new"], self.ratio), change["name"])

    def _on_checked(self, change: Any) -> None:
        """Put an input back that cannot have its new value, and tell why."""
        if self._is_following:
            return
        name, value = change["name"], change["new"]
        with self._jobs.lock:
            try:
                if name == "compared" and not -1 <= value < len(self._pins):
                    places = f"from 0 to {len(self._pins) - 1}, " if len(self._pins) else ""
                    raise ValueError(f"compared must be the place of a pin, {places}or -1 for none, but is {value}")
                if name in CHECKED:
                    check({name: value}, {name: CHECKED[name]})
            except ValueError as error:
                self._jobs.tell("inputs", message_of(error))
                with self._following():
                    self.set_trait(name, change["old"])
            else:
                self._jobs.tell("inputs", "")

    def _on_focus(self) -> None:
        with self._jobs.lock:
            if self.parameters and self.focus not in self.parameters:
                known, near = ", ".join(self.parameters), nearest(self.focus, self.parameters)
                self._jobs.tell("inputs", f"focus must be one of {known}, but is {self.focus!r}{near}"[:400])
                self.focus = max(self.selection, key=lambda t: t.weight.numel()).name
                return
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
                self._put(self.settings, self.point)
            else:
                self._jobs.tell("inputs", "")

    def _accept(self, settings: Settings, step: str = "") -> None:
        """Let new settings be a step of their own, or part of the last change of the same input."""
        self._check(settings)
        if settings != self.settings:
            self._history.record(self._moment(), step)
        self._go(settings)

    def _check(self, settings: Settings) -> None:
        """Refuse settings that this network cannot have."""
        if settings.is_searched and self._network is None:
            raise ValueError(f"accuracy_loss requires data to measure on, but {self.lacking}")
        for layer, _ in settings.layer_formats:
            if layer not in self.available_layers:
                known, near = ", ".join(self.available_layers), nearest(layer, self.available_layers)
                raise ValueError(f"layer_formats must name layers ({known}), but got {layer!r}{near}"[:400])

    def _moment(self) -> Moment:
        """What a step of undo would come back to."""
        model = Model(self._estimates, self._network, self.pruned, self.pruned_to)
        return Moment(self.settings, model, self.finetuned, self.ledger)

    def _show_steps(self) -> None:
        self.set_trait("can_undo", self._history.can_undo)
        self.set_trait("can_redo", self._history.can_redo)

    def _go(self, settings: Settings, again: bool = False) -> None:
        """Set all inputs at once, and then what follows from them; ``again`` from the weights on."""
        before, self.settings = self.settings, settings
        self._put(settings, self.point)
        self._show_steps()
        self.set_trait("by_hand", None)
        changed = {f.name for f in fields(Settings) if getattr(before, f.name) != getattr(settings, f.name)}
        again, self._cancelled = again or self._cancelled, False
        self.set_trait("cancelled", False)
        if changed & {"estimator", "samples"}:
            again |= self._reweigh()
        if again or changed & {"layers", "damping"}:
            coming = self._reselect()
        else:
            coming = bool(changed & {"coding", "per_layer", "pinned_zero"}) or self._has_to_run()
            if coming:
                self._compute_curves()
        if not coming:
            self._choose()

    # Sensitivities and modules.

    def estimate(self) -> None:
        """Estimate the sensitivities with the chosen estimator, in the background."""
        weights, estimator, samples = self._weights, self.settings.estimator, self.settings.samples

        def show(found: Mapping[str, Tensor]) -> None:
            self._weigh(estimator, samples, weights.weighed(found, self.selection.layers))
            self._reselect()

        estimate(self._workbench(), estimator, samples, show)

    def _weigh(self, estimator: str, samples: int, weights: Weights) -> None:
        """Use other sensitivities."""
        self._estimates.use(estimator, samples, weights)
        self.set_trait("sensitivity", weights.sensitivity)

    def _reweigh(self) -> bool:
        """Use the sensitivities of the chosen estimator, at once if they are at hand; whether they changed at once."""
        estimator, samples = self.settings.estimator, self.settings.samples
        found = self._estimates.get(estimator, samples)
        if found is None:
            self.estimate()
            return False
        self._jobs.cancel("sensitivity")
        self._jobs.tell("sensitivity", "")
        swapped = self._weights is not found
        self._weigh(estimator, samples, found)
        return swapped

    def _start_from(self, pruned: Pruned, density: float) -> None:
        """Start again from a pruned module, as a step of its own."""
        weights = Weights(pruned.model, self.sensitivity, self._weights.asked_for(self.selection.layers))
        assert isinstance(weights.origin, nn.Module)
        network = None if self._network is None else self._network.with_model(weights.origin)
        self._history.record(self._moment())
        self._show_steps()
        self._use(Model(self._estimates.of_other(weights), network, pruned, density))
        if self.sensitivity is not None and network is None:
            self._weigh(self.settings.estimator, self.settings.samples, weights)
        self._reselect()
        if network is not None:
            self.estimate()

    def _use(self, model: Model) -> None:
        """Switch to another model, and drop the results of the last one."""
        self._jobs.cancel("finetune", "accuracy", "glance", "sensitivity")
        self._jobs.tell("finetune", "")
        self._exact.follow(None)
        self._brush.clear()
        for name in ("by_hand", "finetuned", "measurement"):
            self.set_trait(name, None)
        self._estimates, self._network = model.estimates, model.network
        self.set_trait("sensitivity", self._weights.sensitivity)
        self.pruned_to = model.density
        self.set_trait("pruned", model.pruned)

    def _reselect(self) -> bool:
        """Select the layers anew; whether they can be."""
        with self._jobs.lock, self._jobs.reporting("layers"):
            self._jobs.cancel(FORMATS)
            self.selection = self._weights.select(self.settings.layers)
            self.set_trait("parameters", tuple(t.name for t in self.selection))
            if self.focus not in self.parameters:
                self.focus = max(self.selection, key=lambda t: t.weight.numel()).name
            self._compute_curves()
            return True
        return False

    def _compute_curves(self) -> None:
        """Compute all curves of the selection, the chosen method's first, so that the picture follows at once."""
        now = self.followed
        estimator, samples = self._estimates.in_use or (now.estimator, now.samples)
        in_effect = replace(now, layers=self.selection.layers, estimator=estimator, samples=samples)
        self._curves.start(in_effect, self._weights, self.selection, self._curves_of)

    def _calibration(self, report: Report) -> Calibration:
        if self._network is None:
            raise ValueError(f"error feedback cannot be calibrated: {self.lacking}")
        return self._network.calibrate(report)
