"""The compiled loops against ``reference`` and against exhaustive search."""

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.kernels import cpu, dispatch, reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [1, 2, 3, 17, 257, 1023]


def draw(n, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator, dtype=torch.float64)
    sensitivity = torch.randn(n, generator=generator, dtype=torch.float64).mul(3).exp()
    return weight.to(dtype), sensitivity.clamp(max=1e4).to(dtype)


def awkward(dtype):
    """Zeros of both signs, subnormals, largest and smallest floats, repeats; sensitivities of every kind."""
    info = torch.finfo(dtype)
    largest = min(info.max, 1e38)  # squares of larger float64 do not fit
    weight = [
        0.0,
        -0.0,
        info.tiny,
        -info.tiny,
        info.tiny * info.eps,
        -info.tiny * info.eps,
        largest,
        -largest,
        1,
        1,
        -1,
    ]
    sensitivity = [0.0, -0.0, info.tiny, info.tiny * info.eps, 1, 1, min(largest, 1e30), 0.5, 0, 2, 3]
    return torch.tensor(weight, dtype=dtype), torch.tensor(sensitivity, dtype=dtype)


SAMPLES = [
    *(pytest.param(*draw(n, dtype), id=f"{dtype}-{n}") for dtype in DTYPES for n in SIZES),
    *(pytest.param(*awkward(dtype), id=f"{dtype}-awkward") for dtype in DTYPES),
    *(pytest.param(torch.full((33,), 0.3, dtype=d), torch.ones(33, dtype=d), id=f"{d}-constant") for d in DTYPES),
]


def same_histogram(a, b):
    assert a[0].tolist() == b[0].tolist()
    np.testing.assert_allclose(np.asarray(a[1]), np.asarray(b[1]), rtol=1e-12)


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_joint_histogram_is_the_references(weight, sensitivity):
    same_histogram(dispatch.joint_histogram(weight, sensitivity), reference.joint_histogram(weight, sensitivity))


@pytest.mark.parametrize("dtype", DTYPES)
def test_histogram_of_nothing(dtype):
    for kernel in (dispatch.joint_histogram, reference.joint_histogram):
        key, sums = kernel(torch.zeros(0, dtype=dtype), torch.zeros(0, dtype=dtype))
        assert key.shape == (0,)
        assert sums.shape == (0, 6)


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_histogram_loses_nothing(weight, sensitivity):
    _, sums = dispatch.joint_histogram(weight, sensitivity)
    w, h = weight.double().numpy(), sensitivity.double().numpy()
    whole = [len(w), w.sum(), (w * w).sum(), h.sum(), (h * w).sum(), (h * w * w).sum()]
    scale = [len(w), np.abs(w).sum(), (w * w).sum(), h.sum(), np.abs(h * w).sum(), (h * w * w).sum()]
    assert (np.abs(sums.sum(axis=0) - whole) <= 1e-12 * np.array(scale)).all()


@pytest.mark.parametrize("tiny", [2.0**-149, 1e-300], ids=["subnormal", "below-float32"])
def test_only_exact_zero_is_in_the_zero_bin(tiny):
    weight = torch.tensor([0.0, -0.0, tiny, -tiny, 1.0, -1.0], dtype=torch.float64)
    key, sums = dispatch.joint_histogram(weight, torch.ones_like(weight))
    bins = (key % reference.WEIGHT_BINS).tolist()
    assert bins == sorted(bins)
    assert sums[bins.index(reference.ZERO_BIN), 0] == 2
    assert bins[1:4] == [reference.ZERO_BIN - 1, reference.ZERO_BIN, reference.ZERO_BIN + 1]


def test_bins_are_monotone_and_a_128th_of_an_octave():
    weight = torch.cat([-torch.logspace(30, -30, 4001), torch.zeros(1), torch.logspace(-30, 30, 4001)])
    bins = reference.weight_bin(weight)
    assert bool((bins.diff() >= 0).all())
    one_to_two = torch.arange(1, 2, 2.0**-12)
    assert len(reference.weight_bin(one_to_two).unique()) == 128
    assert bool((reference.weight_bin(-one_to_two) + reference.weight_bin(one_to_two) == 2 * reference.ZERO_BIN).all())


