"""Steps sum to the ledger and to the file, and stand where the definitions put them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.bounds import largest_distortion, rate_distortion_bound
from nbquant.analysis.ladder import ladder
from nbquant.analysis.scalar_limit import scalar_limit
from nbquant.analysis.statistics import Statistics
from nbquant.analysis.tabulated import curve
from nbquant.analysis.waterfilling import joint_loss
from nbquant.coding.entropy import entropy
from nbquant.coding.ledger import Ledger
from nbquant.quantization.integers import ideal_bits
from nbquant.quantization.methods import family
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor

GAP = 0.05


def selection(sparse=0.0, n=20_000):
    random = np.random.default_rng(3)
    tensors = []
    for i, scale in enumerate((0.05, 0.02)):
        w, h = random.laplace(0, scale, n), np.exp(random.standard_normal(n))
        w[random.random(n) < sparse] = 0
        tensors.append(SelectedTensor(f"{i}.weight", f"{i}", torch.tensor(w).float(), torch.tensor(h).float()))
    return Selection(tuple(tensors))


@pytest.mark.parametrize("method", ["kmeans", "uniform", "ecsq"])
@pytest.mark.parametrize(
    ("sparse", "per_layer", "coding"), [(0, False, "huffman"), (0.8, True, "huffman"), (0, True, "fixed")]
)
def test_steps_sum_to_the_ledger(method, sparse, per_layer, coding):
    chosen = selection(sparse)
    rate = 1.6 if sparse else 3.0
    quantized = nq.fit(chosen, method, rate=rate, per_layer=per_layer, coding=coding, progress=False)
    steps = ladder(quantized, chosen, gap=GAP, progress=False)
    assert steps["bits"].sum() == pytest.approx(quantized.ledger.total, rel=1e-12)
    assert steps["total"].iloc[-1] == pytest.approx(quantized.rate, rel=1e-12)
    np.testing.assert_allclose(np.cumsum(steps["change"]), steps["total"])
    change = dict(zip(steps["step"], steps["change"], strict=True))
    assert change["certified bound"] > 0
    assert change["reached R(D)"] > 0
    assert change["best scalar quantizer"] > 0
    assert change["this quantizer"] > -0.01
    assert change["whole-bit lengths"] > 0
    assert change["codebook"] == pytest.approx(32 * quantized.levels / len(quantized))
    assert ("positions" in change) == ("position tables" in change) == bool(sparse)
    assert all(steps["reason"])


def test_own_entropy_counts_the_zeros_of_a_pruned_selection():
    chosen = selection(0.8)
    quantized = nq.fit(chosen, "uniform", rate=1.6, progress=False)
    steps = ladder(quantized, chosen, gap=GAP, progress=False)
    zeros = sum(int((t.weight == 0).sum()) for t in chosen)
    counts = np.append(quantized.counts.numpy(), zeros)
    own = steps["total"][steps["step"] == "this quantizer"].item()
    assert own == pytest.approx(entropy(counts))
    share = np.array([zeros, len(quantized) - zeros]) / len(quantized)
    positions = steps["change"][steps["step"] == "positions"].item()
    expected = quantized.ledger["position_payload"] / len(quantized) + float(share @ np.log2(share))
    assert positions == pytest.approx(expected)


@pytest.mark.parametrize("sparse", [0.0, 0.8])
def test_a_point_has_the_ladder_of_what_is_fitted_there(sparse):
    chosen = selection(sparse)
    statistics = Statistics.of(chosen)
    point = curve(family("uniform"), statistics)[25]
    steps = ladder(point, statistics, gap=GAP, progress=False)
    assert steps["total"].iloc[-1] == pytest.approx(point.rate, rel=1e-12)
    fitted = ladder(point.quantizer.fit(chosen), chosen, gap=GAP, progress=False)
    assert steps["step"].tolist() == fitted["step"].tolist()
    np.testing.assert_allclose(steps["change"], fitted["change"], atol=0.01)


def test_with_the_model_it_ends_at_the_size_of_the_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50), nn.Linear(50, 10))
    chosen = nq.select(model, layers=["0", "2"])
    quantized = nq.fit(chosen, rate=4, progress=False)
    steps = ladder(quantized, chosen, model=model, gap=GAP, progress=False)
    nq.save(quantized, tmp_path / "a.nbq", model, progress=False)
    assert steps["bits"].sum() == pytest.approx(8 * (tmp_path / "a.nbq").stat().st_size, rel=1e-12)
    assert {"unquantized", "header", "container"} <= set(steps["step"])
    with pytest.raises(ValueError, match="an operating point has no file"):
        ladder(curve(family("ecsq"), Statistics.of(chosen))[9], chosen, model=model, gap=GAP, progress=False)


def test_a_code_below_entropy_gains():
    chosen = selection(0.8)
    quantized = nq.fit(chosen, "trellis", rate=1.6, per_layer=False, progress=False)
    other = replace(quantized, ledger=Ledger(payload=1000, codebook=64))
    steps = ladder(other, chosen, gap=GAP, progress=False)
    gain = steps[steps["step"] == "context code"]
    assert gain["change"].item() < 0
    assert "neighbouring weights" in gain["reason"].item()
    assert "trellis" in gain["reason"].item()
    assert steps["bits"].sum() == pytest.approx(1064)
    assert "positions" not in set(steps["step"]), "a context code has zero in its alphabet"


def test_what_has_no_ladder_is_refused():
    chosen = selection(n=500)
    quantized = nq.fit(chosen, "kmeans", levels=4, progress=False)
    tuned = quantized.with_values({"all": quantized.codebook * 1.01})
    with pytest.raises(ValueError, match="fine-tuned"):
        ladder(tuned, chosen, progress=False)
    with pytest.raises(ValueError, match="must be the 1,000 weights that were quantized, but has 500"):
        ladder(quantized, chosen.part(["0"]), progress=False)
    exact = nq.KMeans(2).fit(torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="is zero: nothing is lost"):
        ladder(exact, Selection((SelectedTensor("weight", "weight", torch.tensor([0.0, 1.0, 1.0])),)), progress=False)


def test_one_level_needs_nothing():
    chosen = selection(n=500)
    steps = ladder(nq.KMeans(1, weighted=False).fit(chosen), chosen, progress=False)
    assert steps["change"].iloc[:4].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("d", [0.1, 0.02, 0.004])
def test_best_scalar_quantizer_of_a_uniform_source(d):
    """Equal cells are optimal: above Gish and Pierce's line, below mixtures of two numbers of cells."""
    w = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    statistics = Statistics.of(Selection((SelectedTensor("w", "w", w, torch.ones_like(w)),)))
    found = scalar_limit(statistics, d, 2 * math.log(2) * d)
    levels = np.arange(1, 40)
    # k equal cells: D = ½·(1/3)/k², H = log2 k; mixtures of two neighbouring k are a bound from above
    mixed = np.interp(d, (1 / (6.0 * levels**2))[::-1], np.log2(levels)[::-1])
    assert 0.5 * math.log2(1 / (6 * d)) - 0.01 <= found <= mixed + 0.005


