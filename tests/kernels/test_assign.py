"""The assignment kernels against ``reference`` and against all costs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.kernels import dispatch, reference
from nbquant.kernels.keys import MARGINAL_SHIFT, ZERO_KEY
from tests.kernels.samples import DTYPES, SAMPLES, draw


def assign(weight, h, codebook, length, lmbda, dtype=torch.int16, **options):
    out = torch.empty(len(weight), dtype=dtype)
    sums = dispatch.assign(weight, h, codebook, length, lmbda, out, **options)
    return out, sums


def by_reference(weight, h, codebook, length, lmbda, **options):
    found, sums = reference.assign(weight, h, torch.from_numpy(codebook), torch.from_numpy(length), lmbda, **options)
    return found, sums.numpy()


def costs(weight, sensitivity, codebook, length, lmbda):
    w, h = weight.double().numpy()[:, None], sensitivity.double().numpy()[:, None]
    return (w - codebook) ** 2 if lmbda == 0 else 0.5 * h * (w - codebook) ** 2 + lmbda * length


def sums_of(weight, h, found, levels):
    w, h = weight.double(), h.double()
    terms = torch.stack([torch.ones_like(w), w, h, h * w, h * w * w], dim=1)
    kept = found >= 0
    return torch.zeros(levels, 5, dtype=w.dtype).index_add_(0, found[kept].long(), terms[kept]).numpy()


def assert_least_cost(weight, h, codebook, length, lmbda, constant=None):
    """The assignment costs the least, is the reference's where that is clear, and the sums are of what was assigned."""
    true = torch.ones_like(weight) if h is None else h
    mass = true if constant is None else torch.full_like(weight, constant, dtype=torch.float64)
    found, sums = assign(weight, h, codebook, length, lmbda, constant=constant)
    expected, _ = by_reference(weight, h, codebook, length, lmbda, constant=constant)
    cost = costs(weight, mass, codebook, length, lmbda)
    np.testing.assert_allclose(cost[np.arange(len(weight)), found.numpy()], cost.min(axis=1), rtol=1e-12)
    two = np.sort(cost, axis=1)
    clear = torch.from_numpy(two[:, 1] > two[:, 0] * (1 + 1e-9)) if len(codebook) > 1 else torch.ones(len(weight)) > 0
    assert torch.equal(found[clear].long(), expected[clear])
    right = sums_of(weight, true, found, len(codebook))
    np.testing.assert_allclose(sums, right, rtol=1e-12, atol=1e-14 * float(np.abs(right).max()))


@pytest.mark.parametrize("levels", [1, 7, 300])
@pytest.mark.parametrize("lmbda", [0.0, 0.03])
@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_assign_is_least_cost(weight, sensitivity, lmbda, levels):
    codebook = np.linspace(-1.5, 2, levels)
    length = np.random.default_rng(levels).uniform(1, 8, levels)
    assert_least_cost(weight, sensitivity, codebook, length, lmbda)
    assert_least_cost(weight, None, codebook, length, lmbda)
    assert_least_cost(weight, sensitivity, codebook, length, lmbda, constant=0.7)


@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("levels", [3, 32, 200])
@pytest.mark.parametrize("lmbda", [1e-6, 1e-3, 0.1, 10.0])
def test_each_cell_of_the_table_holds_all_that_win_there(spread, levels, lmbda):
    # Many weights a cell, codewords at random: the cheap ones far away, the dear ones near.
    generator = torch.Generator().manual_seed(levels)
    weight = torch.randn(6_000, generator=generator)
    h = torch.randn(6_000, generator=generator).mul(spread).exp()
    random = np.random.default_rng(levels)
    codebook = np.sort(random.standard_normal(levels))
    for length in (random.uniform(1, 12, levels), 4 * codebook**2 + 1, np.ones(levels)):
        assert_least_cost(weight, h, codebook, length, lmbda)


@pytest.mark.parametrize("lmbda", [0.0, 1e-4])
@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e-6])
def test_outlier_among_the_codewords(lmbda, outlier):
    weight, h = draw(5000, torch.float32)
    weight[7] = outlier
    codebook = np.sort(np.append(np.linspace(-3, 3, 40), outlier))
    assert_least_cost(weight, h, codebook, np.linspace(2, 9, 41), lmbda)


