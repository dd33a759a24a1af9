"""Solutions of notebook 03."""

import nbquant as nq


def predicted(h, delta):
    return 0.5 * (h * delta**2).sum()


def diagonal(x, p):
    return (p * (1 - p)).T @ x**2 / len(x)


VERDICTS = [
    nq.course.check("03.1", (1 * 0 + 3 * 1) / (1 + 3)),
    nq.course.check("03.2", predicted),
    nq.course.check("03.3", diagonal),
]
