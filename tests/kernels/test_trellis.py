"""The best path down a column, by exhaustive search, by the definition and by the compiled kernel."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.coding.trellis import integers_of, levels_of, states_of
from nbquant.kernels import dispatch, reference

STEP = 0.4


def draw(rows, cols, states, neighbours, previous, seed, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    target = spread * torch.randn(rows, cols, generator=g)
    weight = torch.randn(rows, cols, generator=g).exp()
    weight[torch.rand(rows, cols, generator=g) < 0.1] = 0
    costs = (3 * torch.rand(2, neighbours, previous, 6, generator=g)).cumsum(-1)
    around = torch.randint(0, neighbours, (rows, cols), generator=g).to(torch.uint8)
    return target, weight, STEP, costs, around, float(torch.rand(1, generator=g)), states


def cost_of(integers, target, weight, step, costs, around, lmbda, states):
    """J of each column; integers that are on no path are refused."""
    rows, cols = target.shape
    m = integers.numpy()
    level = levels_of(m, rows, cols) if states == 8 else m
    quantizer = (states_of(level, rows, cols) >= 4).astype(int) if states == 8 else np.zeros_like(m, int)
    size = np.abs(level)
    above = np.vstack([np.zeros((1, cols), int), size])[:rows].clip(max=costs.shape[2] - 1)
    a = np.zeros((rows, cols), int) if around is None else around.numpy()
    bits = costs.double().numpy()[quantizer, a, above, size.clip(max=costs.shape[3] - 1)]
    loss = weight.double().numpy() * (target.double().numpy() - m * step) ** 2
    return (loss + lmbda * bits).sum(axis=0)


shapes = st.tuples(
    st.integers(0, 9), st.integers(0, 4), st.sampled_from([1, 8]), st.integers(1, 3), st.integers(1, 4),
    st.integers(0, 2**32 - 1), st.sampled_from([0.3, 1.0, 4.0, 40.0]),
)  # fmt: skip


@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("previous", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_path_is_cheaper(states, previous, seed):
    problem = draw(4, 1, states, 1, previous, seed, 0.8 if states == 8 else 0.5)
    x = problem[0].double().numpy() / STEP
    paths = np.array(list(product(range(-5, 6), repeat=4))).T
    integers = integers_of(paths, *paths.shape) if states == 8 else paths
    # Levels from zero to the first beyond the target: where the level above matters, others can be cheaper.
    odd = states_of(paths, *paths.shape) >= 4
    below = np.abs(paths) - 1
    below = np.where(odd, 2 * below - (below > 0), 2 * below) if states == 8 else below
    allowed = ((paths == 0) | (below <= np.abs(x)) & (np.sign(paths) == np.sign(x))).all(axis=0)
    assert np.abs(paths[:, allowed]).max() < 5  # so that these levels are enough
    alike = [x.expand(4, int(allowed.sum())) for x in problem[:2]]
    every = cost_of(torch.from_numpy(integers[:, allowed]), *alike, *problem[2:4], None, *problem[5:])
    for viterbi in (reference.viterbi, dispatch.viterbi):
        assert cost_of(viterbi(*problem), *problem)[0] == pytest.approx(every.min(), rel=1e-12)


@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_levels_beyond_those_compared_are_dearer(states, seed):
    problem = draw(4, 1, states, 1, 1, seed, 0.5)
    paths = np.array(list(product(range(-4, 5), repeat=4))).T
    integers = integers_of(paths, *paths.shape) if states == 8 else paths
    alike = [x.expand(4, paths.shape[1]) for x in problem[:2]]
    every = cost_of(torch.from_numpy(integers), *alike, *problem[2:4], None, *problem[5:])
    assert cost_of(dispatch.viterbi(*problem), *problem)[0] == pytest.approx(every.min(), rel=1e-12)


@given(shapes)
def test_compiled_is_as_cheap_as_the_definition(shape):
    problem = draw(*shape)
    found = dispatch.viterbi(*problem)
    assert found.dtype == torch.int32
    expected = cost_of(reference.viterbi(*problem), *problem)
    np.testing.assert_allclose(cost_of(found, *problem), expected, rtol=1e-12, atol=1e-12)


@given(shapes)
def test_one_state_and_no_class_above_is_the_choice_of_each_weight_alone(shape):
    target, weight, step, costs, around, lmbda, _ = draw(*shape[:2], 1, shape[3], 1, *shape[5:])
    found = dispatch.viterbi(target, weight, step, costs, around, lmbda, 1)
    m = torch.arange(-500, 501)
    bits = costs.double()[0, around.long(), 0][..., m.abs().clamp(max=5)]
    cost = weight.double()[..., None] * (target.double()[..., None] - m * step) ** 2 + lmbda * bits
    least = cost.gather(-1, (found.long() + 500)[..., None])[..., 0]
    torch.testing.assert_close(least, cost.amin(-1), rtol=1e-12, atol=1e-12)


def test_without_a_price_a_column_is_nearest_in_the_whole_trellis():
    problem = draw(200, 3, 8, 1, 1, 5)
    free = (*problem[:5], 0.0, 8)
    loss = cost_of(dispatch.viterbi(*free), *free)
    assert (loss < cost_of(dispatch.viterbi(*problem), *free)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    target, weight, *rest = draw(40, 5, 8, 2, 3, 1)
    found = dispatch.viterbi(target.to(dtype), weight.to(dtype), *rest)
    wide = dispatch.viterbi(target.to(dtype).double(), weight.to(dtype).double(), *rest)
    assert torch.equal(found, wide)


def test_columns_are_independent_and_shared_among_threads(monkeypatch):
    monkeypatch.setattr(dispatch, "SPLIT_PATHS_ABOVE", 1)
    monkeypatch.setattr(dispatch, "THREADS", 2)
    target, weight, step, costs, around, *rest = draw(30, 7, 8, 2, 3, 2)
    together = dispatch.viterbi(target, weight, step, costs, around, *rest)
    for j in range(7):
        column = [x[:, j : j + 1] for x in (target, weight, around)]
        assert torch.equal(dispatch.viterbi(*column[:2], step, costs, column[2], *rest)[:, 0], together[:, j])


def test_no_classes_are_class_zero():
    target, weight, step, costs, _, *rest = draw(30, 7, 8, 1, 3, 3)
    zeros = torch.zeros(30, 7, dtype=torch.uint8)
    expected = dispatch.viterbi(target, weight, step, costs, zeros, *rest)
    assert torch.equal(dispatch.viterbi(target, weight, step, costs, None, *rest), expected)


def test_without_a_price_one_state_is_the_nearest_integer():
    target, weight, step, costs, around, _, _ = draw(50, 4, 1, 2, 3, 6, 3.0)
    found = dispatch.viterbi(target, weight + 0.1, step, costs, around, 0.0, 1)
    assert torch.equal(found, (target.double() / step).round().int())


@given(
    st.integers(0, 40), st.integers(0, 90), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32 - 1),
    st.sampled_from([0.3, 1.0, 4.0, 40.0]),
)  # fmt: skip
def test_paths_in_strips_are_the_best_given_the_columns_to_their_left(rows, cols, strips, neighbours, seed, spread):
    target, weight, step, costs, _, lmbda, _ = draw(rows, cols, 8, neighbours, 3, seed, spread)
    left = torch.randint(0, neighbours, (strips, rows), generator=torch.Generator().manual_seed(seed))
    left = left.to(torch.uint8)
    lmbda += 1e-3
    found = dispatch.viterbi_in_strips(target, weight, step, costs, left, lmbda)
    assert found.shape == target.shape
    assert found.dtype == torch.int32
    around = torch.zeros(rows, cols, dtype=torch.uint8)
    around[:, 1:] = ((found[:, :-1].abs() + 1) // 2).clamp(max=neighbours - 1)
    length = max(-(-cols // strips), 1)
    starts = torch.arange(0, cols, length)
    around[:, starts] = left.T[:, : len(starts)]
    problem = target, weight, step, costs, around, lmbda, 8
    expected = cost_of(dispatch.viterbi(*problem), *problem)
    np.testing.assert_allclose(cost_of(found, *problem), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strips", [1, 3, 20])
def test_strips_are_as_defined(strips):
    target, weight, step, costs, _, lmbda, _ = draw(6, 23, 8, 3, 3, 8)
    left = torch.randint(0, 3, (strips, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    found = dispatch.viterbi_in_strips(target, weight, step, costs, left, lmbda)
    assert torch.equal(found.long(), reference.viterbi_in_strips(target, weight, step, costs, left, lmbda))


def test_strips_do_not_depend_on_threads(monkeypatch):
    target, weight, step, costs, _, lmbda, _ = draw(30, 200, 8, 3, 3, 8)
    left = torch.zeros(40, 30, dtype=torch.uint8)
    alone = dispatch.viterbi_in_strips(target, weight, step, costs, left, lmbda)
    monkeypatch.setattr(dispatch, "SPLIT_PATHS_ABOVE", 1)
    monkeypatch.setattr(dispatch, "THREADS", 2)
    assert torch.equal(dispatch.viterbi_in_strips(target, weight, step, costs, left, lmbda), alone)


def test_what_float32_cannot_hold_is_searched_in_float64():
    target, weight, step, costs, _, lmbda, _ = draw(30, 40, 8, 3, 3, 8)
    target[3, 2] = 1e6
    left = torch.zeros(20, 30, dtype=torch.uint8)
    found = dispatch.viterbi_in_strips(target, weight, step, costs, left, lmbda)
    expected = reference.column_by_column(dispatch.viterbi, target, weight, step, costs, left, lmbda)
    assert torch.equal(found, expected.int())
