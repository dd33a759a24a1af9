"""Exercises of notebook 09: numbers and scales."""

import math

from nbquant.course.answers import call, number, numbers, same
from nbquant.course.exercise import Exercise

PLACES = ((1.0, 10), (1.9, 3), (1000.0, 7), (0.01, 10))  # number, bits of the mantissa
RANGES = ((-1.0, 3.0, 4), (-0.2, 0.1, 8), (0.5, 2.0, 4), (-2.0, -1.0, 4))  # least and largest weight, bits
BEFORE, OUTLIER = 0.1, 1.6


def _spacing(answer: object) -> str | None:
    for x, bits in PLACES:
        found, right = number(call(answer, x, bits)), 2.0 ** (math.floor(math.log2(x)) - bits)
        case = f"at x = {x:g} with {bits} bits of mantissa"
        if same(found, right):
            continue
        if same(found, right / 2):
            return f"{case} that is the largest rounding error, but the distance of neighbours is asked for."
        if same(found, 2.0**-bits):
            return f"{case} it is the distance near 1: does the exponent change it?"
        if same(found, x * 2.0**-bits):
            return f"{case}: neighbours keep their distance until the exponent changes, but yours grows with every x."
        return f"{case} it is off by a factor of {found / right:.3g}."
    return None


def _affine(answer: object) -> str | None:
    for low, high, bits in RANGES:
        scale, zero = numbers(call(answer, low, high, bits), ("scale", "zero point"))
        least, most, codes = min(low, 0.0), max(high, 0.0), 2**bits - 1
        right = (most - least) / codes
        case = f"for weights from {low:g} to {high:g} and {bits} bits"
        if (low > 0 or high < 0) and same(scale, (high - low) / codes):
            return f"{case}: no code stands for zero. What must the range hold besides the weights?"
        if same(scale, (most - least) / 2**bits):
            return f"{case}: count the steps between {2**bits} levels."
        if not same(scale, right):
            return f"{case} the scale is off by a factor of {scale / right:.3g}."
        if not zero.is_integer():
            return f"{case} the zero point is {zero:.3g}, but it is a code."
        if least < 0 and same(zero, -round(-least / right)):
            return f"{case} the zero point has the wrong sign: codes are not negative."
        if zero != round(-least / right):
            return f"{case}: with the zero point {zero:g} the code 0 stands for {-right * zero:.3g}."
    return None


def _outlier(answer: object) -> str | None:
    error, bits = numbers(answer, ("factor of the error", "bits"))
    growth = OUTLIER / BEFORE
    if same(error, growth**2) and same(bits, math.log2(growth)):
        return None
    if same(error, growth**2):
        return "the factor is right; for the bits, how many codes do the other weights still reach?"
    if same(error, growth):
        return "that is the factor of the step: what is asked for is a mean of squares."
    if same(bits, math.log2(growth)):
        return "the bits are right; for the error, how does it depend on the step?"
    return "neither is right: how many times longer is a step with the new weight?"


EXERCISES = {
    "09.1": Exercise(
        "Write spacing(x, mantissa_bits): the distance from the floating-point number x > 0 to the next larger one, "
        "for a format with that many bits of mantissa. x is normal. (a function that returns a number)",
        (
            "Which field of the float changes from x to the next number?",
            "Between 1 and 2 the last bit of the mantissa is worth 2^−mantissa_bits.",
            "The exponent e = floor(log2(x)) multiplies it: from 2 to 4 that bit is worth twice as much.",
        ),
        _spacing,
    ),
    "09.2": Exercise(
        "Write affine(low, high, bits): scale and zero point for weights from low to high, with codes from 0 to "
        "2^bits − 1. Zero must have a code of its own, and no weight may be clipped before the zero point is rounded. "
        "(a function that returns two numbers)",
        (
            "How many steps lie between the first code and the last?",
            "If all weights are positive, zero is outside their range: extend it.",
            "The scale is the extended range over 2^bits − 1, and the zero point is −low / scale, rounded.",
        ),
        _affine,
    ),
    "09.3": Exercise(
        f"A group of int8 weights has the scale max |w| / 127, and max |w| = {BEFORE}. One of its weights becomes "
        f"{OUTLIER}. By which factor does the mean squared rounding error of the others grow, and how many of their "
        "8 bits do they no longer use? (two numbers)",
        (
            "The outlier sets the scale. How much longer is a step?",
            "A rounding error is spread evenly over ± half a step: its mean square is step² / 12.",
            "The others reached the code 127 before. Which code do they reach now, and how many bits does it take?",
        ),
        _outlier,
    ),
}
