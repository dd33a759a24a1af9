"""Exercises of notebook 05: toward the limit."""

import math

import torch

from nbquant.course.answers import CLOSE, call, number, numbers, same
from nbquant.course.exercise import Exercise, generator
from nbquant.course.files import examine_file

SHARES = (0.5, 0.25, 0.25)
MOST_BYTES, LEAST = 40_000, 0.90
G = ((1.0, 0.5), (0.5, 1.0))
ERROR = 0.2


def _bits(answer: object) -> str | None:
    arithmetic, more = numbers(answer, ("bits of the arithmetic code", "how many more the Huffman code takes"))
    bits = -sum(p * math.log2(p) for p in SHARES)
    wrong = [not same(arithmetic, bits), not abs(more) < CLOSE]
    if wrong == [True, False]:
        return "the second is right; for the first, compute −log₂ of each probability."
    if wrong == [False, True]:
        return "the first is right; for the second, draw the tree of the Huffman code."
    return "neither is right: compute −log₂ of each probability. Are they whole numbers?" if any(wrong) else None


def _loss(answer: object) -> str | None:
    delta = torch.randn(5, generator=generator(), dtype=torch.float64)
    x = torch.randn(40, 5, generator=generator(), dtype=torch.float64)
    g = x.T @ x / len(x)
    found, right = number(call(answer, delta, g)), float(0.5 * delta @ g @ delta)
    if same(found, right):
        return None
    if same(found, 2 * right):
        return "it is twice the right value: the loss has a factor ½."
    if same(found, float(0.5 * (g.diagonal() * delta**2).sum())):
        return "that is the diagonal alone: the errors at two correlated inputs add up or cancel."
    return "it is not half of the mean square of δ·x over the inputs x."


def _answering(answer: object) -> str | None:
    found, right = number(answer), -G[0][1] / G[1][1] * ERROR
    if same(found, right):
        return None
    if same(found, -right):
        return "with that sign the errors add up: they should cancel."
    if abs(found) < 1e-9:
        return "that is best only if the inputs are uncorrelated."
    if same(found, -ERROR):
        return "that would be best if both inputs were always equal, but they are only correlated."
    return "the derivative of ½δGδᵀ with respect to the second error is not zero there."


EXERCISES = {
    "05.1": Exercise(
        f"Three symbols have the probabilities {SHARES}. How many bits per symbol does an arithmetic code take, and "
        "how many more does a Huffman code take? (two numbers)",
        (
            "An ideal code takes Σp·(−log₂p) bits per symbol.",
            "An arithmetic code is ideal up to a tiny excess; a Huffman code has whole codeword lengths.",
            "All −log₂p are whole numbers here, so compare them with the lengths of the Huffman code before you "
            "compute the difference.",
        ),
        _bits,
    ),
    "05.2": Exercise(
        "Write loss(delta, G): the cost ½·E[(δ·x)²] of the errors delta (d) of a row, from the moments G = E[xxᵀ] "
        "(d, d) of its inputs.",
        (
            "The square is (δ·x)² = δ·x·xᵀ·δᵀ.",
            "δ is fixed, so the mean acts on xxᵀ only, and E[xxᵀ] is G.",
            "The cost is ½δGδᵀ: two products with the operator @, times ½, which gives a single number.",
        ),
        _loss,
    ),
    "05.3": Exercise(
        f"G = {G}, and rounding changed the first weight of a row by δ₁ = {ERROR}. By how much must the second weight "
        "be moved to minimise the loss? (a number)",
        (
            "Write ½δGδᵀ for two errors δ₁ and δ₂.",
            "Set its derivative with respect to δ₂ to zero; δ₁ is given.",
            "The derivative is G₁₂·δ₁ + G₂₂·δ₂, so δ₂ has the opposite sign of δ₁ and is smaller.",
        ),
        _answering,
    ),
    "05.4": Exercise(
        f'Make a file of "lenet5-fashion" that has at most {MOST_BYTES:,} bytes and reaches an accuracy of {LEAST:.0%} '
        "on all test images. (the path of the .nbq file)",
        (
            "A larger λ makes a smaller file and a lower accuracy.",
            'Fit with method="feedback" at λ near 1e-8, then nq.save(quantized, path, model).',
            "Start at λ = 1e-8 and change it in steps of a factor of 1.2; measure with nq.evaluate on data.test "
            "before you hand the file in.",
        ),
        examine_file("lenet5-fashion", MOST_BYTES, lambda: LEAST),
    ),
}
