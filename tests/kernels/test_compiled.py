"""What the decorator makes of a loop."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from nbquant.kernels import compiled as module
from nbquant.kernels.compiled import compiled


def wrap_around(x):
    return x + np.uint64(1)


def test_without_numba_a_loop_wraps_around_without_a_word_but_the_first(monkeypatch):
    monkeypatch.setattr(module, "numba", None)
    monkeypatch.setattr(module, "_said", set())
    loop = compiled()(wrap_around)
    with pytest.warns(RuntimeWarning, match="numba cannot be used"):
        assert loop(np.uint64(2**64 - 1)) == 0
    assert loop(np.uint64(2**64 - 1)) == 0  # warnings are errors here
    with pytest.raises(RuntimeWarning, match="overflow"):
        wrap_around(np.uint64(2**64 - 1))


def test_without_numba_another_function_may_stand_for_a_loop(monkeypatch):
    monkeypatch.setattr(module, "numba", None)
    monkeypatch.setattr(module, "say_not_compiled", lambda: None)
    assert compiled(instead=lambda x: -x)(wrap_around)(3) == -3


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
