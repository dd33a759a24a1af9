"""Solutions of notebook 05."""

import tempfile
from pathlib import Path

import nbquant as nq

model, data = nq.zoo.load("lenet5-fashion")
h = nq.sensitivity(model, data.calibration, damping=0.1, progress=False)
calibration = nq.calibrate(model, data.train.take(1000), progress=False)
selection = nq.select(model, sensitivity=h, calibration=calibration)
quantized = nq.fit(selection, "feedback", lmbda=1e-8, progress=False)


def loss(delta, G):
    return 0.5 * delta @ G @ delta


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "small.nbq"
    nq.save(quantized, path, model, progress=False)
    VERDICTS = [
        nq.course.check("05.1", (0.5 * 1 + 0.25 * 2 + 0.25 * 2, 0)),
        nq.course.check("05.2", loss),
        nq.course.check("05.3", -0.5 * 0.2 / 1.0),
        nq.course.check("05.4", path),
    ]
