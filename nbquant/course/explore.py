"""Exercises of notebook 01: explore."""

import numpy as np

from nbquant.analysis.fit import fit
from nbquant.course.exercise import ROUNDING, AnswerError, Exercise, accuracy, accuracy_of, attempt, bundled
from nbquant.models.select import select
from nbquant.quantization.kmeans import MOST_LEVELS, KMeans
from nbquant.quantization.quantized import Quantized

RATE = 3.0  # bit/weight
RATIO = 20.0
LOST = 0.005
PRUNED_RATIO = 45.0


def _levels(answer: object) -> str | None:
    if isinstance(answer, bool) or not isinstance(answer, int | np.integer):
        raise AnswerError(f"a whole number is required, but {answer!r:.80} came.")
    levels = int(answer)
    if not 1 <= levels <= MOST_LEVELS:
        return f"a number from 1 to {MOST_LEVELS} is required."
    selection = select(bundled("lenet5-fashion")[0])

    def rate(k: int) -> float:
        return KMeans(k, weighted=False).fit(selection).rate

    if (taken := rate(levels)) > RATE:
        return f"{levels} levels take {taken:.3f} bit per weight."
    if levels < MOST_LEVELS and rate(levels + 1) <= RATE:
        return f"{levels} levels take {taken:.3f} bit per weight, and one more would still fit."
    return None


def _one_layer(answer: object) -> str | None:
    if not isinstance(answer, Quantized):
        raise AnswerError(f"what nq.fit returned is required, but a {type(answer).__name__} came.")
    others = [name for name in answer.tensors if not name.startswith("fc1.")]
    if others:
        return f"only fc1 is to be quantized, but {others[0]} is, too: select with layers=."
    if answer.compression_ratio < RATIO:
        return f"its ratio is {answer.compression_ratio:.2f}."
    name = "lenet5-fashion"
    lost = accuracy_of(name) - accuracy(attempt(lambda: answer.apply(bundled(name)[0])), name)
    return f"it loses {100 * lost:.2f} points of accuracy." if lost > LOST + ROUNDING else None


def _largest_part(answer: object) -> str | None:
    ledger = fit(
        select(bundled("lenet5-fashion-pruned")[0]), method="uniform", ratio=PRUNED_RATIO, progress=False
    ).ledger
    if answer not in ledger:
        return f"{answer!r:.80} is no part of the ledger: one of {', '.join(ledger)} is required."
    share = ledger[str(answer)] / ledger.total
    return f"it takes {share:.1%}, and another takes more." if share < max(ledger.values()) / ledger.total else None


EXERCISES = {
    "01.1": Exercise(
        "How many levels may plain k-means use at most on the bundled LeNet-5, for 3 bits per weight or less, all side "
        "information included? (a whole number)",
        (
            "nq.KMeans(levels, weighted=False).fit(nq.select(model)).rate",
            "With a Huffman code more than 2³ levels fit in 3 bits: go up one by one.",
        ),
        _levels,
    ),
    "01.2": Exercise(
        "Quantize only the layer fc1 of the bundled LeNet-5 to a ratio of 20 or more, so that at most half a point of "
        "accuracy is lost on all test images. (the result of nq.fit)",
        (
            'nq.select(model, sensitivity=h, layers="fc1")',
            "The explorer's curves, with fc1 alone selected, say which method loses least at that ratio.",
        ),
        _one_layer,
    ),
    "01.3": Exercise(
        'In "lenet5-fashion-pruned" nine of ten weights are zero. Fitted by method "uniform" to 45×, without '
        "sensitivities: which part of its ledger is the largest? (a name)",
        (
            'nq.fit(nq.select(pruned), method="uniform", ratio=45).ledger',
            "Which information about a weight is needed besides its value, if most weights are missing?",
        ),
        _largest_part,
    ),
}
