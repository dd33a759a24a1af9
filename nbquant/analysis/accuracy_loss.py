"""Search for the smallest result that loses at most so much accuracy, by sequential tests on paired samples."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from torch import nn

from nbquant.analysis.target import OutOfReachError, Target
from nbquant.models.evaluate import Evaluation, evaluate
from nbquant.progress import Progress, track
from nbquant.quantization.accuracy_loss import AccuracyLoss
from nbquant.quantization.quantized import Quantized

Evaluations = Callable[[Quantized], Iterable[Evaluation]]
"""evaluations(quantized) evaluates it batch by batch, each with the original as the reference."""

START = 8.0  # compression ratio of the first try
LEAST, MOST = 1.0, 1e4  # ratios that are tried
CLOSE = 0.01  # relative distance of the largest ratio that passed and the smallest that failed
WRONG = 1e-3  # probability that a test ends early with the wrong answer
LEAST_LABELS = 100  # before a test may end early


@dataclass
class _Sums:
    """Running sums of the paired changes d of labels: −1 where the quantized network is newly wrong, +1 newly right."""

    labels: int = 0
    total: float = 0.0
    squares: float = 0.0
    checks: int = 0

    def add(self, found: Evaluation) -> None:
        """Add a batch.

        Raises:
            ValueError: It does not classify, or has no reference.
        """
        beside, n = found.comparison, found.labels
        if beside is None or beside.accuracy_change is None or beside.accuracy_error is None or not n:
            raise ValueError(
                "accuracy_loss requires classes and the original's predictions, but an evaluation came without: "
                "evaluate with reference=model, or use another target"
            )
        mean, error = beside.accuracy_change, 0.0 if n == 1 else beside.accuracy_error
        self.labels += n
        self.total += n * mean
        self.squares += n * mean**2 + n * (n - 1) * error**2

    @property
    def lost(self) -> float:
        """Accuracy lost so far, in [−1, 1]."""
        return -self.total / self.labels

    @property
    def error(self) -> float:
        """Its standard error."""
        if self.labels < 2:
            return math.inf
        variance = (self.squares - self.total**2 / self.labels) / (self.labels - 1)
        return math.sqrt(max(variance, 0.0) / self.labels)

    def decides(self, limit: float) -> bool:
        """Whether the loss is so far from a limit that more labels will hardly change the answer.

        The probabilities of a wrong answer at all checks sum to at most :data:`WRONG`.
        """
        self.checks += 1
        if self.labels < LEAST_LABELS:
            return False
        allowed = WRONG / (self.checks * (self.checks + 1))
        # One label more that changed keeps an unchanged sample from looking certain.
        error = max(self.error, 1 / self.labels)
        return abs(self.lost - limit) > NormalDist().inv_cdf(1 - allowed / 2) * error


def fit_accuracy(
    at_most: float,
    fit: Callable[[Target], Quantized],
    evaluations: Evaluations,
    progress: Progress = True,
) -> Quantized:
    """Find the largest compression ratio that loses at most so much accuracy.

    Ratios are bisected, which takes for granted that a higher ratio does not lose less. Each try is tested batch by
    batch and ends early once the answer is clear; the result is tested on all.

    Args:
        at_most: Accuracy that may be lost [percentage points].
        fit: fit(target) quantizes to a ratio.
        evaluations: See :data:`Evaluations`.
        progress: See :data:`nbquant.progress.Progress`; counts tries.

    Returns:
        The result, with ``accuracy`` set: what it lost, and how sure it is.

    Raises:
        ValueError: More is lost even at the lowest ratio, or what the evaluations lack.
        nbquant.progress.Cancelled: By ``progress``.
    """
    limit = at_most / 100
    passed: dict[float, Quantized] = {}
    failed: list[float] = []

    def tried(ratio: float) -> Quantized | None:
        """What passes at a ratio."""
        try:
            quantized = fit(Target("ratio", ratio))
        except OutOfReachError:
            return None
        known = next((q for q in passed.values() if q.compression_ratio == quantized.compression_ratio), None)
        if known is not None:
            return known
        sums = _Sums()
        for found in evaluations(quantized):
            sums.add(found)
            if sums.lost > limit and sums.decides(limit):
                break  # what may pass is tested on all
        if not sums.labels:
            raise ValueError("accuracy_loss requires samples, but the evaluation had none")
        if sums.lost > limit:
            return None
        return replace(quantized, accuracy=_result(sums, at_most))

    for ratio in track(_ratios(passed, failed), "Testing accuracy", progress):
        found = tried(ratio)
        if found is None:
            failed.append(ratio)
        else:
            passed[max(ratio, found.compression_ratio)] = found
    if not passed:
        raise ValueError(
            f"accuracy_loss {at_most:g} cannot be met: more is lost even at a ratio of {min(failed):.3g}; allow more, "
            "or choose another method"
        )
    return passed[max(passed)]


def _ratios(passed: dict[float, Any], failed: list[float]) -> Iterator[float]:
    """Ratios to try: by factors of two until one passes and one fails, then in the middle between those."""
    ratio = START
    while True:
        yield ratio
        best, worst = max(passed, default=0.0), min(failed, default=math.inf)
        if not best:
            if worst <= LEAST:
                return
            ratio = max(worst / 2, LEAST)
        elif worst == math.inf:
            if best >= MOST:
                return
            ratio = min(2 * best, MOST)
        elif worst <= best * (1 + CLOSE):
            return
        else:
            ratio = math.sqrt(best * worst)


def _result(sums: _Sums, at_most: float) -> AccuracyLoss:
    error = max(sums.error, 1 / sums.labels)
    confidence = NormalDist(sums.lost, error).cdf(at_most / 100)
    return AccuracyLoss(100 * sums.lost, 100 * error, confidence, sums.labels, at_most)


def evaluations_of(given: Any) -> Evaluations:
    """Make the evaluations of ``fit(…, evaluate=…)``: a function, or a model with batches and maybe its loss.

    Raises:
        TypeError: Anything else.
    """
    if isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[0], nn.Module):
        model, batches, loss = (*given, None)[:3]
        if isinstance(batches, Iterator):
            raise ValueError("batches are read more than once, but an iterator came: pass a list or a DataLoader")

        def evaluations(quantized: Quantized) -> Iterator[Evaluation]:
            network = quantized.apply(model)
            for batch in batches:
                yield evaluate(network, [batch], loss, False, reference=model)

        return evaluations
    if callable(given) and not isinstance(given, nn.Module):
        return lambda quantized: _listed(given(quantized))
    raise TypeError(
        "evaluate must be (model, batches), (model, batches, loss), or a function of a quantized result that gives "
        f"evaluations with a reference, but got {given!r}"[:300]
    )


def _listed(found: Any) -> Iterable[Evaluation]:
    return [found] if isinstance(found, Evaluation) else found
