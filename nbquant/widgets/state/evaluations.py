"""Keep what was measured of many results, without the results themselves, which hold the indices of all weights."""

from collections.abc import Sequence

from nbquant.views.evaluated import EvaluatedPoint
from nbquant.widgets.jobs.measure import Measurement

MOST = 200  # points that are kept


def with_evaluation(known: Sequence[EvaluatedPoint], measurement: Measurement) -> tuple[EvaluatedPoint, ...]:
    """Add a measurement in the place of what was known of the same result; one of all samples stays."""
    new = evaluated_point(measurement)
    if any(_is_same(p, new) and new.partial and not p.partial for p in known):
        return tuple(known)
    return (*(p for p in known if not _is_same(p, new)), new)[-MOST:]


def evaluated_point(measurement: Measurement) -> EvaluatedPoint:
    """What was measured, as a figure shows it."""
    result, found = measurement.quantized, measurement.evaluation
    beside = found.comparison
    change = None if beside is None else beside.accuracy_change
    error = None if beside is None else beside.accuracy_error
    return EvaluatedPoint(
        method=result.quantizer.method,
        weighted=result.quantizer.weighted,
        rate=result.rate,
        compression_ratio=result.compression_ratio,
        predicted_loss=measurement.point.predicted_loss_increase,
        accuracy_lost=None if change is None else -100 * change,
        accuracy_error=None if error is None else 100 * error,
        divergence=None if beside is None else beside.kl_mean,
        divergence_error=None if beside is None else beside.kl_error,
        labels=found.labels or found.samples,
        partial=measurement.partial,
        finetuned=bool(result.finetuned),
    )


def _is_same(a: EvaluatedPoint, b: EvaluatedPoint) -> bool:
    names = ("method", "weighted", "rate", "compression_ratio", "finetuned", "predicted_loss")
    return all(getattr(a, name) == getattr(b, name) for name in names)
