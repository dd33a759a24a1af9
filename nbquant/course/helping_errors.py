"""Exercises of notebook 11: errors that help each other."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.course.answers import call, number, numbers, same, tensor
from nbquant.course.exercise import Exercise, generator

PAIRS = 100
SIZE, SPIKE = 64, 8.0
FACTORS = ("its own error, largest weight elsewhere", "its own error, largest weight in it", "the others' error then")


def round_pair(
    w: Float[Tensor, "2"], moments: Float[Tensor, "2 2"], step: float, share: float | None = None
) -> Float[Tensor, "2"]:
    """Round the first weight, and let the second compensate its error; ``share`` replaces G₁₂/G₂₂."""
    first = (w[0] / step).round() * step
    answer = (moments[0, 1] / moments[1, 1] if share is None else share) * (w[0] - first)
    return torch.stack([first, ((w[1] + answer) / step).round() * step])


def _pair(answer: object) -> str | None:
    random = generator()
    for _ in range(PAIRS):
        w = torch.randn(2, generator=random, dtype=torch.float64)
        x = torch.randn(9, 2, generator=random, dtype=torch.float64)
        x[:, 1] = x[:, 1] + 0.8 * x[:, 0]
        moments, step = x.T @ x / 9, 0.5
        found, right = tensor(call(answer, w, moments, step), (2,)), round_pair(w, moments, step)
        if same(found, right):
            continue
        ratio = float(moments[0, 1] / moments[1, 1])
        if not same(found, (found / step).round() * step):
            return "the weights must be multiples of the step, the second one too."
        if not same(found[0], right[0]):
            return "nothing comes before the first weight: it is rounded by itself."
        if same(found, round_pair(w, moments, step, 0.0)):
            return "each weight is rounded by itself, but the second should compensate the error of the first."
        if same(found, round_pair(w, moments, step, -ratio)):
            return "the second error adds to the first: look at the sign."
        if same(found, round_pair(w, moments, step, float(moments[0, 1] / moments[0, 0]))):
            return "the second weight moves by too much or too little: which input does it act on?"
        if same(found, round_pair(w, moments, step, 1.0)):
            return "that would be right if both inputs were always equal: how strongly are they correlated?"
        return f"for w = {w.tolist()} the second weight does not minimise δGδᵀ given the first."
    return None


def _scaled(answer: object) -> str | None:
    own, held, others = numbers(answer, FACTORS)
    right = (0.25, 1.0, 4.0)
    wrong = [not same(a, b) for a, b in zip((own, held, others), right, strict=True)]
    if not any(wrong):
        return None
    if same(own, 0.5):
        return "in the first case the error itself is halved: what is asked for is its mean square."
    if wrong[0]:
        return "the first is not right: the step stays, and the rounded weight is divided by 2 afterwards."
    if wrong[1]:
        return "the second is not right: what becomes of the step, and what of the division afterwards?"
    return "the third is not right: the others are not divided by anything, but what becomes of their step?"


def _spike(answer: object) -> str | None:
    found, right = number(answer), SPIKE / math.sqrt(SIZE)
    if same(found, right):
        return None
    if same(found, SPIKE / SIZE):
        return (
            f"then the sum of squares would be {SIZE * (SPIKE / SIZE) ** 2:g} after the rotation: what was it before?"
        )
    if same(found, SPIKE):
        return "that is the largest weight before the rotation: how many weights share it afterwards?"
    if found < 0:
        return "a magnitude is required."
    if found > SPIKE:
        return "an orthogonal matrix keeps the sum of squares, so no weight can be larger than the largest one before."
    return f"with {found:g} in each place the sum of squares would be {SIZE * found * found:.3g}: what was it before?"


EXERCISES = {
    "11.1": Exercise(
        "Write round_pair(w, G, step): a row of two weights (2), rounded to multiples of the step, the first by "
        "itself and the second so that δGδᵀ is least given the first, with δ the errors and G = E[xxᵀ] (2, 2). (a "
        "function that returns a tensor of two values)",
        (
            "Given the first error, δGδᵀ is a parabola in the second error. Where is its minimum?",
            "It is at −δ₁ G₁₂ / G₂₂. Which value should the second weight have before it is rounded?",
            "first = round(w₁ / step) · step; target = w₂ + (w₁ − first) · G₁₂ / G₂₂; then round the target.",
        ),
        _pair,
    ),
    "11.2": Exercise(
        "A group of weights has one scale, its largest magnitude over 7. In it, all weights of one channel are "
        "multiplied by 2 before rounding, and divided by 2 afterwards. By which factor does the mean squared rounding "
        "error change: (a) of this channel, if the largest weight of the group is in another channel and stays the "
        "largest; (b) of this channel, if it holds the largest weight; (c) of the others in case (b)? (three numbers)",
        (
            "The mean squared rounding error is step² / 12. Which weight sets the step?",
            "In (a) the step stays, and the rounded weight is divided by 2, with its error.",
            "In (b) the step doubles, and the error is halved afterwards. In (c) it doubles, and nothing is halved.",
        ),
        _scaled,
    ),
    "11.3": Exercise(
        f"A row has {SIZE} weights: one is {SPIKE:g}, the others are 0. It is multiplied by an orthogonal Hadamard "
        f"matrix, whose entries are ± 1/√{SIZE}. What is the largest magnitude afterwards? (a number)",
        (
            "Each new weight is a sum over the 64 old ones.",
            "Its terms are old weights times entries of the matrix. How many are not 0?",
            f"One term is not 0: {SPIKE:g} times an entry, whose magnitude is 1/√{SIZE}. That holds for every sum.",
        ),
        _spike,
    ),
}
