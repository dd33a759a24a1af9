"""Solutions of notebook 07."""

import math

import nbquant as nq


def shared(parts):
    return sum(moment for _, moment in parts) / sum(mass for mass, _ in parts)


VERDICTS = [
    nq.course.check("07.1", shared),
    nq.course.check("07.2", math.ceil((3 * 4 * 10 - 57) / 4) * 20),
]
