"""Solutions of notebook 12."""

import math

import nbquant as nq


def update(w, target, lr, step):
    q = round(w / step) * step
    return w - lr * (q - target)


VERDICTS = [
    nq.course.check("12.1", update),
    nq.course.check("12.2", (8, math.inf)),
    nq.course.check("12.3", 0.3),
]
