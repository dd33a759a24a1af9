"""k-means on histograms against the optimum over the weights themselves."""

import numpy as np
import pytest
import torch

from nbquant.kernels.cpu import kmeans as kernels
from nbquant.quantization import optimal_kmeans
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.optimal_kmeans import kmeans_clusters


def draw(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator).sign() * torch.empty(n).exponential_(1, generator=generator)
    return 0.02 * weight, torch.randn(n, generator=generator).mul(2).exp()


def cells_of(weight, h, weighted=True):
    return Cells.of_histogram(Histogram.of(weight, h), weighted, False)


def optimum(weight, h, levels):
    """Least ½Σh(w − c)² over all intervals of the sorted weights."""
    w, order = weight.double().sort()
    mass = h.double()[order]
    prefix = torch.stack([mass, mass * w, mass * w * w], dim=1).cumsum(0).numpy()
    return 0.5 * kernels.kmeans_table(np.vstack([np.zeros(3), prefix]), levels)[0]


@pytest.mark.parametrize("n", [300, 5000])
def test_few_weights_give_the_optimum(n):
    weight, h = draw(n)
    best = optimum(weight, h, 40)
    for k, clusters in zip(range(1, 41), kmeans_clusters(cells_of(weight, h), range(1, 41)), strict=True):
        assert clusters.loss == pytest.approx(best[k - 1], rel=1e-9 if n < optimal_kmeans.MOST_CANDIDATES else 2e-4)


def test_many_weights_give_nearly_the_optimum():
    weight, h = draw(60_000)
    best = optimum(weight, h, 256)
    for k, within in ((2, 1.0002), (32, 1.0002), (256, 1.002)):
        (clusters,) = kmeans_clusters(cells_of(weight, h), [k])
        # The loss that the clusters say is that of the bins; that of the weights is found by going through them.
        c = torch.from_numpy(clusters.codebook)
        nearest = torch.bucketize(weight.double(), (c[1:] + c[:-1]) / 2)
        assert float(0.5 * (h * (weight - c[nearest]) ** 2).sum()) <= within * best[k - 1]
        assert clusters.loss == pytest.approx(best[k - 1], rel=2e-3)


def test_too_many_bins_are_thinned_out_and_polished(monkeypatch):
    weight, h = draw(6000)
    cells = cells_of(weight, h)
    best = optimum(weight, h, 32)[-1]
    assert len(cells.position) > optimal_kmeans.MOST_CANDIDATES
    monkeypatch.setattr(optimal_kmeans, "MOST_CANDIDATES", 400)
    assert kmeans_clusters(cells, [32])[0].loss <= best * 1.001
    monkeypatch.setattr(optimal_kmeans, "LLOYD_ROUNDS", 0)
    assert kmeans_clusters(cells, [32])[0].loss > best * 1.001


def test_an_outlier_costs_no_resolution(monkeypatch):
    monkeypatch.setattr(optimal_kmeans, "MOST_CANDIDATES", 400)
    weight, h = draw(6000)
    weight[0] = 1000 * weight.abs().max()
    loss = kmeans_clusters(cells_of(weight, h), [33])[0].loss
    assert loss <= optimum(weight, h, 33)[-1] * 1.003


@pytest.mark.parametrize("weighted", [True, False])
def test_a_pinned_zero_is_exactly_zero_and_costs_little(weighted):
    weight, h = draw(3000)
    cells = cells_of(weight, h, weighted)
    free, pinned = kmeans_clusters(cells, range(1, 33)), kmeans_clusters(cells, range(1, 33), pinned_zero=True)
    for a, b in zip(free, pinned, strict=True):
        assert np.count_nonzero(b.codebook == 0) == 1
        assert (np.diff(b.codebook) > 0).all()
        if weighted:
            assert b.loss >= a.loss * (1 - 1e-9)
    # Never worse than free clusters with one level fewer, and zero beside them.
    assert all(b.loss <= a.loss * (1 + 1e-9) for a, b in zip(free, pinned[1:], strict=False) if weighted)


def test_more_levels_than_weights():
    clusters = kmeans_clusters(cells_of(torch.tensor([1.0, 2.0, 2.0]), torch.ones(3)), [1, 5])
    assert [c.codebook.tolist() for c in clusters] == [[pytest.approx(5 / 3)], [1.0, 2.0]]
    assert clusters[1].loss == 0
