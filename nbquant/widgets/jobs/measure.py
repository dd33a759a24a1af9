"""Measure accuracy and loss in the background."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.analysis.prediction import LossPrediction
from nbquant.models.evaluate import Evaluation
from nbquant.quantization.quantized import Quantized
from nbquant.widgets.jobs.exact import QUIET, FitRequest
from nbquant.widgets.jobs.jobs import message_of
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT, GLANCE_SLOT = "accuracy", "glance"


@dataclass(frozen=True)
class Measurement:
    """Accuracy and loss of the quantized model beside the original's.

    Attributes:
        point: Operating point they were measured at.
        quantized: What was applied: computed from the weights themselves, and fine-tuned if it had been then.
        evaluation: Of the quantized model.
        original: Of the original model.
        prediction: What was predicted of the loss, on the calibration batches; None until it is there, or where the
            model does not allow for it.
        partial: Whether it is of some of the test samples, the first.
        at_rest: Whether it was taken because the point had come to rest, and not asked for.
    """

    point: OperatingPoint
    quantized: Quantized
    evaluation: Evaluation
    original: Evaluation
    prediction: LossPrediction | None = None
    partial: bool = False
    at_rest: bool = False


def glance(bench: Workbench, show: Callable[[FitRequest, Measurement], None]) -> None:
    """Measure what would be saved on some samples; ``show`` gets it."""
    jobs, request, network = bench.jobs, bench.exact.request, bench.network
    keep = None if network is None else bench.kept(GLANCE_SLOT)
    if network is None or keep is None or request is None:
        return

    def work(report: Report) -> Measurement:
        quantized = keep(report)
        found, original, whole = network.glance(quantized, report)
        return Measurement(request.point, quantized, found, original, partial=not whole, at_rest=True)

    jobs.start(GLANCE_SLOT, "Measuring accuracy on a sample", work, lambda found: show(request, found), quiet=QUIET)


def measure(bench: Workbench, show: Callable[[FitRequest, Measurement], None]) -> None:
    """Measure what would be saved, then predict its loss by derivatives; ``show`` gets it after either."""
    jobs, request = bench.jobs, bench.exact.request
    network = bench.with_network(SLOT, "accuracy cannot be measured")
    keep = None if network is None else bench.kept(SLOT)
    if network is None or keep is None or request is None:
        return
    jobs.tell("prediction", "")

    def work(report: Report) -> tuple[Measurement, LossPrediction | str]:
        quantized = keep(report)
        measurement = Measurement(request.point, quantized, *network.evaluate(quantized, report))
        with jobs.lock:
            report(0, None)
            show(request, measurement)
        h = {t.name: t.sensitivity for t in request.selection if t.sensitivity is not None}
        try:
            return measurement, network.predict(quantized, h or None, report)
        except (ValueError, TypeError, RuntimeError) as error:  # what has no second derivative has an accuracy still
            return measurement, f"the loss cannot be predicted by derivatives: {message_of(error)}"

    def done(found: tuple[Measurement, LossPrediction | str]) -> None:
        measurement, prediction = found
        if isinstance(prediction, str):
            jobs.tell("prediction", prediction)
        else:
            show(request, replace(measurement, prediction=prediction))

    jobs.start(SLOT, "Measuring accuracy", work, done)