def test_rows_are_half_octaves():
    h = torch.tensor([0.0, -0.0, 1.0, 1.49, 1.5, 1.99, 2.0, 3.0])
    rows = reference.sensitivity_row(h)
    assert (rows - rows[2]).tolist()[2:] == [0, 0, 1, 1, 2, 3]
    assert rows[:2].tolist() == [0, 0]


def test_an_outlier_spoils_no_bin():
    weight, h = draw(4096, torch.float32)
    before, _ = dispatch.joint_histogram(weight, h)
    after, _ = dispatch.joint_histogram(torch.cat([weight, torch.tensor([1000.0])]), torch.cat([h, torch.ones(1)]))
    assert set(before.tolist()) <= set(after.tolist())
    assert len(after) == len(before) + 1


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


def prefix_of(mass, position):
    terms = np.stack([mass, mass * position, mass * position**2], axis=1)
    return np.vstack([np.zeros(3), np.cumsum(terms, axis=0)])


def interval_loss(mass, position):
    if mass.sum() == 0:
        return 0.0
    centre = (mass * position).sum() / mass.sum()
    return float((mass * (position - centre) ** 2).sum())


def partitions(m, k):
    return ([0, *cut, m] for cut in combinations(range(1, m), k - 1))


bins = st.lists(st.tuples(st.integers(-20, 20), st.sampled_from([0.0, 0.25, 1.0, 8.0])), min_size=1, max_size=8)


@given(bins)
@settings(max_examples=80)
def test_kmeans_table_is_the_best_of_all_partitions(drawn):
    position = np.unique([p for p, _ in drawn]).astype(float)
    mass = np.array([mass for _, mass in drawn])[: len(position)]
    prefix = prefix_of(mass, position)
    m = len(position)
    tables = [cpu.kmeans_table(prefix, m), [t.numpy() for t in reference.kmeans_table(torch.from_numpy(prefix), m)]]
    for k in range(1, m + 1):
        best = min(sum(interval_loss(mass[a:b], position[a:b]) for a, b in pairwise(e)) for e in partitions(m, k))
        for total, start in tables:
            assert total[k - 1] == pytest.approx(best, abs=1e-9)
            edges = [m]
            for level in range(k, 0, -1):
                edges.append(int(start[level - 1, edges[-1]]))
            edges.reverse()
            assert edges[0] == 0
            assert all(a < b for a, b in pairwise(edges)), "an empty cluster"
            got = sum(interval_loss(mass[a:b], position[a:b]) for a, b in pairwise(edges))
            assert got == pytest.approx(best, abs=1e-9)


def test_kmeans_table_is_the_references_where_no_list_of_partitions_reaches():
    random = np.random.default_rng(3)
    position = np.sort(random.standard_normal(301))
    mass = np.exp(3 * random.standard_normal(301)) * (random.random(301) < 0.7)
    prefix = prefix_of(mass, position)
    total, start = cpu.kmeans_table(prefix, 40)
    expected, _ = reference.kmeans_table(torch.from_numpy(prefix), 40)
    np.testing.assert_allclose(total, expected.numpy(), rtol=1e-9, atol=1e-9)
    assert (np.diff(total) <= 1e-12).all()
    assert start.max() < 301


def test_kmeans_table_of_one_bin():
    total, start = cpu.kmeans_table(prefix_of(np.ones(1), np.array([2.0])), 1)
    assert total == pytest.approx([0])
    assert start.tolist() == [[0, 0]]


