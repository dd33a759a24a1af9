"""The bound against sources of which R(D) is known, a plain iteration on the weights themselves, and all methods."""

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbquant.analysis.bounds import ENTROPY_CODED_SCALAR_GAP, rate_distortion_bound, shannon_lower_bound
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.kernels.cpu import blahut
from nbquant.progress import Cancelled
from nbquant.quantization.histogram import Histogram
from nbquant.quantization.methods import family
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor

N = 100_000
SHARES = (np.arange(N) + 0.5) / N


def histogram(w, h=None):
    h = np.ones(len(w)) if h is None else np.broadcast_to(h, len(w)).copy()
    return Histogram.of(torch.tensor(w), torch.tensor(h))


def gaussian(scale=1.0):
    return scale * math.sqrt(2) * torch.erfinv(torch.tensor(2 * SHARES - 1)).numpy()


def laplacian():
    return -np.sign(SHARES - 0.5) * np.log1p(-2 * np.abs(SHARES - 0.5))


def plain(w, h, share, lmbda, grid, iterations=3000):
    """Blahut's iteration as it is written, on the values themselves: D, R [bit] and Blahut's own lower bound."""
    t = math.log(2) / lmbda
    loss = 0.5 * h[:, None] * (w[:, None] - grid) ** 2
    kernel, q = np.exp(-t * loss), np.full(len(grid), 1 / len(grid))
    for _ in range(iterations):
        q = q * ((share / (kernel @ q)) @ kernel)
    z = kernel @ q
    distortion = float((share / z) @ ((kernel * loss) @ q))
    value = -float(share @ np.log2(z))
    return distortion, value - distortion / lmbda, value - distortion / lmbda - math.log2(((share / z) @ kernel).max())


@pytest.mark.parametrize("h", [1.0, 1.5, 2.3])
def test_gaussian(h):
    distortions = h * np.array([0.3, 0.1, 0.03])
    found = rate_distortion_bound(histogram(gaussian(), h), distortions=distortions, progress=False)
    np.testing.assert_allclose(found.distortion, distortions, rtol=0.01)
    known = 0.5 * np.log2(h / (2 * found.distortion))
    assert (found.lower <= known).all()
    np.testing.assert_allclose(found.rate, known, atol=0.006)
    assert (found.gap <= 0.005).all()
    assert (found.rate - found.lower <= 0.035).all()
    np.testing.assert_allclose(found.rate, found.lower + found.gap + found.binning)
    np.testing.assert_allclose(found.predicted_loss, N * found.distortion)


@pytest.mark.parametrize("w", [laplacian(), 2 * SHARES - 1], ids=["laplacian", "uniform"])
@pytest.mark.parametrize("lmbda", [0.1, 0.02])
def test_laplacian_and_uniform_against_the_plain_iteration(w, lmbda):
    sample = w.reshape(500, -1).mean(axis=1)
    found = rate_distortion_bound(histogram(np.repeat(sample, 40)), lmbdas=[lmbda], progress=False)
    distortion, rate, lower = plain(sample, np.ones(500), np.full(500, 1 / 500), lmbda, np.linspace(w[0], w[-1], 301))
    assert rate - lower < 0.01
    # Their Lagrangians: the points may differ along the curve.
    assert found.rate[0] + found.distortion[0] / lmbda == pytest.approx(rate + distortion / lmbda, abs=0.01)
    assert found.lower[0] + found.distortion[0] / lmbda <= rate + distortion / lmbda
    assert found.rate[0] - found.lower[0] < 0.03


def test_laplacian_is_above_shannons_bound_and_nears_it():
    """R(D) of a Laplacian under squared error keeps above: the bound is tight at no D, but nearly so at a small one."""
    source = histogram(laplacian())
    found = rate_distortion_bound(source, lmbdas=[1.0, 0.05], progress=False)
    known = np.log2(2 * math.e) - 0.5 * np.log2(2 * math.pi * math.e * 2 * found.distortion)
    np.testing.assert_allclose(shannon_lower_bound(source, found.distortion), known, atol=0.01)
    assert (found.rate > known).all()
    assert found.rate[1] - known[1] < 0.01 < 0.02 < found.rate[0] - known[0]


