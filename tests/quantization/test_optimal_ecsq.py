"""ECSQ's solver against exhaustive search, and against the paper's algorithm on the weights from many starts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from nbquant.kernels import reference
from nbquant.kernels.cpu.ecsq import ecsq_intervals
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.optimal_ecsq import ecsq_clusters, ecsq_hull, ideal_length

MANY = 30_000  # more than are kept one by one


def draw(kind, spread, n, seed=0):
    """Weights, and sensitivities: log-normal, growing with |w| or falling with it."""
    random = np.random.default_rng(seed)
    w = random.laplace(0, 0.03, n) if kind == "laplace" else random.normal(0, 0.05, n)
    relative = np.abs(w) / w.std() + 0.1
    h = {"rising": relative**2, "falling": relative**-2}.get(spread, 1.0)
    tail = spread if isinstance(spread, float) else 1.0
    return w.astype(np.float32), (h * np.exp(tail * random.standard_normal(n))).astype(np.float32)


def cells_of(w, h):
    return Cells.of_histogram(Histogram.of(torch.tensor(w), torch.tensor(h)), True, True)


def one_row(w, h=1.0):
    """Cells of one weight each, all of the same h."""
    w = np.sort(np.asarray(w, np.float64))
    terms = np.stack([np.ones_like(w), np.full_like(w, h), h * w, h * w * w], axis=1)
    prefix = np.vstack([np.zeros(4), np.cumsum(terms, axis=0)])
    return Cells(np.array([0, len(w)]), np.array([float(h)]), w, prefix, prefix)


def cost(cells, clusters, lmbda):
    return clusters.loss / cells.count + lmbda * float(clusters.counts / cells.count @ ideal_length(clusters.counts))


def scale_of(w, h):
    """λ at which one level at zero costs as much as a bit."""
    return 0.5 * float((h.astype(np.float64) * w.astype(np.float64) ** 2).mean())


@njit
def plain_iteration(w, h, codebook, length, lmbda, most):
    """The paper's algorithm on the weights, as in the reference, in a compiled loop."""
    before = np.inf
    for _ in range(most):
        k = len(codebook)
        sums = np.zeros((k, 4))
        for i in range(len(w)):
            least, chosen = np.inf, 0
            for j in range(k):
                c = 0.5 * h[i] * (w[i] - codebook[j]) ** 2 + lmbda * length[j]
                if c < least:
                    least, chosen = c, j
            sums[chosen, 0] += 1
            sums[chosen, 1] += h[i]
            sums[chosen, 2] += h[i] * w[i]
            sums[chosen, 3] += h[i] * w[i] * w[i]
        sums = sums[sums[:, 0] > 0]
        codebook, length = sums[:, 2] / sums[:, 1], -np.log2(sums[:, 0] / len(w))
        now = (0.5 * (sums[:, 3] - codebook * sums[:, 2]).sum() + lmbda * (sums[:, 0] * length).sum()) / len(w)
        if before - now <= 1e-6 * now:
            break
        before = now
    return codebook, length, now


def test_the_compiled_loop_is_the_reference():
    w, h = (x.astype(np.float64) for x in draw("laplace", 2.0, 500))
    start, length = np.linspace(-0.2, 0.2, 20), np.full(20, np.log2(20))
    lmbda = 0.01 * scale_of(w, h)
    ours = plain_iteration(w, h, start, length, lmbda, 30)
    expected = reference.ecsq_iterate(*map(torch.tensor, (w, h, start, length)), lmbda, 1e-6, 30)
    assert ours[2] == pytest.approx(expected[2][-1], rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "spread"),
    [("laplace", 0.0), ("gauss", 1.0), ("laplace", 2.0), ("gauss", 3.0), ("laplace", "rising"), ("gauss", "falling")],
)
@pytest.mark.parametrize("share", [0.3, 0.01])
def test_not_above_the_plain_iteration_from_the_usual_starts(kind, spread, share):
    w, h = draw(kind, spread, MANY)
    lmbda = share * scale_of(w, h)
    found = ecsq_clusters(cells_of(w, h), lmbda)
    w, h = w.astype(np.float64), h.astype(np.float64)
    ours = plain_iteration(w, h, found.codebook, ideal_length(found.counts), lmbda, 2)[2]
    starts = [np.linspace(w.min(), w.max(), k) for k in (16, 64)] + [np.quantile(w, (np.arange(32) + 0.5) / 32)]
    plain = [plain_iteration(w, h, s, np.full(len(s), np.log2(len(s))), lmbda, 100)[2] for s in starts]
    assert ours <= min(plain) * 1.001


