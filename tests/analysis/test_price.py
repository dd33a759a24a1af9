"""What estimates of the sensitivity cost, against quantities computed by hand."""

import numpy as np
import pytest
import torch

from nbquant.analysis.price import PLAIN, REFERENCE, price, spearman
from nbquant.progress import Cancelled
from nbquant.quantization.kmeans import KMeans
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor

N = 4000


def reference(n=N):
    random = np.random.default_rng(5)
    tensors = []
    for name in ("a.weight", "b.weight"):
        w = torch.tensor(random.laplace(0, 0.05, n)).float()
        h = torch.tensor(np.exp(2 * random.standard_normal(n))).float()
        tensors.append(SelectedTensor(name, name[0], w, h))
    return Selection(tuple(tensors))


def estimate(selection, change):
    return {t.name: change(t.sensitivity) for t in selection}


@pytest.mark.parametrize("method", ["kmeans", "uniform", "ecsq"])
def test_the_exact_h_costs_nothing_and_scale_does_not_matter(method):
    exact = reference()
    found = price(
        exact,
        {"same": estimate(exact, lambda h: h), "thrice": estimate(exact, lambda h: 3 * h)},
        method=method,
        rates=(1.5, 2.0, 2.5, 3.0),
        progress=False,
    )
    summary = found.summary.set_index("sensitivity")
    assert summary.index.tolist() == [REFERENCE, "same", "thrice", PLAIN]
    assert summary["bits_lost"][REFERENCE] == summary["bits_lost"]["same"] == 0
    assert summary["bits_lost"]["thrice"] == pytest.approx(0, abs=0.02)
    assert summary["rank_correlation"][:3].tolist() == pytest.approx([1, 1, 1])
    assert np.isnan(summary["rank_correlation"][PLAIN])
    if method == "ecsq":  # the others' cells do not know h
        assert summary["bits_lost"][PLAIN] > 0.02


def test_worse_estimates_cost_more():
    exact, random = reference(), torch.Generator().manual_seed(1)
    noisy = {
        f"{s}": estimate(exact, lambda h, s=s: h * torch.exp(s * torch.randn(h.shape, generator=random)))
        for s in (0.3, 0.8, 1.5)
    }
    summary = price(exact, noisy, rates=np.linspace(0.8, 3, 7), progress=False).summary.set_index("sensitivity")
    lost, ranks = summary["bits_lost"][["0.3", "0.8", "1.5"]], summary["rank_correlation"][["0.3", "0.8", "1.5"]]
    assert (np.diff(lost) > 0.01).all()
    assert (np.diff(ranks) < 0).all()
    assert (summary["most_lost"] >= summary["bits_lost"]).all()
    assert summary["bits_lost"][REFERENCE] == 0


def test_distortion_is_that_under_the_exact_h():
    exact = reference(500)
    found = price(exact, {"plain": None}, method="kmeans", rates=(1.0, 2.0), progress=False).points
    assert found["sensitivity"].unique().tolist() == [REFERENCE, "plain"], "h = 1 is not added where it is there"
    own = found[found["sensitivity"] == REFERENCE]
    np.testing.assert_allclose(own["distortion"], own["own_distortion"], rtol=1e-6)
    row = found[found["sensitivity"] == "plain"].iloc[0]
    plain = Selection(tuple(SelectedTensor(t.name, t.layer, t.weight) for t in exact))
    made = KMeans(int(row["parameter"])).fit(plain)
    loss = sum(0.5 * float((t.sensitivity * (made.dequantize()[t.name] - t.weight) ** 2).sum()) for t in exact)
    assert row["distortion"] == pytest.approx(loss / len(exact), rel=1e-3)


def test_ranks_of_ties_are_their_mean():
    a, b = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([10.0, 10.0, 30.0, 40.0])
    ranks = np.array([[1, 2.5, 2.5, 4], [1.5, 1.5, 3, 4]])
    assert spearman(a, b) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, a**3) == pytest.approx(1)
    assert np.isnan(spearman(a, torch.ones(4)))


def test_what_does_not_fit_is_refused():
    exact = reference(100)
    bare = Selection(tuple(SelectedTensor(t.name, t.layer, t.weight) for t in exact))
    with pytest.raises(ValueError, match="the reference must have sensitivities"):
        price(bare, {})
    with pytest.raises(ValueError, match=r"lacks 'b\.weight'"):
        price(exact, {"half": {"a.weight": exact.tensors[0].sensitivity}})
    with pytest.raises(ValueError, match="at least two rates"):
        price(exact, {}, rates=(1.0,))
    with pytest.raises(ValueError, match="zero"):
        price(exact, {"nil": estimate(exact, torch.zeros_like)})


def test_progress_counts_and_cancels():
    def stop(done, total):
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        price(reference(100), {}, rates=(1.0, 2.0, 3.0), progress=stop)