def test_two_points_at_small_distortion():
    """Errors are rare and whole: 1 − H_b(D/D_1), D_1 = ½h·2²."""
    found = rate_distortion_bound(histogram(np.repeat([-1.0, 1.0], 1000), 2.0), distortions=[0.04], progress=False)
    share = found.distortion[0] / 4
    hamming = 1 + share * math.log2(share) + (1 - share) * math.log2(1 - share)
    assert found.lower[0] <= hamming + 1e-6
    assert found.rate[0] == pytest.approx(hamming, abs=0.01)
    assert found.lower[0] >= hamming - 0.02


@given(st.integers(0, 2**32 - 1), st.floats(-2.5, 0), st.integers(2, 12))
@settings(max_examples=15, deadline=None)
def test_discrete_values_of_any_weight(seed, log_lmbda, values):
    """Exact down to the half-octave of h, whatever the members of a bin are."""
    random = np.random.default_rng(seed)
    w, h = random.normal(0, 1, values), np.exp(random.normal(0, 1, values))
    count = random.integers(1, 50, values)
    lmbda = 10**log_lmbda
    found = rate_distortion_bound(histogram(np.repeat(w, count), np.repeat(h, count)), lmbdas=[lmbda], progress=False)
    grid = np.unique(np.concatenate([np.linspace(w.min(), w.max(), 301), w]))
    distortion, rate, lower = plain(w, h, count / count.sum(), lmbda, grid)
    reached = found.rate[0] + found.distortion[0] / lmbda
    assert reached >= lower + distortion / lmbda - 1e-3, "no test channel beats the bound"
    assert found.lower[0] <= max(rate + (distortion - found.distortion[0]) / lmbda, 0) + 1e-6


@given(st.integers(0, 2**32 - 1), st.floats(-3, -0.5))
@settings(max_examples=15, deadline=None)
def test_lower_bound_holds_whatever_the_weights_in_a_bin_are(seed, log_lmbda):
    """A few values in each of a few wide bins, h rising or falling with w within them, as the sums cannot tell."""
    random = np.random.default_rng(seed)
    low = np.repeat(random.choice(np.concatenate([1 + np.arange(0, 32, 4) / 32, -1 - np.arange(0, 32, 4) / 32]), 6), 3)
    w = low * (1 + random.choice([0.001, 0.015, 0.019], low.size))
    h = 2.0 ** random.integers(-2, 3, low.size) * random.choice([1.0, 1.2, 1.45], low.size)
    share = random.integers(1, 9, low.size)
    count = share * 500
    lmbda = 10**log_lmbda
    found = rate_distortion_bound(histogram(np.repeat(w, count), np.repeat(h, count)), lmbdas=[lmbda], progress=False)
    grid = np.unique(np.concatenate([np.linspace(w.min(), w.max(), 301), w]))
    distortion, rate, _ = plain(w, h, share / share.sum(), lmbda, grid, 1000)
    assert found.lower[0] <= max(rate + (distortion - found.distortion[0]) / lmbda, 0) + 1e-6
    assert found.rate[0] >= found.lower[0]


