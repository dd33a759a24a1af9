"""Exercises of notebook 01: explore."""

import numpy as np

from nbquant.analysis.fit import fit
from nbquant.course.answers import AnswerError, attempt, number, shown
from nbquant.course.exercise import ROUNDING, Exercise, accuracy, accuracy_of, bundled
from nbquant.models.select import select
from nbquant.quantization.kmeans import MOST_LEVELS, KMeans
from nbquant.quantization.quantized import Quantized

RATE = 3.0  # bit/weight
RATIO = 20.0
LOST = 0.005
PRUNED_RATIO = 45.0
CLOSE_RATIO = 0.05  # answers are typed with one or two decimals


def _levels(answer: object) -> str | None:
    number(answer)
    if not isinstance(answer, int | np.integer):
        raise AnswerError(f"a whole number is required, but {shown(answer)} came.")
    levels = int(answer)
    if not 1 <= levels <= MOST_LEVELS:
        return f"a number from 1 to {MOST_LEVELS} is required."
    selection = select(bundled("lenet5-fashion")[0])

    def rate(k: int) -> float:
        return KMeans(k, weighted=False).fit(selection).rate

    if (taken := rate(levels)) > RATE:
        return f"{levels} levels take {taken:.3f} bits per weight."
    if levels < MOST_LEVELS and rate(levels + 1) <= RATE:
        return f"{levels} levels take {taken:.3f} bits per weight, and one more would still fit."
    return None


def _one_layer(answer: object) -> str | None:
    if not isinstance(answer, Quantized):
        raise AnswerError(f"the result of nq.fit is required, but {shown(answer)} came.")
    others = [name for name in answer.tensors if not name.startswith("fc1.")]
    if others:
        return f"only fc1 must be quantized, but {others[0]} is quantized too: select with layers=."
    if answer.compression_ratio < RATIO:
        return f"its ratio is {answer.compression_ratio:.2f}, but at least {RATIO:g} is required."
    name = "lenet5-fashion"
    lost = accuracy_of(name) - accuracy(attempt(lambda: answer.apply(bundled(name)[0])), name)
    return f"it loses {100 * lost:.2f} points of accuracy." if lost > LOST + ROUNDING else None


def _halved_values(answer: object) -> str | None:
    found = number(answer)
    fitted = fit(select(bundled("lenet5-fashion-pruned")[0]), method="uniform", ratio=PRUNED_RATIO, progress=False)
    ledger, source = fitted.ledger, fitted.source_bits

    def near(stored: float) -> bool:
        return abs(found - source / stored) < CLOSE_RATIO

    if near(ledger.total - ledger["payload"] / 2):
        return None
    if near(ledger.total):
        return "that is the ratio before the payload is halved."
    if near(ledger.total / 2):
        return "that would be right if every part of the ledger were halved."
    if near(ledger.total - ledger["position_payload"] / 2):
        return "that is the ratio if the positions are halved: the payload is the codewords of the values."
    if near(ledger["payload"] / 2):
        return "the other parts of the ledger are stored too."
    if near(ledger.total - ledger["payload"]):
        return "that is the ratio if the payload is removed: half of it remains."
    return "a ratio is the bits of the weights before quantization over the sum of all parts of the ledger."


EXERCISES = {
    "01.1": Exercise(
        "Plain k-means quantizes the bundled LeNet-5. How many levels can it use at most if the rate must not exceed 3 "
        "bits per weight, all side information included? (a whole number)",
        (
            "A Huffman code is used, so more than 2³ levels fit in 3 bits.",
            "nq.KMeans(levels, weighted=False).fit(nq.select(model)).rate is the rate of one number of levels.",
            "Compute that rate for 8, 9, 10, … levels and take the last number of levels whose rate is at most 3.",
        ),
        _levels,
    ),
    "01.2": Exercise(
        "Quantize only the layer fc1 of the bundled LeNet-5 to a ratio of 20 or more and lose at most half a point of "
        "accuracy on all test images. (the result of nq.fit)",
        (
            'nq.select(model, sensitivity=h, layers="fc1") selects one layer.',
            "Select fc1 alone in the explorer: its curves show which method loses least at a ratio of 20.",
            'Compare "uniform" and "ecsq" at ratio=20 by nq.evaluate(q.apply(model), data.test), and take the better '
            "one.",
        ),
        _one_layer,
    ),
    "01.3": Exercise(
        'Nine of ten weights of "lenet5-fashion-pruned" are zero. Method "uniform" quantizes it to 45×, without '
        'sensitivities. Suppose that a better quantizer halves the part "payload" of the ledger and changes nothing '
        "else. What is the compression ratio then? (a number)",
        (
            "The ratio counts all parts of the ledger, not only the payload.",
            'q = nq.fit(nq.select(pruned), "uniform", ratio=45) has q.ledger, q.ledger.total and q.source_bits.',
            'The new ratio is q.source_bits over the new total, and that is q.ledger.total − q.ledger["payload"] / 2.',
        ),
        _halved_values,
    ),
}
