"""Solutions of notebook 09."""

import math

import nbquant as nq


def spacing(x, mantissa_bits):
    return 2.0 ** (math.floor(math.log2(x)) - mantissa_bits)


def scale_and_zero(low, high, bits):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-low / scale)


step = 1.6 / 0.1  # times as long

VERDICTS = [
    nq.course.check("09.1", spacing),
    nq.course.check("09.2", scale_and_zero),
    nq.course.check("09.3", (step**2, math.log2(step))),
]
