"""From a bundled network to a file of the promised size, and back in a process that has seen nothing of it."""

import json
import subprocess
import sys

import pytest

import nbquant as nq

FLOAT32_BYTES = 4 * 431_080
MOST_LOST = 0.005

RESTORE = """
import json, sys
import nbquant as nq
from nbquant.models.fashion_mnist import bundled
from nbquant.models.lenet import LeNet5

model = LeNet5()
model.load_state_dict(nq.load(sys.argv[1]).state_dict(progress=False), strict=True)
print(json.dumps(nq.evaluate(model.eval(), bundled().test, progress=False).accuracy))
"""


@pytest.mark.parametrize(
    ("network", "method", "weighted", "promised"),
    [("lenet5-fashion-pruned", "ecsq", False, 48), ("lenet5-fashion", "uniform", True, 19)],
)
def test_a_file_is_that_small_and_loses_at_most_half_a_point(tmp_path, network, method, weighted, promised):
    model, data = nq.zoo.load(network)
    h = nq.sensitivity(model, data.calibration, "gauss_newton_sampled", damping=0.1, progress=False)
    selection = nq.select(model, h)
    quantized = nq.fit(selection, method, ratio=promised, weighted=weighted, file_of=model, progress=False)
    tuned = nq.finetune(quantized, model, data.train.take(2000), epochs=1, progress=False).quantized
    ledger = nq.save(tuned, tmp_path / "m.nbq", model, progress=False)
    size = (tmp_path / "m.nbq").stat().st_size
    assert ledger.total == 8 * size
    assert promised * size <= FLOAT32_BYTES
    command = [sys.executable, "-c", RESTORE, str(tmp_path / "m.nbq")]
    restored = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert restored == nq.evaluate(tuned.apply(model), data.test, progress=False).accuracy
    assert restored >= nq.evaluate(model, data.test, progress=False).accuracy - MOST_LOST
