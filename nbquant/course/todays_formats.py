"""Exercises of notebook 10: formats of today."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.course.answers import call, number, numbers, same
from nbquant.course.exercise import Exercise, generator

LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of E2M1
SIX_BITS = 63
GROWTH = ("fixed code in (a)", "entropy in (a)", "fixed code in (b)", "entropy in (b)")


def _blocks() -> Float[Tensor, "blocks n"]:
    """Blocks in which the largest weight should not saturate, should saturate, and does in no case."""
    blocks = (0.1 * torch.randn(3, 32, generator=generator(), dtype=torch.float64)).clamp(-0.25, 0.25)
    blocks[:, 7] = torch.tensor([0.95, -0.8, 0.36], dtype=torch.float64)
    return blocks


def error_of(block: Float[Tensor, " n"], exponent: int) -> float:
    """Compute the squared error of a block in E2M1 with a power of two as its scale."""
    table = 2.0**exponent * torch.tensor(LEVELS, dtype=torch.float64)
    return float((block.abs()[:, None] - table).square().amin(1).sum())


def best_exponent(block: Float[Tensor, " n"]) -> int:
    """Find the exponent of least squared error."""
    return min(range(-16, 17), key=lambda exponent: error_of(block, exponent))


def _exponent(answer: object) -> str | None:
    for block in _blocks():
        found, most = number(call(answer, block)), float(block.abs().max())
        if not found.is_integer():
            return f"the exponent must be an integer, but {found:.4g} came."
        found = max(-64.0, min(64.0, found))
        mine, least = error_of(block, int(found)), error_of(block, best_exponent(block))
        if same(mine, least):
            continue
        case = f"on a block whose largest weight is {most:.2g} the error is {mine / least:.3g} times the least"
        if most > 6 * 2.0**found and found == math.floor(math.log2(most)) - 2:
            return f"{case}: there, the largest weight saturates."
        if most <= 6 * 2.0**found and found == math.ceil(math.log2(most / 6)):
            return f"{case}: nothing saturates there, but the other weights are rounded more coarsely."
        return f"{case}."
    return None


def _quiet(answer: object) -> str | None:
    found = number(answer)
    if same(found, 2 * SIX_BITS):
        return None
    if same(found, SIX_BITS) or same(found, SIX_BITS + 1):
        return f"at {found:g} the integer is still 1: how is it rounded?"
    if same(found, SIX_BITS / 2):
        return f"at {found:g} the integer is 2."
    if found in (15, 16, 30):
        return "the codes have 4 bits, but the scales of groups have more."
    return f"at r = {found:g} the integer before rounding is {SIX_BITS / found if found else math.inf:.3g}."


def _growth(answer: object) -> str | None:
    fixed, coded, fixed_b, coded_b = numbers(answer, GROWTH)
    if not (same(fixed, 1) and same(fixed_b, 1)):
        return "a code of fixed length has log₂ of the number of levels: how many levels are there in (a) and in (b)?"
    if abs(coded) > 1e-9:
        return "the entropy in (a) is not right: how many weights take the new levels?"
    if not same(coded_b, 1):
        return "the entropy in (b) is not right: what becomes of the weights that shared a level?"
    return None


EXERCISES = {
    "10.1": Exercise(
        "Write best_exponent(block): the integer e with which ± 2^e · (0, 0.5, 1, 1.5, 2, 3, 4, 6), the levels of "
        "MXFP4, have the least squared error on a block of 32 weights (a tensor).",
        (
            "The largest weight alone does not decide. What do the other 31 lose?",
            "Write the error for a given e first: each weight goes to the nearest level.",
            "Then compare the errors of a few e around log₂ of the largest weight, and return the best.",
        ),
        _exponent,
    ),
    "10.2": Exercise(
        "In Q4_K the scale of a group of 32 weights is an integer from 0 to 63, times the scale of the block. The "
        "loudest group has the integer 63, and another one is r times quieter. From which r on is its integer rounded "
        "to 0, so that all its weights become equal? (a number)",
        (
            "Which integer would the quiet group have before rounding?",
            "It would have 63 / r. When is that rounded to 0, and not to 1?",
            "It is rounded to 0 below one half. So for which r is 63 / r one half?",
        ),
        _quiet,
    ),
    "10.3": Exercise(
        "A uniform grid has 16 levels, no weight is clipped, and the steps are short compared with the spread of the "
        "weights. (a) The range is doubled at the same step. (b) The step is halved at the same range. By how many "
        "bits per weight does a code of fixed length grow, and by how many the entropy of the codes? (four numbers: "
        "fixed code and entropy in (a), fixed code and entropy in (b))",
        (
            "Both grids have 32 levels. A code of fixed length sees nothing else.",
            "The entropy depends on the shares of the weights at the levels. Which shares change in (a)?",
            "In (a) no share changes. In (b) the weights of each old level go to two new ones, about half to each.",
        ),
        _growth,
    ),
}
