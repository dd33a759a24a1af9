"""Solutions of notebook 06."""

from torch import nn

import nbquant as nq


class FirstOnly(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


class Pairs:
    """Pairs that can be read any number of times; only one batch is in memory."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return ((batch["image"], batch["label"]) for batch in self.batches)


VERDICTS = [
    nq.course.check("06.1", FirstOnly),
    nq.course.check("06.2", Pairs),
    nq.course.check("06.3", ["conv1", "layers.*.conv*"]),
]