@given(st.integers(2, 40), st.integers(0, 2**32 - 1), st.floats(-5, 0))
@settings(max_examples=40)
def test_one_row_of_few_cells_is_solved_for_good(n, seed, log_lmbda):
    w = np.random.default_rng(seed).laplace(0, 1, n)
    cells, lmbda = one_row(w, 1.5), 10.0**log_lmbda
    _, least = reference.ecsq_intervals(torch.tensor(cells.prefix), lmbda)
    found = ecsq_clusters(cells, lmbda)
    assert cost(cells, found, lmbda) == pytest.approx(least, rel=1e-9)
    (of_hull,) = ecsq_hull(cells, [lmbda])
    assert cost(cells, of_hull, lmbda) == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01])
def test_one_row_of_many_cells_loses_little_by_fewer_edges(share):
    w = np.random.default_rng(0).laplace(0, 1, 3000)
    cells = one_row(w)
    _, least = ecsq_intervals(cells.prefix, share)
    assert cost(cells, ecsq_clusters(cells, share), share) <= least * 1.0005


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0, "rising", "falling"])
def test_the_hull_falls_and_is_concave(spread):
    w, h = draw("laplace", spread, MANY)
    cells = cells_of(w, h)
    lmbdas = np.geomspace(1e-5, 4, 14) * scale_of(w, h)
    found = ecsq_hull(cells, lmbdas)
    j = np.array([cost(cells, c, lmbda) for c, lmbda in zip(found, lmbdas, strict=True)])
    assert (np.diff(j) > 0).all()
    slope = np.diff(j) / np.diff(lmbdas)
    assert (np.diff(slope) <= 1e-4 * slope[:-1]).all()
    # None of them is better at another's λ than the one found there: J is that of the lower convex hull.
    loss, rate = np.array([(c.loss / cells.count, c.counts / cells.count @ ideal_length(c.counts)) for c in found]).T
    assert (j <= (loss[:, None] + rate[:, None] * lmbdas).min(axis=0) * (1 + 1e-4)).all()
    alone = [cost(cells, ecsq_clusters(cells, float(x)), x) for x in lmbdas]
    assert (j <= np.array(alone) * 1.01).all()
    assert j.sum() <= sum(alone) * 1.002


def test_the_hull_is_in_the_order_asked_for():
    w, h = draw("gauss", 2.0, MANY)
    cells = cells_of(w, h)
    lmbdas = np.geomspace(1e-3, 1, 5) * scale_of(w, h)
    shuffled = [3, 0, 4, 2, 1]
    found = ecsq_hull(cells, lmbdas)
    for place, clusters in zip(shuffled, ecsq_hull(cells, lmbdas[shuffled]), strict=True):
        np.testing.assert_array_equal(clusters.codebook, found[place].codebook)


def test_levels_are_not_cut_off_at_few():
    w, h = draw("laplace", 2.0, MANY)
    cells, lmbda = cells_of(w, h), 1e-4 * scale_of(w, h)
    assert len(ecsq_clusters(cells, lmbda).counts) > 300


@pytest.mark.parametrize("factor", [1e-3, 64.0])
def test_scaled_weights_have_scaled_clusters(factor):
    w, h = draw("laplace", 2.0, 3000)
    lmbda = 0.03 * scale_of(w, h)
    plain = ecsq_clusters(cells_of(w, h), lmbda)
    cells = cells_of((w * np.float32(factor)).astype(np.float32), h)
    scaled = ecsq_clusters(cells, lmbda * factor**2)
    assert cost(cells, scaled, lmbda * factor**2) == pytest.approx(
        cost(cells_of(w, h), plain, lmbda) * factor**2, rel=2e-3
    )


def test_neighbour_is_where_it_sets_out():
    w, h = draw("laplace", 2.0, MANY)
    cells, lmbda = cells_of(w, h), 0.03 * scale_of(w, h)
    cold = ecsq_clusters(cells, lmbda)
    warm = ecsq_clusters(cells, lmbda, ecsq_clusters(cells, 0.8 * lmbda))
    assert cost(cells, warm, lmbda) == pytest.approx(cost(cells, cold, lmbda), rel=5e-3)
    assert len(ecsq_clusters(cells, lmbda / 100, warm).counts) <= len(warm.counts)


@pytest.mark.parametrize("lmbda", [1e-9, 1.0, 1e9])
def test_one_value_is_one_level(lmbda):
    w, h = np.full(100, 0.25, np.float32), np.exp(np.linspace(-3, 3, 100)).astype(np.float32)
    for found in (ecsq_clusters(cells_of(w, h), lmbda), *ecsq_hull(cells_of(w, h), [lmbda])):
        assert (found.codebook.tolist(), found.counts.tolist(), found.loss) == ([0.25], [100], pytest.approx(0))


def test_few_values_have_no_loss_at_small_lambda():
    random = np.random.default_rng(0)
    w = random.choice(np.array([-1.0, 0.0, 0.5, 2.0], np.float32), 200)
    h = np.exp(random.standard_normal(200)).astype(np.float32)
    found = ecsq_clusters(cells_of(w, h), 1e-9)
    np.testing.assert_allclose(found.codebook, [-1, 0, 0.5, 2], atol=1e-12)
    assert found.loss == pytest.approx(0, abs=1e-9)