def test_best_scalar_quantizer_is_no_worse_than_any_curve():
    statistics = Statistics.of(selection(n=5000))
    for method in ("kmeans", "uniform", "ecsq"):
        for point in curve(family(method), statistics)[10:40:10]:
            (clusters,) = point.clusters.values()
            assert scalar_limit(statistics, point.distortion, point.distortion) <= entropy(clusters.counts) + 0.005


def test_layers_of_their_own_have_a_bound_of_their_own():
    """Two Gaussians that the decoder can tell apart: ½log2 of each variance over the one water level."""
    shares = (np.arange(20_000) + 0.5) / 20_000
    w = math.sqrt(2) * torch.erfinv(torch.tensor(2 * shares - 1))
    tensors = tuple(SelectedTensor(f"{i}.w", str(i), s * w, torch.ones_like(w)) for i, s in enumerate((1.0, 8.0)))
    statistics = Statistics.of(Selection(tensors))
    found = rate_distortion_bound(statistics, lmbdas=[0.1], per_layer=True, progress=False)
    level = 0.1 / (2 * math.log(2))
    rate = 0.25 * (math.log2(0.5 / level) + math.log2(32 / level))
    assert found.distortion[0] == pytest.approx(level, rel=0.02)
    assert found.rate[0] + found.distortion[0] / 0.1 == pytest.approx(rate + level / 0.1, abs=0.015)
    assert found.lower[0] <= rate + (level - found.distortion[0]) / 0.1
    whole = rate_distortion_bound(statistics, lmbdas=[0.1], progress=False)
    assert found.lower[0] + found.distortion[0] / 0.1 < whole.rate[0] + whole.distortion[0] / 0.1
    assert largest_distortion(statistics, per_layer=True) == pytest.approx(0.25 * 65, rel=1e-3)
    with pytest.raises(ValueError, match="got a histogram, which has no layers"):
        rate_distortion_bound(statistics.histogram, per_layer=True, progress=False)


