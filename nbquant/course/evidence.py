"""Exercises of notebook 13: choosing by evidence."""

import torch
from torch import Tensor

from nbquant.course.answers import call, number
from nbquant.course.exercise import Exercise, generator

LOOSE = 0.01  # relative tolerance: n or n − 1 in a variance
SAMPLES, DIFFERENCE, ERROR, TIMES = 1000, 0.4, 0.4, 3
VARIANTS, CHANCE = 20, 0.023


def _near(found: float, right: float) -> bool:
    return abs(found - right) <= LOOSE * abs(right)


def _samples() -> tuple[Tensor, Tensor]:
    random = generator()
    first = (torch.rand(400, generator=random) < 0.9).double()
    flipped = torch.rand(400, generator=random) < 0.05
    return first, torch.where(flipped, 1 - first, first)


def _paired(answer: object) -> str | None:
    first, second = _samples()
    found = number(call(answer, first, second))
    change, n = second - first, len(first)
    right = float(change.std()) / n**0.5
    if _near(found, right):
        return None
    if _near(found, 100 * right):
        return "that is in points: the entries are 0 and 1, so the accuracies and their error are shares."
    if _near(found, float((first.var() + second.var()).sqrt()) / n**0.5):
        return "that is the error for samples that are not shared: these are the same samples for both networks."
    if _near(found, float(change.std())):
        return "that is the spread of one sample: how does it become the error of a mean?"
    if _near(found, float(change.std()) / n):
        return "the error of a mean does not fall as fast as that."
    if _near(found, right**2):
        return "that is the square of the error."
    if _near(found, float(change.mean())) or _near(found, -float(change.mean())):
        return "that is the difference itself, not its error."
    if found == 0:
        return "it is 0, but the networks do not agree on all samples."
    if found < 0:
        return "it is negative, but an error is a square root of a variance."
    return (
        f"it is off by a factor of {found / right:.3g}: it must be the error of the mean of the samples' differences."
    )


def _needed(answer: object) -> str | None:
    found = number(answer)
    right = SAMPLES * (TIMES * ERROR / DIFFERENCE) ** 2
    if _near(found, right):
        return None
    if _near(found, SAMPLES * TIMES * ERROR / DIFFERENCE):
        return "that many would suffice if the error fell in proportion to the samples."
    if _near(found, right - SAMPLES):
        return f"count the first {SAMPLES:,} samples too."
    if found <= SAMPLES:
        return f"{SAMPLES:,} samples give one standard error only."
    return "by which factor must the error fall, and how does it depend on the number of samples?"


def _luck(answer: object) -> str | None:
    found = number(answer)
    right = 1 - (1 - CHANCE) ** VARIANTS
    if _near(found, right):
        return None
    if _near(found, VARIANTS * CHANCE):
        return "that is the expected number of such variants; it could exceed 1, but a probability cannot."
    if _near(found, 1 - right):
        return "that is the probability that none does."
    if _near(found, CHANCE):
        return "that is the probability for one given variant."
    if not 0 <= found <= 1:
        return "a probability between 0 and 1 is required."
    return "it is not the probability that at least one of them does."


EXERCISES = {
    "13.1": Exercise(
        "Write paired_error(first, second): the standard error of the difference of two accuracies measured on the "
        "same samples. Both arguments hold 1 for each sample that the network classifies correctly, and 0 otherwise "
        "[n]. (a function that returns a number)",
        (
            "Each sample has its own difference: −1, 0 or 1.",
            "The difference of the accuracies is the mean of these n differences.",
            "The standard error of a mean of n independent values is their standard deviation over √n.",
        ),
        _paired,
    ),
    "13.2": Exercise(
        f"On {SAMPLES:,} samples, two networks differ by {DIFFERENCE} points of accuracy, with a paired standard error "
        f"of {ERROR} points. If that is the true difference: how many samples in all make it {TIMES} standard errors? "
        "(a number)",
        (
            "By which factor must the standard error fall?",
            "With four times as many samples, the standard error halves.",
            f"The standard error falls with 1/√n, so a {TIMES} times smaller one takes more than {TIMES} times the "
            "samples.",
        ),
        _needed,
    ),
    "13.3": Exercise(
        f"You try {VARIANTS} variants that change nothing. Each looks better by more than 2 standard errors with a "
        f"probability of {CHANCE:.1%}, independently of the others. With which probability does at least one of them? "
        "(a number between 0 and 1)",
        (
            "Begin with the probability that none of them does.",
            f"One variant does not look better with a probability of 1 − {CHANCE}.",
            f"All {VARIANTS} are independent, so multiply {VARIANTS} such probabilities; then subtract from 1.",
        ),
        _luck,
    ),
}
