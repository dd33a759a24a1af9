"""Columns that compensate each other's errors: compiled as defined, and on paths of the trellis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.trellis import levels_of, states_of
from nbquant.kernels import reference
from nbquant.kernels.cpu import feedback
from nbquant.kernels.cpu.path import EVEN, ODD

STEP = 0.25

shapes = st.fixed_dictionaries(
    {
        "groups": st.integers(1, 3), "n": st.integers(1, 5), "rows": st.integers(1, 6), "restart": st.integers(1, 20),
        "neighbours": st.sampled_from([1, 3]), "pruned": st.booleans(), "seed": st.integers(0, 2**32 - 1),
    }
)  # fmt: skip


def prices(rng, neighbours, scale=0.1):
    return scale * rng.random((2, neighbours, 3, 6)).cumsum(-1)


def columns_case(groups, n, rows, restart, neighbours, pruned, seed):
    rng = np.random.default_rng(seed)
    target = rng.standard_normal((groups, n, rows)).astype(np.float32)
    carried = 0.3 * rng.standard_normal((groups, n, rows)).astype(np.float32)
    coupling = 0.3 * rng.standard_normal((groups, n, n)).astype(np.float32) + np.eye(n, dtype=np.float32)
    curvature = np.square(coupling.diagonal(axis1=1, axis2=2)).copy()
    outputs = rng.random((groups, rows)).astype(np.float32)
    off = 0.1 * rng.standard_normal((groups, n, rows)).astype(np.float32)
    columns = rng.permutation(n + 2)[:n]
    fixed = (rng.random((n + 2, groups * rows)) < 0.3).astype(np.uint8) if pruned else np.zeros((0, 0), np.uint8)
    integers = rng.integers(-3, 4, (n + 2, groups * rows)).astype(np.int32)
    price = prices(rng, neighbours)
    return [target, carried, coupling, curvature, outputs, off, STEP, price, columns, restart, fixed, integers]


def copies(case):
    return [x.copy() if isinstance(x, np.ndarray) else x for x in case]


@given(shapes)
def test_compiled_columns_are_those_of_the_definition(shape):
    case = columns_case(**shape)
    ours, theirs = copies(case), copies(case)
    feedback.compensate(*ours)
    reference.compensate(*theirs)
    np.testing.assert_array_equal(ours[-1], theirs[-1])
    np.testing.assert_allclose(ours[5], theirs[5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    if shape["pruned"]:
        columns = case[8]
        assert not ours[-1][columns][case[10][columns] > 0].any()


def along_case(n, cols, restart, neighbours, pruned, seed, first=0):
    rng = np.random.default_rng(seed)
    target, carried = (s * rng.standard_normal((n, cols)).astype(np.float32) for s in (1.0, 0.3))
    coupling = np.triu(0.3 * rng.standard_normal((n, n)) + np.eye(n)).astype(np.float32)
    outputs, off = rng.random(cols).astype(np.float32), np.zeros((n, cols), np.float32)
    fixed = (rng.random((n, cols)) < 0.3).astype(np.uint8) if pruned else np.zeros((0, 0), np.uint8)
    state, above = rng.integers(0, 8, cols).astype(np.uint8), rng.integers(0, 3, cols).astype(np.uint8)
    integers = np.zeros((n, cols), np.int32)
    return [
        target, carried, coupling, outputs, off, STEP, prices(rng, neighbours), first, restart, reference.TRANSITION,
        state, above, fixed, integers,
    ]  # fmt: skip


@given(
    st.integers(1, 7), st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 3]), st.booleans(),
    st.integers(0, 2**32 - 1), st.integers(0, 5),
)  # fmt: skip
def test_compiled_paths_along_inputs_are_those_of_the_definition(n, cols, restart, neighbours, pruned, seed, first):
    case = along_case(n, cols, restart, neighbours, pruned, seed, first)
    ours, theirs = copies(case), copies(case)
    feedback.compensate_along(*ours)
    reference.compensate_along(*theirs)
    for i in (10, 11, 13):
        np.testing.assert_array_equal(ours[i], theirs[i])
    np.testing.assert_allclose(ours[4], theirs[4], rtol=1e-4, atol=1e-5)
    if pruned:
        assert not ours[-1][case[12] > 0].any()


def test_without_coupling_a_path_along_inputs_is_the_best_there_is():
    case = along_case(40, 6, 1000, 1, False, 3)
    case[1][:], case[2][:] = 0, np.eye(40)
    case[10][:], case[11][:] = 0, 0
    feedback.compensate_along(*case)
    target, outputs, price, integers = case[0], case[3], case[6], case[13]
    best = np.zeros((6, 40), np.int32)
    feedback.compensate(
        np.ascontiguousarray(target.T[None]), np.zeros((1, 6, 40), np.float32), np.eye(6, dtype=np.float32)[None],
        outputs[None], np.ones((1, 40), np.float32), np.zeros((1, 6, 40), np.float32), STEP, price, np.arange(6), 1000,
        np.zeros((0, 0), np.uint8), best,
    )  # fmt: skip

    def cost(m):
        level = levels_of(m, *m.shape)
        odd = (states_of(level, *m.shape) >= 4).astype(int)
        above = np.pad(np.abs(level).clip(max=2), ((1, 0), (0, 0)))[:-1]
        loss = outputs * (target - STEP * m) ** 2
        return float(loss.sum() + price[odd, 0, above, np.abs(level).clip(max=5)].sum())

    # One survivor a state, whatever the level above: a little may be lost.
    assert cost(best.T) <= cost(integers) * (1 + 1e-9) < 1.01 * cost(best.T)


def test_errors_of_columns_before_are_compensated():
    case = along_case(30, 8, 1000, 1, False, 5)
    case[1][:], case[10][:], case[11][:] = 0, 0, 0
    factor = case[2]
    apart = copies(case)
    apart[2] = np.diag(factor.diagonal()).astype(np.float32)
    losses = []
    for c in (case, apart):
        feedback.compensate_along(*c)
        losses.append(float((c[3] * np.square(factor.T @ (c[0] - STEP * c[13]))).sum()))
    assert losses[0] < 0.8 * losses[1]


@pytest.mark.parametrize("restart", [1, 4, 100])
def test_levels_are_counted_in_their_contexts(restart):
    case = along_case(11, 5, restart, 1, False, 2)
    case[10][:], case[11][:] = 0, 0
    feedback.compensate_along(*case)
    integers = case[13]
    ours, theirs = (np.zeros((2, 3, 3, 4), np.int64) for _ in range(2))
    feedback.count_levels(integers, restart, reference.TRANSITION, ours)
    reference.count_levels(integers, restart, reference.TRANSITION, theirs)
    np.testing.assert_array_equal(ours, theirs)
    parts = [integers[i : i + restart] for i in range(0, 11, restart)]
    by_hand = np.zeros_like(ours)
    for part in parts:
        level = levels_of(part, *part.shape)
        odd = states_of(level, *part.shape) >= 4
        for r, c in np.ndindex(part.shape):
            left = min(abs(level[r, c - 1]), 2) if c else 0
            above = min(abs(level[r - 1, c]), 2) if r else 0
            by_hand[int(odd[r, c]), left, above, min(abs(level[r, c]), 3)] += 1
    np.testing.assert_array_equal(ours, by_hand)


def test_what_leads_to_each_state():
    for state, (even, odd) in enumerate(zip(EVEN, ODD, strict=True)):
        assert reference.TRANSITION[even, 0] == state
        assert reference.TRANSITION[odd, 1] == state
