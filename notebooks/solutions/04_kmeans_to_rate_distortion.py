"""Solutions of notebook 04."""

import math

import nbquant as nq


def ratio(n, k, b):
    return n * b / (n * math.ceil(math.log2(k)) + k * b)


def entropy(counts):
    shares = [n / sum(counts) for n in counts if n]
    return -sum(p * math.log2(p) for p in shares)


def choose(w, h, c, length, lmbda):
    cost = 0.5 * h[:, None] * (w[:, None] - c) ** 2 + lmbda * length
    return cost.argmin(dim=1)


VERDICTS = [
    nq.course.check("04.1", ratio),
    nq.course.check("04.2", entropy),
    nq.course.check("04.3", [1, 2, 3, 4, 4]),
    nq.course.check("04.4", choose),
]
