"""Solutions of notebook 10."""

import math

import torch

import nbquant as nq

LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def error(block, e):
    return (block.abs()[:, None] - 2.0**e * LEVELS).square().amin(1).sum()


def best_exponent(block):
    near = math.floor(math.log2(block.abs().max()))
    return min(range(near - 5, near + 2), key=lambda e: error(block, e))


VERDICTS = [
    nq.course.check("10.1", best_exponent),
    nq.course.check("10.2", 63 / 0.5),
    nq.course.check("10.3", (1, 0, 1, 1)),
]