@pytest.mark.parametrize("lmbda", [0.0, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_codewords_than_bins(lmbda, dtype):
    weight = 1 + 1e-3 * draw(3000, dtype)[0]
    codebook = 1 + np.linspace(-3e-3, 3e-3, 2000)
    assert_least_cost(weight, draw(3000, dtype)[1], codebook, np.full(2000, 3.0), lmbda)


def test_sensitivities_beyond_float32_and_below():
    weight = draw(600, torch.float64)[0]
    h = torch.tensor([1e-300, 1e-60, 1e-40, 1e30, 3e38, 1e39, 0.0, 1.0], dtype=torch.float64).repeat(75)
    assert_least_cost(weight, h, np.linspace(-2, 2, 30), np.linspace(1, 9, 30), 1e-3)


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
        for dtype in (torch.float64, torch.float32):
            expected = costs(weight, h, codebook, length, lmbda).argmin(axis=1)  # numpy's first
            assert assign(weight.to(dtype), h.to(dtype), codebook, length, lmbda)[0].tolist() == expected.tolist()
            assert by_reference(weight, h, codebook, length, lmbda)[0].tolist() == expected.tolist()
        expected = costs(weight, torch.full_like(h, 2.0), codebook, length, lmbda).argmin(axis=1)
        assert assign(weight, h, codebook, length, lmbda, constant=2.0)[0].tolist() == expected.tolist()


@pytest.mark.parametrize("lmbda", [0.0, 0.03])
@pytest.mark.parametrize("constant", [None, 0.0, 2.0])
@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_zeros_are_left_out(weight, sensitivity, lmbda, constant):
    weight = torch.where(torch.arange(len(weight)) % 3 == 0, -torch.zeros_like(weight), weight)
    codebook, length = np.linspace(-1, 1, 4), np.array([4.0, 2.0, 2.5, 3.0])
    options = {"constant": constant, "skip_zeros": True}
    found, sums = assign(weight, sensitivity, codebook, length, lmbda, **options)
    expected, right = by_reference(weight, sensitivity, codebook, length, lmbda, **options)
    assert torch.equal(found.long(), expected)
    np.testing.assert_allclose(sums, right, rtol=1e-12, atol=1e-14 * float(np.abs(right).max()))
    assert bool(((found == -1) == (weight == 0)).all())


@pytest.mark.parametrize("skip_zeros", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.5, 0.3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_grid_is_the_references(dtype, offset, skip_zeros):
    for weight, h in (draw(1023, dtype), (torch.arange(-40, 41).to(dtype) / 16, None)):  # the latter with ties
        first, last = (round(float(w) / 0.125 - offset) for w in weight.aminmax())
        grid = 0.125, offset, first, last - first + 1
        out = torch.empty(len(weight), dtype=torch.int8)
        sums = dispatch.assign_grid(weight, h, *grid, out, skip_zeros)
        expected, right = reference.assign_grid(weight, h, *grid, skip_zeros)
        assert torch.equal(out.long(), expected)
        np.testing.assert_allclose(sums, right.numpy(), rtol=1e-12, atol=1e-14 * float(right.abs().max()))


@pytest.mark.parametrize("integers", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_gather_is_the_references(n, dtype, integers):
    codebook = draw(120, dtype)[0]
    found = torch.randint(-1, 120, (n,), generator=torch.Generator().manual_seed(0)).to(integers)
    values = dispatch.gather(codebook, found)
    assert values.dtype == dtype
    assert torch.equal(values, reference.gather(codebook, found))


@pytest.fixture
def split_early(monkeypatch):
    monkeypatch.setattr(dispatch, "SPLIT_ABOVE", 10)
    monkeypatch.setattr(dispatch, "THREADS", 3)
    monkeypatch.setattr(dispatch, "CHUNK", 37)


@pytest.mark.parametrize("n", [11, 100, 1001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_give_what_one_pass_gives(n, dtype, split_early, monkeypatch):
    weight, h = draw(n, dtype)
    codebook, length = np.linspace(-2, 2, 9), np.arange(1.0, 10)

    def work():
        for lmbda in (0.0, 0.1):
            yield assign(weight, h, codebook, length, lmbda)
            yield assign(weight, None, codebook, length, lmbda, skip_zeros=True)
        out = torch.empty(n, dtype=torch.int16)
        sums = dispatch.assign_grid(weight, h, 0.1, 0.0, -60, 121, out)
        yield out, sums
        yield dispatch.gather(weight[:9], assign(weight, h, codebook, length, 0.0)[0]), np.zeros(1)

    chunks = list(work())
    for name in ("SPLIT_ABOVE", "CHUNK"):
        monkeypatch.setattr(dispatch, name, n)
    for (found, sums), (whole, right) in zip(chunks, work(), strict=True):
        assert torch.equal(found, whole)
        np.testing.assert_allclose(sums, right, rtol=1e-12, atol=1e-12 * float(np.abs(right).max()))


def test_calls_from_several_threads_do_not_disturb_each_other(split_early):
    def work(seed):
        weight, h = draw(3001, torch.float32, seed)
        return assign(weight, h, np.linspace(-2, 2, 8), np.arange(1.0, 9), 0.05)

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
    here, right = assign(weight, h, codebook, length, 0.1)
    there = torch.empty(1023, dtype=torch.int16, device="cuda")
    sums = dispatch.assign(weight.cuda(), h.cuda(), codebook, length, 0.1, there)
    assert torch.equal(there.cpu(), here)
    np.testing.assert_allclose(sums, right, rtol=1e-9, atol=1e-9)
    values = torch.from_numpy(codebook).to(dtype)
    assert torch.equal(dispatch.gather(values.cuda(), there).cpu(), dispatch.gather(values, here))


@pytest.mark.parametrize("skip_zeros", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 7, 64])
@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_bins_and_what_boundaries_cut_make_up_the_whole(weight, sensitivity, levels, skip_zeros):
    codebook = np.linspace(-1.5, 2, levels)
    for shift in (0, 10, MARGINAL_SHIFT):
        key, bins, _, _ = dispatch.histogram(weight, sensitivity, shift, None)
        kept = key != ZERO_KEY if skip_zeros else np.ones(len(key), bool)
        table, known = dispatch.whole_bins(weight, codebook, skip_zeros, key[kept], bins[kept])
        out, expected_out = (torch.empty(len(weight), dtype=torch.int8) for _ in range(2))
        cut = dispatch.assign(weight, sensitivity, codebook, np.zeros(levels), 0, out, None, skip_zeros, table)
        expected = dispatch.assign(weight, sensitivity, codebook, np.zeros(levels), 0, expected_out, None, skip_zeros)
        assert torch.equal(out, expected_out)
        w, h = weight.double().numpy(), sensitivity.double().numpy()
        scale = np.array([len(w), h.sum(), (h * np.abs(w)).sum(), (h * w * w).sum()])
        # Σw is not known where h differs within a bin, nor is it asked for then.
        assert (np.abs(cut + known - expected)[:, [0, 2, 3, 4]] <= 1e-12 * scale + 1e-150).all()
        if levels == 7 and len(weight) > 1000:
            assert known[:, 0].sum() > 0.9 * expected[:, 0].sum()


@pytest.mark.parametrize("boundary", [0.0, 1e-45, -1e-45])
def test_bins_at_a_boundary_of_zero(boundary):
    tiny = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-39, -1e-39, 0.5, -0.5])
    codebook = np.array([boundary - 1, boundary + 1])
    key, bins, _, _ = dispatch.histogram(tiny, None, MARGINAL_SHIFT, None)
    table, known = dispatch.whole_bins(tiny, codebook, False, key, bins)
    out, expected = (torch.empty(len(tiny), dtype=torch.int8) for _ in range(2))
    sums = known + dispatch.assign(tiny, None, codebook, np.zeros(2), 0, out, None, False, table)
    np.testing.assert_allclose(sums, dispatch.assign(tiny, None, codebook, np.zeros(2), 0, expected), rtol=1e-12)
    assert torch.equal(out, expected)
