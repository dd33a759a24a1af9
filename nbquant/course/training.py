"""Exercises of notebook 12: training with quantization."""

import math

from nbquant.course.answers import call, number, numbers, same
from nbquant.course.exercise import Exercise

UPDATES = ((0.26, 1.0, 0.1, 0.5), (0.2, 0.3, 0.5, 1.0), (-1.3, 0.4, 0.2, 0.25))  # weight, target, rate, step
LATENT, MOVE = 0.2, 0.04
BEST = 0.3
UPDATES_ASKED = ("updates with a latent weight", "updates if the rounded weight is stored")


def _update(answer: object) -> str | None:
    for w, target, rate, step in UPDATES:
        found = number(call(answer, w, target, rate, step))
        rounded = round(w / step) * step
        case = f"for w = {w:g}, target = {target:g}, lr = {rate:g}, step = {step:g}"
        if same(found, w - rate * (rounded - target)):
            continue
        if same(found, w):
            return f"{case} the weight does not move: that is the true gradient, which is 0."
        if same(found, w - rate * (w - target)):
            return f"{case} the loss is that of the latent weight: which weight does the network use?"
        if same(found, rounded - rate * (rounded - target)):
            return f"{case} the rounded weight is updated: small updates would be lost at the next rounding."
        if same(found, w + rate * (rounded - target)):
            return f"{case} the weight goes uphill."
        if same(found, w - rate * (rounded - target) / step):
            return f"{case}: the straight-through gradient of the rounding is 1, whatever the step."
        return f"{case} it is not one step of gradient descent."
    return None


def _crossing(answer: object) -> str | None:
    latent, stored = numbers(answer, UPDATES_ASKED, finite=False)
    right = math.floor((0.5 - LATENT) / MOVE) + 1
    if latent == right and stored == math.inf:
        return None
    if latent == right:
        return "the first number is right; for the second, what is left of an update after it is rounded?"
    if latent == right - 1:
        return "the first number: just before it reaches the threshold, it is still rounded down."
    if not latent.is_integer():
        return "the first number must be a whole number of updates."
    if same(latent, (1 - LATENT) / MOVE):
        return "the first number: the weight need not reach the level itself."
    return "the first number: where is the threshold between the levels 0 and 1?"


def _share(answer: object) -> str | None:
    found = number(answer)
    if same(found, BEST):
        return None
    if found == 0:
        return "0 is the nearest level, but at q = 0 the gradient is not 0: the latent weight does not stay below."
    if same(found, 0.5):
        return "updates upwards and downwards are not equally long."
    if same(found, 1 - BEST):
        return "that is the share of level 0: which of the two updates is longer?"
    if not 0 <= found <= 1:
        return "a share between 0 and 1 is required."
    return "upward and downward moves must cancel in the long run."


EXERCISES = {
    "12.1": Exercise(
        "Write update(w, target, lr, step): one straight-through step of gradient descent on the latent weight w. The "
        "loss is ½(q − target)², where q is w rounded to a multiple of step. (a function that returns a number)",
        (
            "Which weight does the loss see, and which one is updated?",
            "The derivative of the loss with respect to q is q − target.",
            "The straight-through estimator passes that derivative on to w, as if q = w had been the forward pass.",
        ),
        _update,
    ),
    "12.2": Exercise(
        f"A latent weight is {LATENT} steps, and each update adds {MOVE} steps to it. After how many updates does the "
        "rounded weight change for the first time? How many would it take if the rounded weight were stored instead of "
        "the latent one? Use math.inf for never. (two numbers)",
        (
            "The rounding has its threshold halfway between two levels.",
            f"Count updates of {MOVE} steps from {LATENT} steps to beyond 0.5 steps.",
            f"A stored rounded weight starts at 0. After one update it is {MOVE} steps, and is rounded again.",
        ),
        _crossing,
    ),
    "12.3": Exercise(
        f"The loss of one weight is ½(q − {BEST})², with the levels q = 0 and q = 1. It is trained straight-through "
        "with a small learning rate for a long time. In which share of the updates is q = 1? (a number)",
        (
            "The latent weight stays near the threshold. When does it move up?",
            "It moves up while q = 0 and down while q = 1. How long is each move, in learning rates?",
            f"With a share p of level 1, the mean move is {BEST}·(1 − p) upwards and {1 - BEST:g}·p downwards. They "
            "must cancel.",
        ),
        _share,
    ),
}