def test_both_sides_share_the_distortion_as_water_does():
    """Gaussian, h of two kinds: at equal slope each has ½log2(hσ²/2D), D of its own where that is positive."""
    w, h = np.concatenate([gaussian(), gaussian()]), np.repeat([1.0, 16.0], N)
    lmbdas = np.array([0.05, 0.3, 2.0])
    found = rate_distortion_bound(histogram(w, h), lmbdas=lmbdas, side="both", progress=False)
    level = lmbdas / (2 * math.log(2))
    distortion = 0.5 * sum(np.minimum(level, 0.5 * k) for k in (1, 16))
    rate = 0.5 * sum(np.maximum(0.5 * np.log2(0.5 * k / level), 0) for k in (1, 16))
    np.testing.assert_allclose(found.rate + found.distortion / lmbdas, rate + distortion / lmbdas, atol=0.01)
    np.testing.assert_allclose(found.distortion, distortion, rtol=0.03)
    assert (found.lower <= rate + (distortion - found.distortion) / lmbdas).all()
    encoder = rate_distortion_bound(histogram(w, h), lmbdas=lmbdas, progress=False)
    cost, without = (b.rate + b.distortion / lmbdas for b in (found, encoder))
    assert (cost <= without + 0.006).all(), "what the decoder is told costs nothing"


def selection(random, n, sparse):
    w, h = random.laplace(0, 0.03, n), np.exp(2 * random.standard_normal(n))
    w[random.random(n) < sparse] = 0
    return Selection((SelectedTensor("w", "layer", torch.tensor(w).float(), torch.tensor(h).float()),))


MANY = 30_000 if os.environ.get("NBQUANT_FUZZ") else 3_000  # make fuzz takes the larger


@pytest.mark.parametrize(("n", "sparse", "offset"), [(MANY, 0.0, 0.0), (MANY, 0.8, 0.0), (3_000, 0.2, 0.3)])
def test_no_scalar_method_is_below(n, sparse, offset):
    statistics = Statistics.of(selection(np.random.default_rng(n), n, sparse)).damped(offset)
    lmbdas = np.array([5e-3, 5e-4, 3e-5])
    found = rate_distortion_bound(statistics, lmbdas=lmbdas, progress=False)
    both = rate_distortion_bound(statistics, lmbdas=lmbdas, side="both", progress=False)
    value = found.lower + found.distortion / found.lmbda
    assert (both.lower <= found.rate + 1e-3).all()
    for method in ("kmeans", "uniform", "ecsq"):
        for weighted in (False, True):
            for p in curve(family(method, weighted=weighted), statistics)[::5]:
                counts = np.concatenate([c.counts for c in p.clusters.values()])
                counts = counts[counts > 0]
                entropy = statistics.position_ledger.total - counts @ np.log2(counts / counts.sum())
                for rate in (p.rate, entropy / p.weights):
                    assert (rate >= (value - p.distortion / lmbdas)[found.lower > 0]).all(), (p, rate)


def test_constants_and_scaling():
    assert pytest.approx(0.2546, abs=1e-4) == ENTROPY_CODED_SCALAR_GAP
    w, h = gaussian(), np.where(SHARES * 7 % 1 < 0.5, 1.0, 4.0)
    a = rate_distortion_bound(histogram(w, h), lmbdas=[0.1], progress=False)
    b = rate_distortion_bound(histogram(4 * w, h / 2), lmbdas=[0.8], progress=False)
    np.testing.assert_allclose([b.rate, b.lower], [a.rate, a.lower], atol=2e-3)
    np.testing.assert_allclose(b.distortion, 8 * a.distortion, rtol=5e-3)


def test_shannons_bound_counts_zeros_out():
    w = np.concatenate([gaussian(), np.zeros(N)])
    (found,) = shannon_lower_bound(histogram(w), [0.01])
    assert found == pytest.approx(0.5 * 0.5 * math.log2(1 / 0.04), abs=0.01)
    assert shannon_lower_bound(histogram(np.zeros(9)), [0.1]).tolist() == [0]


