"""Solutions of notebook 08."""

import nbquant as nq


def chosen(choices, lmbda):
    return min(range(len(choices)), key=lambda i: choices[i][1] + lmbda * choices[i][0])


VERDICTS = [
    nq.course.check("08.1", (32 * 4 + 16) / 32),
    nq.course.check("08.2", chosen),
]
