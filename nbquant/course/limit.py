"""Exercises of notebook 05: toward the limit."""

import math

import torch

from nbquant.course.exercise import CLOSE, AnswerError, Exercise, call, generator, number, same
from nbquant.course.files import examine_file

SHARES = (0.5, 0.25, 0.25)
MOST_BYTES, LEAST = 40_000, 0.90
G = ((1.0, 0.5), (0.5, 1.0))
ERROR = 0.2


def _bits(answer: object) -> str | None:
    try:
        arithmetic, more = map(number, answer)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise AnswerError("two numbers are required: bits of the arithmetic code, and Huffman's excess.") from None
    bits = -sum(p * math.log2(p) for p in SHARES)
    wrong = [not same(arithmetic, bits), not abs(more) < CLOSE]
    if wrong == [True, False]:
        return "the second is right; for the first, what are −log₂ of the shares?"
    if wrong == [False, True]:
        return "the first is right; for the second, draw the tree of Huffman's code."
    return "neither is right: what are −log₂ of the shares, and are they whole?" if any(wrong) else None


def _loss(answer: object) -> str | None:
    delta = torch.randn(5, generator=generator(), dtype=torch.float64)
    x = torch.randn(40, 5, generator=generator(), dtype=torch.float64)
    g = x.T @ x / len(x)
    found, right = number(call(answer, delta, g)), float(0.5 * delta @ g @ delta)
    if same(found, right):
        return None
    if same(found, 2 * right):
        return "it is twice the right value."
    if same(found, float(0.5 * (g.diagonal() * delta**2).sum())):
        return "that is the diagonal alone: errors of two correlated inputs add up, or cancel."
    return "it is not half of the mean square of δ·x over the inputs x."


def _answering(answer: object) -> str | None:
    found, right = number(answer), -G[0][1] / G[1][1] * ERROR
    if same(found, right):
        return None
    if same(found, -right):
        return "that way the errors add up."
    if abs(found) < 1e-9:
        return "that is best only if the inputs are uncorrelated."
    if same(found, -ERROR):
        return "that would be best if both inputs were always equal, but they are only correlated."
    return "the derivative of ½δGδᵀ with respect to the second error is not zero there."


EXERCISES = {
    "05.1": Exercise(
        f"Three symbols have the probabilities {SHARES}. How many bits per symbol does an arithmetic code take, and "
        "how many more a Huffman code? (two numbers)",
        ("Σp·(−log₂p).", "If all −log₂p are whole numbers, a code of whole bits loses nothing."),
        _bits,
    ),
    "05.2": Exercise(
        "Write loss(delta, G): the cost ½·E[(δ·x)²] of the errors delta (d) of a row, from the moments G = E[xxᵀ] "
        "(d, d) of its inputs.",
        ("(δ·x)² = δ·x·xᵀ·δ; what does the mean act on?", "½δGδᵀ"),
        _loss,
    ),
    "05.3": Exercise(
        f"G = {G}, and the first weight of a row was rounded by δ₁ = {ERROR}. By how much should the second be moved "
        "to minimise the loss? (a number)",
        ("Write ½δGδᵀ for two errors, and set its derivative by the second to zero.", "G₁₂·δ₁ + G₂₂·δ₂ = 0"),
        _answering,
    ),
    "05.4": Exercise(
        f'Make a file of at most {MOST_BYTES:,} bytes of "lenet5-fashion" that is right on {LEAST:.0%} of all test '
        "images. (the path of the .nbq file)",
        (
            'method="feedback" at a λ of some 1e-8, then nq.save(quantized, path, model).',
            "λ larger: smaller file. Measure with nq.evaluate before you hand it in.",
        ),
        examine_file("lenet5-fashion", MOST_BYTES, lambda: LEAST),
    ),
}
