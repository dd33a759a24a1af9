"""Solutions of notebook 02."""

import math
import tempfile
from pathlib import Path

import torch

import nbquant as nq

model, data = nq.zoo.load("lenet5-fashion-pruned")
q = sum(int(p.count_nonzero()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())
floor = (-q * math.log2(q) - (1 - q) * math.log2(1 - q)) / q


def gradient(g, index, k):
    return torch.zeros(k, dtype=g.dtype).index_add_(0, index, g)


h = nq.sensitivity(model, data.calibration, damping=0.1, progress=False)
quantized = nq.fit(nq.select(model, sensitivity=h), "ecsq", ratio=50, coding="context", progress=False)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "small.nbq"
    nq.save(quantized, path, model, progress=False)
    VERDICTS = [
        nq.course.check("02.1", floor),
        nq.course.check("02.2", path),
        nq.course.check("02.3", gradient),
    ]
