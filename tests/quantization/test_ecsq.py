"""ECSQ against brute force and against the paper's algorithm in plain numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbquant.quantization.clusters import Clusters
from nbquant.quantization.ecsq import ECSQ
from nbquant.quantization.histogram import EXACT_UP_TO, Cells, Histogram
from nbquant.quantization.optimal_ecsq import ecsq_clusters, ideal_length
from nbquant.quantization.uniform import Uniform

MANY = EXACT_UP_TO + 1001


def draw(n, seed=0, tail=2.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator, dtype=torch.float64) * 0.1
    return weight.to(dtype), torch.randn(n, generator=generator, dtype=torch.float64).mul(tail).exp().to(dtype)


def parts(q):
    return (
        q.codebook.double().numpy(),
        ideal_length(q.counts.numpy()),
        q.tensors["weight"].assignment.numpy().astype(int),
    )


def cost(weight, h, codebook, length, found, lmbda):
    w, h = weight.double().numpy(), h.double().numpy()
    return float(0.5 * (h * (w - codebook[found]) ** 2).mean() + lmbda * length[found].mean())


def lagrangian(q, weight, h, lmbda):
    return cost(weight, h, *parts(q), lmbda)


def entropy_of(found):
    counts = np.bincount(found)
    p = counts[counts > 0] / len(found)
    return -(p * np.log2(p)).sum()


def nearest_by_cost(w, h, codebook, length, lmbda):
    return (0.5 * h[:, None] * (w[:, None] - codebook) ** 2 + lmbda * length).argmin(axis=1)


def papers_algorithm(weight, h, lmbda, step, most=300):
    """Algorithm 1 of the paper, from uniform cells, every weight against every codeword."""
    w, h = weight.double().numpy(), h.double().numpy()
    _, found = np.unique(np.rint(w / step), return_inverse=True)
    least = np.inf
    for _ in range(most):
        counts, s0, s1 = (np.bincount(found, x) for x in (np.ones_like(w), h, h * w))
        used = counts > 0
        codebook, length = s1[used] / s0[used], -np.log2(counts[used] / len(w))
        now = 0.5 * (np.bincount(found, h * w * w)[used] - s1[used] ** 2 / s0[used]).sum() / len(w)
        now += lmbda * (counts[used] * length).sum() / len(w)
        if now > least * (1 - 1e-9):
            break
        least = now
        found = nearest_by_cost(w, h, codebook, length, lmbda)
    return least


@pytest.mark.parametrize("n", [2000, MANY])
@pytest.mark.parametrize("tail", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("share", [0.3, 0.03, 0.003])
def test_not_worse_than_the_papers_algorithm(n, tail, share):
    weight, h = draw(n, tail=tail)
    lmbda = share * 0.5 * float((h * weight**2).mean())
    step = np.sqrt(12 * lmbda / (np.log(2) * float(h.mean())))
    expected = min(papers_algorithm(weight, h, lmbda, scale * step) for scale in (0.5, 1.0, 2.0))
    within = 1.001 if n < EXACT_UP_TO else 1.003  # few passes over the weights follow the histogram's solution
    assert lagrangian(ECSQ(lmbda).fit(weight, h), weight, h, lmbda) <= expected * within


def test_heavy_tails_need_levels_that_no_uniform_start_has():
    weight, h = draw(MANY, tail=4.0)
    lmbda = 0.3 * 0.5 * float((h * weight**2).mean())
    step = np.sqrt(12 * lmbda / (np.log(2) * float(h.mean())))
    uniform = min(papers_algorithm(weight, h, lmbda, scale * step) for scale in (0.5, 1.0, 2.0))
    assert lagrangian(ECSQ(lmbda).fit(weight, h), weight, h, lmbda) < 0.95 * uniform


@pytest.mark.parametrize("n", [500, MANY])
@pytest.mark.parametrize("share", [0.3, 0.01])
def test_assignment_is_the_best_for_the_final_codebook(n, share):
    weight, h = draw(n)
    lmbda = share * 0.5 * float((h * weight**2).mean())
    q = ECSQ(lmbda).fit(weight, h)
    codebook, length, found = parts(q)
    best = nearest_by_cost(weight.double().numpy(), h.double().numpy(), codebook, length, lmbda)
    assert (best != found).mean() < 0.005
    assert cost(weight, h, codebook, length, found, lmbda) <= cost(weight, h, codebook, length, best, lmbda) * (
        1 + 1e-4
    )


@pytest.mark.parametrize("n", [500, MANY])
def test_centres_are_the_weighted_means_of_their_members(n):
    weight, h = draw(n)
    q = ECSQ(1e-4).fit(weight, h)
    codebook, _, found = parts(q)
    w, h = weight.double().numpy(), h.double().numpy()
    np.testing.assert_allclose(codebook, np.bincount(found, h * w) / np.bincount(found, h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("share", [0.3, 0.03, 0.003])
def test_not_worse_than_uniform_cells(share):
    weight, h = draw(MANY)
    lmbda = share * 0.5 * float((h * weight**2).mean())
    ours = lagrangian(ECSQ(lmbda).fit(weight, h), weight, h, lmbda)
    best_step = np.sqrt(12 * lmbda / (np.log(2) * float(h.mean())))
    for scale in (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8):
        assert ours <= lagrangian(Uniform(scale * best_step).fit(weight, h), weight, h, lmbda) * (1 + 1e-6)


def test_larger_lambda_takes_fewer_bits_and_more_loss():
    weight, h = draw(MANY)
    fits = [ECSQ(10.0**e).fit(weight, h) for e in np.arange(-6, -1, 0.5)]
    rates = [entropy_of(parts(q)[2]) for q in fits]
    # To the width of what the iteration's tolerance and its local optima leave open.
    assert all(b <= a + 0.01 for a, b in pairwise(rates))
    assert all(b.distortion >= a.distortion * 0.99 for a, b in pairwise(fits))
    assert rates[0] > 3
    assert rates[-1] < 1


@pytest.mark.parametrize("n", [500, MANY])
def test_unweighted_ignores_all_but_the_mean_of_h(n):
    weight, h = draw(n)
    plain = ECSQ(1e-4, weighted=False).fit(weight, h)
    constant = ECSQ(1e-4).fit(weight, torch.full_like(h, float(h.double().mean())))
    mean = torch.full_like(h, float(h.double().mean()))
    # Not the same histograms, hence perhaps not the same of many local optima, but as good a one.
    ours, theirs = (lagrangian(q, weight, mean, 1e-4) for q in (plain, constant))
    assert ours == pytest.approx(theirs, rel=2e-3)
    # Its distortion is still measured by h.
    error = weight.double() - plain.dequantize()["weight"].double()
    assert plain.distortion == pytest.approx(float(0.5 * (h.double() * error**2).mean()), rel=1e-9)
    weighted = ECSQ(1e-4).fit(weight, h)
    assert lagrangian(weighted, weight, h, 1e-4) < 0.97 * lagrangian(plain, weight, h, 1e-4)


@pytest.mark.parametrize("n", [500, MANY])
def test_outlier_does_not_cost_the_others_their_levels(n):
    weight, _ = draw(n)
    spoilt = weight.clone()
    spoilt[0] = 1000 * weight.abs().max()
    alone, beside = ECSQ(1e-5).fit(weight), ECSQ(1e-5).fit(spoilt)
    assert beside.distortion == pytest.approx(alone.distortion, rel=0.05)
    assert beside.rate == pytest.approx(alone.rate, rel=0.05)


@pytest.mark.parametrize("n", [500, MANY])
def test_half_of_the_sensitivities_zero(n):
    weight, h = draw(n)
    h[weight > 0] = 0
    q = ECSQ(1e-4).fit(weight, h)
    assert bool(q.codebook.isfinite().all())
    assert np.isfinite(q.distortion)
    # Weights that cost nothing all take the cheapest codeword.
    codebook, length, found = parts(q)
    assert (length[found[(h == 0).numpy()]] == length.min()).all()
    assert len(codebook) > 2


def test_constant_and_single_weights():
    for weight in (torch.full((50,), 0.25), torch.tensor([0.25]), torch.full((2 * EXACT_UP_TO,), 0.25)):
        q = ECSQ(0.01).fit(weight)
        assert (q.codebook.tolist(), q.distortion, q.levels) == ([0.25], 0.0, 1)


def test_very_large_lambda_leaves_one_level_at_the_mean():
    weight, h = draw(MANY)
    q = ECSQ(1e6).fit(weight, h)
    assert q.levels == 1
    assert float(q.codebook[0]) == pytest.approx(float((h.double() @ weight.double()) / h.double().sum()), rel=1e-5)


@given(st.integers(0, 2**16), st.integers(5, 60), st.floats(-5, -1))
@settings(max_examples=40)
def test_order_and_scale_do_not_matter(seed, n, exponent):
    weight, h = draw(n, seed, dtype=torch.float64)
    lmbda = 10.0**exponent
    q = ECSQ(lmbda).fit(weight, h)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(ECSQ(lmbda).fit(weight[order], h[order]).codebook, q.codebook)
    scaled = ECSQ(16 * lmbda).fit(4 * weight, h)  # powers of two: no rounding
    assert torch.allclose(scaled.codebook, 4 * q.codebook)
    assert scaled.distortion == pytest.approx(16 * q.distortion)
    assert ECSQ(8 * lmbda).fit(weight, 8 * h).codebook.tolist() == pytest.approx(q.codebook.tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_follows(dtype):
    weight, h = draw(MANY, dtype=dtype)
    q = ECSQ(1e-3).fit(weight, h.float())
    assert q.codebook.dtype == dtype
    error = weight.double() - q.dequantize()["weight"].double()
    assert q.distortion == pytest.approx(float(0.5 * (h.double() * error**2).mean()), rel=1e-6)


def test_solution_on_cells_is_what_is_applied():
    weight, h = draw(2 * EXACT_UP_TO)
    q = ECSQ(1e-4).fit(weight, h)
    found = ECSQ(1e-4).clusters(Cells.of_histogram(Histogram.of(weight, h), True, True))
    assert abs(len(found.codebook) - q.levels) <= 4
    assert found.loss == pytest.approx(q.predicted_loss_increase, rel=0.02)
    assert found.threshold is None


def test_thresholds_where_one_h_is_all():
    weight, _ = draw(500)
    cells = Cells.of_histogram(Histogram.of(weight, torch.full_like(weight, 3.0)), True, False)
    found = ecsq_clusters(cells, 1e-3)
    length = ideal_length(found.counts)
    for j, t in enumerate(found.threshold):
        left, right = (0.5 * 3 * (t - found.codebook[i]) ** 2 + 1e-3 * length[i] for i in (j, j + 1))
        assert left == pytest.approx(right, rel=0.01)
    # Between neighbouring centres each side has its members.
    index = np.searchsorted(found.threshold, weight.double().numpy())
    assert np.abs(np.bincount(index, minlength=len(found.counts)) - found.counts).max() <= 2


def test_neighbour_helps_but_is_not_needed():
    weight, h = draw(MANY)
    cells = Cells.of_histogram(Histogram.of(weight, h), True, True)
    near = ecsq_clusters(cells, 5e-5)
    warm, cold = ecsq_clusters(cells, 1e-4, near), ecsq_clusters(cells, 1e-4)

    def of(c: Clusters) -> float:
        return c.loss / len(weight) + 1e-4 * float((c.counts / len(weight)) @ ideal_length(c.counts))

    assert of(warm) == pytest.approx(of(cold), rel=0.005)


@pytest.mark.parametrize("lmbda", [0, -1e-3, float("nan"), float("inf")])
def test_lambda_must_be_positive(lmbda):
    with pytest.raises(ValueError, match=r"lmbda must be finite and above 0 \[loss/bit\], but got"):
        ECSQ(lmbda)


def test_lambda_of_another_type():
    with pytest.raises(TypeError, match="lmbda must be a number"):
        ECSQ("1e-3")
