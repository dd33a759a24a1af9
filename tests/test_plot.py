"""Pictures by their names: live and still, of the same numbers."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import nbquant as nq
from nbquant.plot import _boundaries as boundaries


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 4))
    data = [(torch.randn(40, 12), torch.randint(0, 4, (40,))) for _ in range(3)]
    h = nq.sensitivity(model, data, method="gauss_newton", progress=False)
    selection = nq.select(model, h, calibration=nq.calibrate(model, data, progress=False))
    return model, data, h, selection, nq.fit(selection, "ecsq", ratio=6, progress=False)


def pictures(made):
    model, data, h, selection, quantized = made
    fitted = {"a": quantized, "b": nq.Trellis(1e-4).fit(selection), "c": nq.Feedback(1e-4).fit(selection)}
    rows = nq.decompose(model, fitted, data, h, progress=False)
    swept = nq.sweep(
        {"net": (model, selection)},
        ["uniform", "ecsq"],
        [4, 6],
        evaluate=lambda m: nq.evaluate(m, data, progress=False, reference=model),
        progress=False,
    )
    price = nq.price(selection, {"other": {n: v.sqrt() for n, v in h.items()}}, rates=(1.5, 3), progress=False)
    return {
        "histogram": lambda b: nq.plot.histogram(quantized, selection, backend=b),
        "heatmap": lambda b: nq.plot.heatmap(selection, "0.weight", backend=b),
        "error": lambda b: nq.plot.error(quantized, selection, "0.weight", backend=b),
        "weighted error": lambda b: nq.plot.error(quantized, selection, "0.weight", weighted=True, backend=b),
        "rate-distortion": lambda b: nq.plot.rate_distortion(selection, fitted=fitted, backend=b, progress=False),
        "ladder": lambda b: nq.plot.ladder(quantized, selection, model=model, backend=b, progress=False),
        "decomposition": lambda b: nq.plot.decomposition(rows, backend=b),
        "divergence": lambda b: nq.plot.divergence(swept, backend=b),
        "price": lambda b: nq.plot.price(price, backend=b),
    }


@pytest.mark.parametrize("quantizer", [nq.KMeans(7), nq.Uniform(0.06), nq.Uniform(0.06, offset=0.5), nq.ECSQ(1e-4)])
def test_boundaries_are_where_members_part(made, quantizer):
    """Every member lies between the boundaries that are drawn; ECSQ's depend on h, and none are drawn."""
    _, _, _, selection, _ = made
    q = quantizer.fit(selection)
    found = boundaries(q, q.codebooks["all"])
    if isinstance(quantizer, nq.ECSQ):
        assert found is None
        return
    weight = selection.weight.double().numpy()
    assignment = torch.cat([t.assignment for t in q.tensors.values()]).numpy()
    assert len(found) == q.levels - 1 > 1
    assert np.array_equal(np.searchsorted(found, weight), assignment)


def test_every_picture_is_live_and_still(made, tmp_path):
    for name, draw in pictures(made).items():
        live, still = draw("plotly"), draw("matplotlib")
        assert isinstance(live, go.Figure), name
        assert isinstance(still, Figure), name
        assert live.layout.title.text, name
        assert len(live.data) > 0
        still.savefig(tmp_path / "one.svg")
        assert still.axes[0].get_title(loc="left") or still.axes[0].texts, name


def test_the_bound_is_left_out_on_request(made):
    selection = made[3]
    with_bound = nq.plot.rate_distortion(selection, progress=False)
    without = nq.plot.rate_distortion(selection, bound=False, progress=False)
    assert len(with_bound.data) == len(without.data) + 4


def test_ledgers_side_by_side(made, tmp_path):
    model, _, _, _, quantized = made
    found = nq.plot.ledger({"one": nq.save(quantized, tmp_path / "a.nbq", model, progress=False)})
    assert isinstance(found, Figure)


def test_what_is_not_there(made):
    _, _, _, selection, quantized = made
    with pytest.raises(ValueError, match="group must be one of those with a codebook, 'all', but is '0'"):
        nq.plot.histogram(quantized, selection, "0")
    with pytest.raises(ValueError, match=r"name must be one of '0\.weight'"):
        nq.plot.heatmap(selection, "x")
    with pytest.raises(ValueError, match=r"'0\.weight' must have sensitivities"):
        nq.plot.heatmap(nq.select(made[0]), "0.weight")
    with pytest.raises(ValueError, match="backend must be one of plotly, matplotlib, but is 'svg'"):
        nq.plot.heatmap(selection, "0.weight", backend="svg")
