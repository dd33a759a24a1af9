"""The long jobs that a user asks of the explorer's state: estimate, prune, fine-tune, measure, save."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nbquant.analysis.prediction import LossPrediction
from nbquant.coding.ledger import Ledger
from nbquant.pipeline.finetune import FineTuned
from nbquant.pipeline.prune import Pruned, prune
from nbquant.quantization.quantized import Quantized
from nbquant.storage.write import file_ledger, save
from nbquant.widgets.background import Report
from nbquant.widgets.jobs import message_of
from nbquant.widgets.results import Measurement, Saved
from nbquant.widgets.weights import Weights

if TYPE_CHECKING:
    from nbquant.widgets.state import ExplorerState


def estimate(state: "ExplorerState") -> None:
    """See :meth:`ExplorerState.estimate`."""
    jobs, network, settings, weights = state._jobs, state._network, state.settings, state._weights
    if network is None:
        jobs.tell("sensitivity", f"sensitivities cannot be estimated: {state.lacking}")
        return

    def done(found: Mapping[str, Tensor]) -> None:
        state._weigh((settings.estimator, settings.samples), weights.weighed(found, state.selection.layers))
        state._reselect()

    jobs.start(
        "sensitivity",
        "Estimating sensitivities",
        lambda report: network.estimate(settings.estimator, settings.samples, report),
        done,
    )


def finetune(state: "ExplorerState") -> None:
    """See :meth:`ExplorerState.finetune`."""
    network, epochs, aim = state._network, state.epochs, state._exact.aim
    if network is None:
        state._jobs.tell("finetune", f"there is nothing to fine-tune with: {state.lacking}")
        return
    quantize = _awaited(state, "finetune")
    if quantize is None or aim is None:
        return

    def work(report: Report) -> tuple[FineTuned, Ledger | None]:
        found = network.finetune(quantize(report), epochs, report)
        return found, priced(state._weights, found.quantized)

    def done(result: tuple[FineTuned, Ledger | None]) -> None:
        found, ledger = result
        if aim.is_at(state._exact.aim):
            state.set_trait("finetuned", found)
            state.set_trait("ledger", ledger)
            state.set_trait("training", found)
            state.set_trait("measurement", None)

    state._jobs.start("finetune", "Fine-tuning", work, done)


def measure(state: "ExplorerState") -> None:
    """See :meth:`ExplorerState.measure`."""
    jobs, network, aim = state._jobs, state._network, state._exact.aim
    if network is None:
        jobs.tell("accuracy", f"accuracy cannot be measured: {state.lacking}")
        return
    keep = _kept(state, "accuracy")
    if keep is None or aim is None:
        return
    jobs.tell("prediction", "")

    def take(measurement: Measurement) -> None:
        """Show it in the place of what was known of the same weights."""
        state._pins.measured(aim.settings, state.pruned_to, measurement)
        if state.statistics is not aim.statistics:
            return
        others = tuple(m for m in state.measured if m.quantized is not measurement.quantized)
        state.set_trait("measured", (*others, measurement))
        finetuned = state.finetuned is not None and state.finetuned.quantized is measurement.quantized
        if aim.is_at(state._exact.aim) and (finetuned or state.finetuned is None):
            state.set_trait("measurement", measurement)

    def work(report: Report) -> tuple[Measurement, LossPrediction | str]:
        quantized = keep(report)
        measurement = Measurement(aim.point, quantized, *network.evaluate(quantized, report))
        with jobs.lock:
            report(0, None)
            take(measurement)
        h = {t.name: t.sensitivity for t in aim.selection if t.sensitivity is not None}
        try:
            return measurement, network.predict(quantized, h or None, report)
        except (ValueError, TypeError, RuntimeError) as error:  # what has no second derivative has an accuracy still
            return measurement, f"the loss cannot be predicted by derivatives: {message_of(error)}"

    def done(found: tuple[Measurement, LossPrediction | str]) -> None:
        measurement, prediction = found
        if isinstance(prediction, str):
            jobs.tell("prediction", prediction)
        else:
            take(replace(measurement, prediction=prediction))

    jobs.start("accuracy", "Measuring accuracy", work, done)


def prune_module(state: "ExplorerState") -> None:
    """See :meth:`ExplorerState.prune`."""
    network, original, density = state._network, state._original, state.density
    if not isinstance(original, nn.Module):
        state._jobs.tell("prune", f"there is nothing to prune: {state.lacking}")
        return

    def work(report: Report) -> Pruned:
        return prune(original, density, progress=report) if network is None else network.prune(density, report)

    def done(found: Pruned) -> None:
        weights = Weights(found.model, state.sensitivity, state._weights.asked_for(state.selection.layers))
        state._jobs.cancel("finetune", "accuracy", "sensitivity")
        assert isinstance(weights.origin, nn.Module)
        other = None if network is None else network.with_model(weights.origin)
        state._start_from(weights, found, density, other)

    state._jobs.start("prune", "Pruning", work, done)


def save_file(state: "ExplorerState") -> None:
    """See :meth:`ExplorerState.save`."""
    target, origin, keep = Path(state.path), state._weights.origin, _kept(state, "save")
    if keep is None:
        return

    def work(report: Report) -> Saved:
        quantized = keep(report)
        return Saved(target, quantized, save(quantized, target, origin, progress=report))

    state._jobs.start("save", "Saving", work, lambda saved: state.set_trait("saved", saved))


def deliver_file(state: "ExplorerState", take: Callable[[str, bytes], None]) -> None:
    """See :meth:`ExplorerState.deliver`."""
    name, origin, keep = Path(state.path).name, state._weights.origin, _kept(state, "deliver")
    if keep is None:
        return

    def work(report: Report) -> bytes:
        with TemporaryDirectory() as folder:
            file = Path(folder) / (name or "model.nbq")
            save(keep(report), file, origin, progress=report)
            return file.read_bytes()

    state._jobs.start("deliver", "Writing the file", work, lambda content: take(name, content))


def priced(weights: Weights, quantized: Quantized) -> Ledger | None:
    """The ledger of its file; None where it cannot be saved, which is told when that is tried."""
    try:
        return file_ledger(quantized, weights.origin)
    except (ValueError, OSError):
        return None


def _kept(state: "ExplorerState", job: str) -> Callable[[Report], Quantized] | None:
    """What is kept at this target, once it is there; None where there is no target, which is told."""
    finetuned = state.finetuned
    return _awaited(state, job) if finetuned is None else lambda report: finetuned.quantized


def _awaited(state: "ExplorerState", job: str) -> Callable[[Report], Quantized] | None:
    """The same before fine-tuning."""
    found = state._exact.awaited()
    if found is None:
        state._jobs.tell(job, "there is no operating point yet: choose a target within reach")
    return found
