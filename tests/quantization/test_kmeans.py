"""k-means against exhaustive search, a peer library and the laws of the optimum."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nbquant.quantization.histogram import EXACT_UP_TO
from nbquant.quantization.kmeans import KMeans

MANY = EXACT_UP_TO + 1001  # so many go by the histogram


def draw(n, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator, dtype=torch.float64)
    return weight.to(dtype), torch.randn(n, generator=generator, dtype=torch.float64).mul(2).exp().to(dtype)


def assignment(q):
    return q.tensors["weight"].assignment.long()


def best_of_all_intervals(weight, h, levels):
    """Least ½ mean h (w − c)² over all cuts of the sorted distinct weights, without zeros if half are, in float64."""
    n = len(weight)
    if 2 * (weight == 0).sum() >= n:
        weight, h = weight[weight != 0], h[weight != 0]
        if not len(weight):
            return 0.0
    w, index = np.unique(weight.double().numpy(), return_inverse=True)
    s0, s1, s2 = (np.bincount(index, h.double().numpy() * weight.double().numpy() ** p) for p in range(3))

    def loss(a, b):
        m0, m1, m2 = s0[a:b].sum(), s1[a:b].sum(), s2[a:b].sum()
        return m2 - m1**2 / m0 if m0 > 0 else 0.0

    cuts = ([0, *cut, len(w)] for cut in combinations(range(1, len(w)), min(levels, len(w)) - 1))
    return 0.5 * min(sum(loss(a, b) for a, b in pairwise(edges)) for edges in cuts) / n


some = st.lists(
    st.tuples(st.integers(-40, 40).map(lambda i: i / 8), st.sampled_from([0.0, 0.5, 1.0, 7.0])), min_size=1, max_size=9
)


@given(some, st.integers(1, 9))
@example([(0.0, 0.5), (0.125, 0.5)], 1)  # half are zero: they are left out
@example([(0.0, 0.0), (0.125, 0.5)], 1)
@settings(max_examples=100)
def test_no_partition_is_better(pairs, levels):
    weight, h = torch.tensor(pairs, dtype=torch.float64).T.contiguous()
    assume(bool(h.any()))
    q = KMeans(levels).fit(weight, h)
    assert q.distortion == pytest.approx(best_of_all_intervals(weight, h, levels), abs=1e-12)
    plain = KMeans(levels, weighted=False).fit(weight, h)
    of_plain = 0.5 * ((weight - plain.dequantize()["weight"]) ** 2).mean()
    assert float(of_plain) == pytest.approx(best_of_all_intervals(weight, torch.ones_like(h), levels), abs=1e-12)


@pytest.mark.parametrize("n", [3000, MANY])
@pytest.mark.parametrize("levels", [2, 5, 16])
def test_never_worse_than_a_peer(n, levels):
    weight, h = draw(n)
    from sklearn.cluster import KMeans as PeerKMeans  # takes seconds to import

    peer = PeerKMeans(levels, n_init=2, random_state=0).fit(weight[:, None].numpy(), sample_weight=h.numpy())
    assert KMeans(levels).fit(weight, h).distortion <= 0.5 * peer.inertia_ / n * (1 + 1e-6)


@pytest.mark.parametrize("n", [500, MANY])
@pytest.mark.parametrize("levels", [1, 3, 32, 200])
@pytest.mark.parametrize("weighted", [True, False])
def test_centres_are_the_means_of_their_members(n, levels, weighted):
    weight, h = draw(n)
    q = KMeans(levels, weighted=weighted).fit(weight, h)
    mass = h.double() if weighted else torch.ones(n, dtype=torch.float64)
    moment = torch.zeros(q.levels, dtype=torch.float64).index_add_(0, assignment(q), mass * weight.double())
    total = torch.zeros(q.levels, dtype=torch.float64).index_add_(0, assignment(q), mass)
    torch.testing.assert_close(q.codebook.double(), moment / total, rtol=2e-7, atol=2e-7)
    assert torch.equal(q.counts, torch.bincount(assignment(q)))
    assert int(q.counts.min()) > 0
    assert bool((q.codebook.diff() > 0).all())


@pytest.mark.parametrize("n", [100, 2 * EXACT_UP_TO])
def test_enough_levels_cost_nothing(n):
    values = torch.tensor([-2.0, 0.0, 1.0, 1.0005, 1.001, 7.0])  # three of them in one bin
    weight = values[torch.arange(n) % len(values)]
    for levels in (6, 7, 100):
        q = KMeans(levels).fit(weight, torch.rand(n, generator=torch.Generator().manual_seed(0)))
        assert q.distortion == 0
        assert q.codebook.tolist() == values.tolist()
        assert torch.equal(q.dequantize()["weight"], weight)


def test_narrow_weights_are_finer_than_bins():
    weight = 1 + 0.01 * draw(2 * EXACT_UP_TO)[0]
    q = KMeans(16).fit(weight)
    from sklearn.cluster import KMeans as PeerKMeans

    peer = PeerKMeans(16, n_init=1, random_state=0).fit(weight[:, None].numpy())
    assert q.distortion <= 0.5 * peer.inertia_ / len(weight) * (1 + 1e-5)


def test_one_level_is_the_weighted_mean():
    q = KMeans(1).fit(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 2.0, 1.0]))
    assert q.codebook.tolist() == [2.75]
    assert q.distortion == pytest.approx(0.5 * (1.75**2 + 2 * 0.75**2 + 3.25**2) / 3)
    assert (q.counts.tolist(), q.codeword_length.tolist()) == ([3], [1])


@pytest.mark.parametrize("n", [300, MANY])
def test_more_levels_never_cost_more(n):
    weight, h = draw(n, seed=4)
    distortions = [KMeans(k).fit(weight, h).distortion for k in range(1, 24)]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(distortions))


@pytest.mark.parametrize("n", [300, MANY])
def test_order_does_not_matter(n):
    weight, h = draw(n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    a, b = KMeans(9).fit(weight, h), KMeans(9).fit(weight[order], h[order])
    torch.testing.assert_close(a.codebook, b.codebook, rtol=1e-6, atol=0)
    assert torch.equal(assignment(a)[order], assignment(b))


@pytest.mark.parametrize("n", [300, MANY])
@pytest.mark.parametrize("scale", [2.0**-20, 4.0, -1.0])
def test_weights_scale_the_codebook_and_sensitivities_only_the_distortion(n, scale):
    weight, h = draw(n)
    q, by_weight = KMeans(9).fit(weight, h), KMeans(9).fit(scale * weight, h)
    codebook = by_weight.codebook if scale > 0 else by_weight.codebook.flip(0)
    torch.testing.assert_close(codebook, scale * q.codebook, rtol=1e-5, atol=0)
    assert by_weight.distortion == pytest.approx(scale**2 * q.distortion, rel=1e-5)
    by_sensitivity = KMeans(9).fit(weight, abs(scale) * h)
    torch.testing.assert_close(by_sensitivity.codebook, q.codebook, rtol=1e-6, atol=0)
    assert by_sensitivity.distortion == pytest.approx(abs(scale) * q.distortion, rel=1e-6)


@pytest.mark.parametrize("n", [300, MANY])
def test_half_of_the_sensitivities_zero(n):
    weight, h = draw(n)
    h[weight > 0] = 0
    q = KMeans(12).fit(weight, h)
    assert bool(q.codebook.isfinite().all())
    assert np.isfinite(q.distortion)
    assert q.distortion <= KMeans(11).fit(weight[weight <= 0], h[weight <= 0]).distortion  # one for all the rest


def test_vanishing_sensitivities_leave_centres_among_their_members():
    weight, h = draw(MANY)
    h = torch.where(weight > 0.5, 1e-10 * h, h)
    h[weight < -2.5] = 1e6
    q = KMeans(24).fit(weight, h)
    members = [weight[assignment(q) == j] for j in range(q.levels)]
    assert all(m.min() <= c <= m.max() for c, m in zip(q.codebook, members, strict=True))


@pytest.mark.parametrize("n", [300, MANY])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_codebook_has_the_weights_dtype_and_distortion_is_of_what_is_stored(n, dtype):
    weight, h = draw(n, dtype=dtype)
    h = h.float()
    q = KMeans(16).fit(weight, h)
    assert q.codebook.dtype == dtype
    assert q.dequantize()["weight"].dtype == dtype
    error = weight.double() - q.dequantize()["weight"].double()
    assert q.distortion == pytest.approx(float(0.5 * (h.double() * error**2).mean()), rel=1e-9)
    assert q.ledger["codebook"] == q.levels * torch.finfo(dtype).bits
    assert q.distortion == pytest.approx(KMeans(16).fit(weight.float(), h).distortion, rel=0.05)


def test_values_that_rounding_makes_one_are_one():
    weight = torch.tensor([1.0, 1.0078125, 1.015625, 3.0], dtype=torch.bfloat16).repeat(40)
    h = torch.rand(160, generator=torch.Generator().manual_seed(0))
    q = KMeans(4).fit(weight, h)
    assert len(q.codebook.unique()) == len(q.codebook) == len(q.counts) == len(q.codeword_length)


def test_shape_is_kept():
    weight, h = draw(24)
    q = KMeans(3).fit(weight.reshape(2, 3, 4), h.reshape(2, 3, 4))
    assert q.dequantize()["weight"].shape == (2, 3, 4)
    assert KMeans(3).fit(weight[0]).codebook.tolist() == [weight[0]]


@pytest.mark.parametrize("levels", [0, -1, 4097])
def test_levels_out_of_range(levels):
    with pytest.raises(ValueError, match=f"levels must be from 1 to 4096, but got {levels}"):
        KMeans(levels)


@pytest.mark.parametrize("levels", [2.0, True, "3", None])
def test_levels_of_another_type(levels):
    with pytest.raises(TypeError, match="levels must be a whole number"):
        KMeans(levels)


def test_options_of_another_kind():
    with pytest.raises(TypeError, match="weighted must be True or False, but got 1"):
        KMeans(3, weighted=1)
    with pytest.raises(TypeError, match="per_layer must be True or False, but got None"):
        KMeans(3, per_layer=None)
    with pytest.raises(ValueError, match="coding must be one of huffman, fixed, arithmetic, context, but got 'ans'"):
        KMeans(3, coding="ans")


@pytest.mark.parametrize("n", [300, 2 * EXACT_UP_TO])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_pinned_zero_stays_exactly_zero(n, weighted):
    weight, h = draw(n)
    for levels in (1, 2, 9):
        q = KMeans(levels, weighted=weighted, pinned_zero=True).fit(weight + 0.05, h)
        assert q.levels == levels
        assert (q.codebook == 0).sum() == 1
        free = KMeans(levels, weighted=weighted).fit(weight + 0.05, h)
        assert not (free.codebook == 0).any()
        assert free.distortion <= q.distortion * 1.001 or not weighted