def grid(row_sensitivity, positions, seed=0):
    """Cells of one weight each: rows of equal h, and running sums of n, h, hw, hw²."""
    w = np.concatenate(positions)
    h = np.repeat(row_sensitivity, [len(p) for p in positions])
    row_start = np.concatenate([[0], np.cumsum([len(p) for p in positions])])
    terms = np.stack([np.ones_like(w), h, h * w, h * w * w], axis=1)
    return row_start, np.asarray(row_sensitivity, float), w, np.vstack([np.zeros(4), np.cumsum(terms, axis=0)]), h


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=150)
def test_envelope_is_argmin_over_all_codewords(levels, seed, equal):
    random = np.random.default_rng(seed)
    rows = np.array([0.0, 1e-6, 0.1, 1.0, 50.0])
    row_start, row_h, w, prefix, h = grid(rows, [np.sort(random.normal(0, 2, 40)) for _ in rows])
    codebook = np.sort(random.normal(0, 2, levels))
    if equal and levels > 1:
        codebook[1:] = np.where(random.random(levels - 1) < 0.5, codebook[:-1], codebook[1:])
        codebook.sort()
    price = 10.0 ** random.uniform(-6, 1) * random.integers(1, 9, levels)
    sums = cpu.ecsq_sums(row_start, row_h, w, prefix, codebook, price)
    chosen = (0.5 * h[:, None] * (w[:, None] - codebook) ** 2 + price).argmin(axis=1)
    expected = np.zeros((levels, 4))
    np.add.at(expected, chosen, np.diff(prefix, axis=0))
    np.testing.assert_allclose(sums, expected, rtol=1e-9, atol=1e-9)


def test_codeword_that_never_wins_has_no_members():
    row_start, row_h, w, prefix, _ = grid([1.0], [np.linspace(-1, 1, 21)])
    sums = cpu.ecsq_sums(row_start, row_h, w, prefix, np.array([-1.0, 0.0, 1.0]), np.array([0.1, 5.0, 0.1]))
    assert sums[:, 0].tolist() == [11, 0, 10]  # the tie at zero goes to the lower


def test_the_least_h_and_gap_do_not_divide_by_zero():
    row_start, row_h, w, prefix, _ = grid([1e-200], [np.array([0.0, 1e-150])])
    sums = cpu.ecsq_sums(row_start, row_h, w, prefix, np.array([0.0, 1e-150]), np.array([2.0, 1.0]))
    assert sums[:, 0].tolist() == [0, 2]


@given(st.integers(0, 2**32 - 1), st.floats(-4, 1), st.integers(1, 30))
@settings(max_examples=60)
def test_ecsq_never_raises_its_cost(seed, log_lmbda, levels):
    random = np.random.default_rng(seed)
    h = np.unique(np.exp(2 * random.standard_normal(30))) * (np.arange(30) > 3)
    row_start, row_h, w, prefix, per_weight = grid(
        np.unique(h), [np.sort(random.normal(0, 1, 9)) for _ in np.unique(h)]
    )
    start = np.sort(random.normal(0, 1, levels))
    lmbda = 10.0**log_lmbda
    codebook, length, history = cpu.ecsq_iterate(
        row_start, row_h, w, prefix, start, np.full(levels, np.log2(levels)), lmbda, 1e-9, 200
    )
    assert (np.diff(history) <= 1e-12 * history[:-1]).all()
    assert (np.diff(codebook) >= 0).all()
    assert np.exp2(-length).sum() == pytest.approx(1)
    # What it says it costs is what it costs: J of the last assignment, brute force.
    chosen = (0.5 * per_weight[:, None] * (w[:, None] - codebook) ** 2 + lmbda * length).argmin(axis=1)
    loss = 0.5 * (per_weight * (w - codebook[chosen]) ** 2).mean() + lmbda * length[chosen].mean()
    assert loss <= history[-1] * (1 + 1e-9)


def test_ecsq_of_one_level_and_of_constant_weights():
    row_start, row_h, w, prefix, _ = grid([2.0], [np.full(5, 0.25)])
    codebook, length, history = cpu.ecsq_iterate(
        row_start, row_h, w, prefix, np.array([7.0]), np.zeros(1), 0.1, 1e-6, 10
    )
    assert (codebook.tolist(), length.tolist(), history[-1]) == ([0.25], [0.0], 0.0)


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
        return found, dispatch.cluster_sums(weight, h, found, 8), dispatch.joint_histogram(weight, h)

    alone = [work(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, [seed for _ in range(5) for seed in range(6)]))
    for i, (found, sums, histogram) in enumerate(together):
        assert torch.equal(found, alone[i % 6][0])
        np.testing.assert_array_equal(sums, alone[i % 6][1])
        same_histogram(histogram, alone[i % 6][2])


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
    same_histogram(dispatch.joint_histogram(weight.cuda(), h.cuda()), dispatch.joint_histogram(weight, h))
