"""The path of least error, against all paths and the package's own trellis."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.course import trellis_path as module
from nbquant.course.trellis_path import TRANSITION, draw_trellis_path, integer_of, show, trellis_path_data
from nbquant.kernels import reference

TARGET = np.random.default_rng(0).normal(size=8) * 2


def by_all_paths(target, candidates):
    """Least error over all sequences of levels of these candidates."""
    costs = []
    for levels in itertools.product(candidates, repeat=len(target)):
        state, cost = 0, 0.0
        for t, level in zip(target, levels, strict=True):
            cost += (integer_of(state, level) - t) ** 2
            state = TRANSITION[state][level % 2]
        costs.append(cost)
    return min(costs)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=4))
def test_path_is_the_best_of_all(target):
    data = trellis_path_data(np.array(target), len(target))
    assert data.error == pytest.approx(by_all_paths(target, range(-3, 4)), abs=1e-9)


@pytest.mark.parametrize("done", range(9))
def test_path_follows_the_trellis(done):
    data = trellis_path_data(TARGET, done)
    assert len(data.integers) == done == len(data.path) - 1
    assert ((data.integers - TARGET[:done]) ** 2).sum() == pytest.approx(data.error)
    for start, end, m in zip(data.path[:-1], data.path[1:], data.integers, strict=True):
        level = m // 2 if start < 2 else (m + np.sign(m)) // 2
        assert integer_of(start, int(level)) == m
        assert TRANSITION[start][level % 2] == end
    assert data.path[0] == 0


def test_eight_states_are_those_of_the_package(monkeypatch):
    """With the package's table of states the same algorithm finds the path of its kernel."""
    monkeypatch.setattr(module, "TRANSITION", tuple(map(tuple, reference.TRANSITION.tolist())))
    monkeypatch.setattr(module, "STATES", 8)
    target = np.random.default_rng(1).normal(size=30) * 2
    t = torch.from_numpy(target[:, None])
    free = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    expected = reference.viterbi(t, torch.ones_like(t), 1.0, free, None, 0.0)
    assert trellis_path_data(target, 30).integers.tolist() == expected[:, 0].tolist()


def test_states_are_those_of_the_standard():
    assert TRANSITION == ((0, 2), (2, 0), (1, 3), (3, 1))


def test_integers_of_both_grids():
    assert [integer_of(0, k) for k in range(-2, 3)] == [-4, -2, 0, 2, 4]
    assert [integer_of(3, k) for k in range(-2, 3)] == [-3, -1, 0, 1, 3]


def test_trellis_errs_less_than_one_grid():
    target = np.random.default_rng(2).normal(size=500) * 2
    data = trellis_path_data(target, 500)
    assert data.error < 0.8 * data.scalar_error
    assert data.scalar_error == pytest.approx(((2 * np.round(target / 2) - target) ** 2).sum())


def test_picture_follows_the_sliders():
    live = show(np.concatenate([TARGET, -TARGET]), 1.0, done=0)
    assert "none of them quantized yet" in live.summary
    live.controls["done"].value = 8
    live.controls["first"].value = 8
    assert "After 8 of 8 weights" in live.box.children[1].value
    texts = [text.get_text() for text in draw_trellis_path(trellis_path_data(TARGET, 8)).axes[0].texts]
    assert "state 3\n(odd, 0)" in texts