def test_curve_by_default_falls_and_progress_cancels():
    source = histogram(laplacian(), np.where(SHARES * 7 % 1 < 0.5, 1.0, 9.0))
    found = rate_distortion_bound(source, gap=0.05, progress=False)
    assert len(found.rate) == 12
    assert (np.diff(found.rate) > 0).all()
    assert (np.diff(found.distortion) < 0).all()

    def stop(done, total):
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        rate_distortion_bound(source, gap=0.05, progress=stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmbdas": [1.0], "distortions": [1.0]}, "leave one out"),
        ({"lmbdas": [-1.0]}, r"lmbdas must be positive, but the least is -1"),
        ({"distortions": [7.0]}, r"below 0\.5, which needs no bits at all, but got 7"),
        ({"side": "decoder"}, r'"encoder" or "both", but got \'decoder\''),
        ({"gap": 0.0}, "gap must be positive"),
    ],
)
def test_errors_say_what_was_required(options, message):
    with pytest.raises(ValueError, match=message):
        rate_distortion_bound(histogram(gaussian()), progress=False, **options)


def test_weights_that_are_all_the_same_need_no_bits():
    with pytest.raises(ValueError, match="weights must differ"):
        rate_distortion_bound(histogram(np.full(9, 0.5)), progress=False)


@given(st.integers(0, 2**32 - 1), st.floats(-1, 2))
@example(1_885_341_326, 2.0)  # a kernel that ended too soon
@settings(max_examples=60, deadline=None)
def test_ceiling_is_one(seed, log_t):
    """Members of each cell known: what is bounded is computed, at many more c."""
    random = np.random.default_rng(seed)
    cells, members, t = 6, 5, 10**log_t
    h = np.sort(random.uniform(0.5, 2, (cells, 2)), axis=1)
    center, width = np.sort(random.normal(0, 2, cells)), 0.5 * random.random() / math.sqrt(t)
    position = center[:, None] + width * random.uniform(-0.1, 0.1, (cells, 2))
    w = center[:, None] + width * random.uniform(-1, 1, (cells, members))
    end, count = random.integers(0, 2, (cells, members)), random.integers(1, 5, (cells, members)) / 100
    # Σh(w − W) over both ends is zero: the last member's w sees to it.
    per = np.take_along_axis(h, end, 1)
    own = np.take_along_axis(position, end, 1)
    w[:, -1] -= ((per * count * (w - own)).sum(axis=1)) / (per * count)[:, -1]
    mu = random.uniform(0.5, 2, (cells, 2))
    share = np.stack([(count * (end == i)).sum(axis=1) for i in (0, 1)], axis=1)
    moment = np.stack([(count * per * (w - own) * (end == i)).sum(axis=1) for i in (0, 1)], axis=1)
    within = (count * per * (w - own) ** 2).sum(axis=1)
    node = np.unique(np.concatenate([np.linspace(w.min() - 1, w.max() + 1, random.integers(3, 200)), center]))
    reach = np.abs(w[:, :, None] - position[:, None]).max(axis=(1, 2))
    found = blahut.ceiling(
        node, mu, t * h, share, position, np.zeros((cells, 2)), t * within, t * np.abs(moment).max(axis=1), reach
    )
    c = np.linspace(node[0], node[-1], 5001)
    exponent = (own[..., None] - c) ** 2 + 2 * (w - own)[..., None] * (own[..., None] - c)
    weight = np.take_along_axis(mu, end, 1) * count
    exact = (weight[..., None] * np.exp(-0.5 * t * per[..., None] * exponent)).sum(axis=(0, 1))
    interval = np.clip(np.searchsorted(node, c, side="right") - 1, 0, len(node) - 2)
    assert (exact <= found[interval] * (1 + 1e-9) + 1e-15).all()


@pytest.mark.parametrize("precision", [0.3, 0.999, 1.001, 50.0])
def test_ceiling_holds_midway_between_nodes(precision):
    node, none = np.arange(-3.0, 4.0), np.zeros((1, 2))
    half = np.full((1, 2), 0.5)
    found = blahut.ceiling(
        node, 2 * half, 2 * precision * half, half, half, none, none[0, :1], none[0, :1], none[0, :1]
    )
    assert 1 <= found.max() < 1.1
