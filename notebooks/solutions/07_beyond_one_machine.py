"""Solutions of notebook 07."""

import nbquant as nq


def shared(parts):
    return sum(moment for _, moment in parts) / sum(mass for mass, _ in parts)


def cost(parts):
    mass, moment, square = (sum(column) for column in zip(*parts, strict=True))
    return 0.5 * (square - moment**2 / mass)


VERDICTS = [
    nq.course.check("07.1", shared),
    nq.course.check("07.2", cost),
]