def test_the_ladder_of_feedback_starts_at_the_water_filling_estimate(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    data = [(torch.randn(50, 20), torch.arange(50) % 4) for _ in range(4)]
    selection = nq.select(model, calibration=nq.calibrate(model, data, progress=False))
    quantized = nq.Feedback(1e-5).fit(selection)
    steps = ladder(quantized, selection, progress=False).set_index("step")
    assert list(steps.index[:3]) == ["water-filling estimate", "levels on trellis paths", "context code"]
    least = nq.waterfilling(selection, progress=False).rate_at(joint_loss(quantized, selection))
    assert steps.total["water-filling estimate"] == pytest.approx(least)
    assert steps.total["levels on trellis paths"] == pytest.approx(ideal_bits(quantized) / len(selection))
    assert steps.total.iloc[-1] == pytest.approx(quantized.rate)
    of_file = ladder(quantized, selection, model=model, progress=False)
    size = nq.save(quantized, tmp_path / "a.nbq", model, progress=False).total
    assert of_file.bits.sum() == pytest.approx(size)


@pytest.mark.parametrize(("lmbda", "h", "least", "most"), [(0.03, 1.0, 0.22, 0.27), (0.03, 16.0, 0.5, 0.8)])
def test_scalar_quantization_costs_more_if_sensitivities_differ(lmbda, h, least, most):
    """At high rates ½log₂(πe/6), plus half of log₂ of the mean of h over its geometric mean, here at most 0.54."""
    shares = (np.arange(20_000) + 0.5) / 20_000
    w = math.sqrt(2) * torch.erfinv(torch.tensor(2 * shares - 1)).float()
    chosen = Selection((SelectedTensor("w", "w", w, torch.tensor([1.0, h]).repeat(10_000)),))
    steps = ladder(nq.ECSQ(lmbda * (1 + h) / 2, coding="arithmetic").fit(chosen), chosen, progress=False)
    row = steps.set_index("step").loc["best scalar quantizer"]
    assert least < row.change < most
    assert "if all are equally sensitive, else more" in row.reason


@pytest.mark.parametrize("rate", [6.35, 7.0])
def test_where_the_certified_bound_is_too_coarse_shannon_s_stands_in(rate):
    """For a Gaussian source and one h, scalar quantization costs ½log₂(πe/6) = 0.2546 bit more."""
    w = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    chosen = Selection((SelectedTensor("w", "w", w),))
    quantized = nq.fit(chosen, "uniform", rate=rate, coding="arithmetic", progress=False)
    steps = ladder(quantized, chosen, progress=False)
    assert steps.step.tolist()[:3] == ["Shannon lower bound", "best scalar quantizer", "this quantizer"]
    assert steps.change[0] == pytest.approx(0.5 * math.log2(1 / (2 * quantized.distortion)), abs=0.05)
    assert steps.change[1] == pytest.approx(0.2546, abs=0.03)
    assert steps.change[2] > -0.03
    assert steps.total.iloc[-1] == pytest.approx(quantized.rate)


def test_few_distinct_values_have_a_ladder():
    chosen = nq.select(nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16)), layers="1")
    quantized = nq.fit(chosen, "trellis", lmbda=1e-3, progress=False)
    steps = ladder(quantized, chosen, progress=False)
    assert steps.total.iloc[-1] == pytest.approx(quantized.rate)


@pytest.mark.parametrize(("octaves", "least", "most"), [(0, 0.05, 0.2), (10, 0.5, 0.7)])
def test_one_step_for_a_layer_costs_more_if_its_outputs_differ(octaves, least, most):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.logspace(-octaves / 4, octaves / 4, 64, 2.0))

        def forward(self, x):
            return x * self.scale

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False), Scaled()).eval()
    with torch.no_grad():
        model[0].weight.normal_()
    data = [(torch.randn(100, 64), torch.randn(100, 64)) for _ in range(10)]
    calibration = nq.calibrate(model, data, loss=nn.functional.mse_loss, progress=False)
    chosen = nq.select(model, calibration=calibration)
    steps = ladder(nq.Feedback(1e-4).fit(chosen), chosen, progress=False).set_index("step")
    row = steps.loc["levels on trellis paths"]
    assert least < row.change < most
    assert "8 states leave about 0.1 bit; the rest: one step for a layer" in row.reason


def test_a_layer_of_which_nothing_is_left_has_no_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= torch.rand(layer.weight.shape) < 0.1
        model[0].weight *= 1e-6
        model[0].bias.zero_()
    data = [(torch.randn(64, 20), torch.arange(64) % 4)]
    selection = nq.select(model, calibration=nq.calibrate(model, data, progress=False))
    quantized = nq.fit(selection, "feedback", ratio=60, progress=False)
    assert min(len(book.value) for book in quantized.codebooks.values()) == 0
    for coding in ("context", "huffman", "fixed", "arithmetic"):
        recoded = quantized.with_coding(coding)
        steps = ladder(recoded, selection, progress=False)
        assert steps.total.iloc[-1] == pytest.approx(recoded.rate)
