"""What the decorator makes of a loop."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from nbquant.kernels import compiled as module
from nbquant.kernels.compiled import compiled


def wrap_around(x):
    return x + np.uint64(1)


def test_without_numba_the_error_says_what_to_do(tmp_path):
    (tmp_path / "numba.py").write_text('raise ImportError("Numba needs NumPy 1.0 or less. Got NumPy 99.")\n')
    run = "import sys; sys.path.insert(0, sys.argv[1]); import nbquant.kernels.compiled"
    done = subprocess.run([sys.executable, "-c", run, str(tmp_path)], text=True, capture_output=True, check=False)
    assert "ImportError: nbquant needs numba, but it cannot be imported (ImportError: Numba needs NumPy" in done.stderr


def test_without_a_folder_for_the_cache_a_loop_is_compiled_all_the_same(monkeypatch):
    def njit(**options):
        def decorate(function):
            if options.get("cache"):
                raise RuntimeError("cannot cache function: no locator available")
            return "compiled", function

        return decorate

    monkeypatch.setattr(module, "numba", SimpleNamespace(njit=njit))
    assert compiled()(wrap_around) == ("compiled", wrap_around)


def test_many_threads_say_it_once(monkeypatch):
    monkeypatch.setattr(module, "_said", set())
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        list(pool.map(lambda _: module.say_once("slow"), range(100)))
    assert len(caught) == 1
