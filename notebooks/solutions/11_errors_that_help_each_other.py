"""Solutions of notebook 11."""

import torch

import nbquant as nq


def round_pair(w, G, step):
    first = (w[0] / step).round() * step
    second = w[1] + (w[0] - first) * G[0, 1] / G[1, 1]
    return torch.stack([first, (second / step).round() * step])


VERDICTS = [
    nq.course.check("11.1", round_pair),
    nq.course.check("11.2", (1 / 2**2, 2**2 / 2**2, 2**2)),
    nq.course.check("11.3", 8 / 64**0.5),
]
