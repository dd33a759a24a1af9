"""Solutions of notebook 13."""

import nbquant as nq


def paired_error(first, second):
    return (second - first).std() / len(first) ** 0.5


VERDICTS = [
    nq.course.check("13.1", paired_error),
    nq.course.check("13.2", 1000 * 3**2),
    nq.course.check("13.3", 1 - (1 - 0.023) ** 20),
]
