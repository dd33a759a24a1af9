"""The kernels that are compiled ahead, against those that the explorer of a bundled network calls."""

import json
import os
import subprocess
import sys

CALLED = """
import importlib, json, pkgutil
from numba.core.dispatcher import Dispatcher
import nbquant as nq
from nbquant.kernels import cpu, precompile
from nbquant.models.dataset import Dataset
from nbquant.widgets.jobs import curves
from nbquant.widgets.state import ExplorerState

curves.precompile = lambda report: None
model, data = nq.zoo.load("lenet5-fashion")
few = data.calibration.take(200)
state = ExplorerState(model, Dataset("slice", few, few, few))
assert state.wait(300) and not state.error, state.error
modules = [importlib.import_module(f"{cpu.__name__}.{m.name}") for m in pkgutil.iter_modules(cpu.__path__)]
kernels = {k for m in modules for k in vars(m).values() if isinstance(k, Dispatcher)}
name = lambda k, arguments: f"{k.py_func.__module__}.{k.py_func.__name__} {arguments}"
called = [name(k, arguments) for k in kernels for arguments in k.signatures]
listed = [name(k, arguments) for k, arguments in (*precompile.PICTURE, *precompile.AFTERWARDS)]
print(json.dumps([called, listed]))
"""


def test_all_that_the_explorer_calls_is_compiled_ahead_and_nothing_else():
    done = subprocess.run([sys.executable, "-c", CALLED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called, listed = (set(names) for names in json.loads(done.stdout))
    assert listed <= called, listed - called
    # Parts of a kernel are only called by it; what was compiled just now names them too.
    assert not {name for name in called - listed if not name.split()[0].rpartition(".")[2].startswith("_")}
    assert len(listed) == 24


FEW = """
import nbquant.kernels.precompile as module
module.PICTURE, told, started = module.PICTURE[:3], [], []

class Process:
    def __init__(self, command, **options):
        started.append(command[1:])
    def terminate(self): pass
    def wait(self): pass

module.subprocess.Popen, module.os.cpu_count = Process, lambda: 2
module.precompile(lambda done, total: told.append((done, total)))
print(told, started)
"""


def test_a_second_process_helps_where_something_is_to_be_compiled(tmp_path):
    for started in ([["-m", "nbquant.kernels.precompile", "reverse"]], []):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"[(0, 3), (1, 3), (2, 3), (3, 3)] {started}"
