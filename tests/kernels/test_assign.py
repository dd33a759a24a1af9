"""The assignment kernels against ``reference`` and against all costs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.kernels import dispatch, reference
from tests.kernels.samples import DTYPES, SAMPLES, draw


def costs(weight, sensitivity, codebook, length, lmbda):
    w, h = weight.double().numpy()[:, None], sensitivity.double().numpy()[:, None]
    return (w - codebook) ** 2 if lmbda == 0 else 0.5 * h * (w - codebook) ** 2 + lmbda * length


@pytest.mark.parametrize("levels", [1, 2, 7, 64])
@pytest.mark.parametrize("lmbda", [0.0, 0.03])
@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_assign_is_least_cost(weight, sensitivity, lmbda, levels):
    codebook = np.linspace(-1.5, 2, levels)
    length = np.random.default_rng(levels).uniform(1, 8, levels)
    found = dispatch.assign(weight, sensitivity, codebook, length, lmbda)
    assert found.dtype == torch.int64
    cost = costs(weight, sensitivity, codebook, length, lmbda)
    np.testing.assert_allclose(cost[np.arange(len(weight)), found.numpy()], cost.min(axis=1), rtol=1e-12)
    expected = reference.assign(weight, sensitivity, torch.from_numpy(codebook), torch.from_numpy(length), lmbda)
    two = np.sort(cost, axis=1)
    clear = torch.from_numpy(two[:, 1] > two[:, 0] * (1 + 1e-9)) if levels > 1 else torch.ones(len(weight)).bool()
    assert torch.equal(found[clear], expected[clear])


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_assign_ties_go_to_the_lowest(levels, seed):
    random = np.random.default_rng(seed)
    # Quarters and whole lengths: every cost is exact, so that ties are ties.
    codebook = np.sort(random.choice(np.arange(-8, 9) / 4, levels, replace=False))
    length = random.integers(1, 3, levels).astype(float)
    weight = torch.from_numpy(random.integers(-20, 21, 50) / 8)
    h = torch.from_numpy(random.integers(0, 3, 50).astype(float))
    for lmbda in (0.0, 0.125):
        expected = costs(weight, h, codebook, length, lmbda).argmin(axis=1)  # numpy's first
        assert dispatch.assign(weight, h, codebook, length, lmbda).tolist() == expected.tolist()
        for_torch = reference.assign(weight, h, torch.from_numpy(codebook), torch.from_numpy(length), lmbda)
        assert for_torch.tolist() == expected.tolist()


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_cluster_sums_are_the_references(weight, sensitivity):
    assignment = torch.arange(len(weight)) % 5
    ours = dispatch.cluster_sums(weight, sensitivity, assignment, 6)
    theirs = reference.cluster_sums(weight, sensitivity, assignment, 6).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours[5].tolist() == [0.0] * 4


@pytest.fixture
def split_early(monkeypatch):
    monkeypatch.setattr(dispatch, "SPLIT_ABOVE", 10)
    monkeypatch.setattr(dispatch, "THREADS", 3)


@pytest.mark.parametrize("n", [11, 100, 1001])
def test_chunks_give_what_one_pass_gives(n, split_early, monkeypatch):
    weight, h = draw(n, torch.float32)
    codebook, length = np.linspace(-2, 2, 9), np.arange(1.0, 10)
    for lmbda in (0.0, 0.1):
        split = dispatch.assign(weight, h, codebook, length, lmbda)
        sums = dispatch.cluster_sums(weight, h, split, 9)
        with monkeypatch.context() as patch:
            patch.setattr(dispatch, "SPLIT_ABOVE", n)
            assert torch.equal(split, dispatch.assign(weight, h, codebook, length, lmbda))
            np.testing.assert_allclose(sums, dispatch.cluster_sums(weight, h, split, 9), rtol=1e-12, atol=1e-12)


def test_calls_from_several_threads_do_not_disturb_each_other(split_early):
    def work(seed):
        weight, h = draw(3001, torch.float32, seed)
        codebook = np.linspace(-2, 2, 8)
        found = dispatch.assign(weight, h, codebook, np.arange(1.0, 9), 0.05)
        return found, dispatch.cluster_sums(weight, h, found, 8)

    alone = [work(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, [seed for _ in range(5) for seed in range(6)]))
    for i, (found, sums) in enumerate(together):
        assert torch.equal(found, alone[i % 6][0])
        np.testing.assert_array_equal(sums, alone[i % 6][1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_device(dtype):
    weight, h = draw(1023, dtype)
    codebook, length = np.linspace(-2, 2, 9), np.arange(1.0, 10)
    there = dispatch.assign(weight.cuda(), h.cuda(), codebook, length, 0.1)
    assert there.is_cuda
    assert torch.equal(there.cpu(), dispatch.assign(weight, h, codebook, length, 0.1))
    sums = dispatch.cluster_sums(weight.cuda(), h.cuda(), there, 9)
    np.testing.assert_allclose(sums, dispatch.cluster_sums(weight, h, there.cpu(), 9), rtol=1e-9, atol=1e-9)
