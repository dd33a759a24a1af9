import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.views.divergence import divergence_data, draw_divergence
from nbquant.views.palette import GREEN, ORANGE, PURPLE
from nbquant.views.still import still

ROWS = pd.DataFrame(
    {
        "model": "net",
        "method": ["trellis", "trellis", "ecsq", "ecsq", "ecsq", "feedback"],
        "ratio": [8, 4, 4, 8, 99, 8],
        "compression_ratio": [8.1, 4.2, 4.1, 8.3, np.nan, 8.2],
        "kl_mean": [0.02, 0.001, 0.002, 0.05, np.nan, 0.004],
        "kl_99": [0.2, 0.01, 0.03, 0.6, np.nan, 0.05],
    }
)


def test_curves_run_by_size_and_what_was_not_reached_is_counted():
    data = divergence_data(ROWS)
    assert [c.label for c in data.curves] == ["trellis", "ECSQ", "error feedback"]
    assert [c.colour for c in data.curves] == [ORANGE, GREEN, PURPLE]
    trellis, ecsq, _ = data.curves
    assert trellis.size.tolist() == [4.2, 8.1]
    assert trellis.mean.tolist() == [0.001, 0.02]
    assert trellis.high.tolist() == [0.01, 0.2]
    assert ecsq.mean.tolist() == [0.002, 0.05]
    assert data.not_shown == 1
    assert data.limits == (0.001, 0.6)
    assert data.over == "compression_ratio"


def test_bytes_come_before_ratios():
    data = divergence_data(ROWS.assign(bytes=[500, 1000, 1100, 520, np.nan, 510]))
    assert data.over == "bytes"
    assert data.curves[0].size.tolist() == [500, 1000]
    figure = go.Figure(draw_divergence(data))
    assert figure.layout.xaxis.title.text == "file size [kB]"
    assert figure.data[3].x.tolist() == [0.5, 1.0]


def test_equal_predictions_have_no_logarithm_and_are_counted():
    rows = ROWS.assign(kl_mean=[0.0, *ROWS["kl_mean"][1:]])
    data = divergence_data(rows)
    assert data.not_shown == 2
    assert data.curves[0].size.tolist() == [4.2]


def test_mean_is_solid_and_percentile_dashed_in_the_same_colour():
    figure = go.Figure(draw_divergence(divergence_data(ROWS)))
    dashed, solid = figure.data[:3], figure.data[3:]
    assert [t.name for t in solid] == ["trellis", "ECSQ", "error feedback"]
    assert [t.line.color for t in dashed] == [t.line.color for t in solid]
    assert {t.line.dash for t in dashed} == {"dash"}
    assert {t.line.dash for t in solid} == {"solid"}
    assert not any(t.showlegend for t in dashed)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.title.text == "KL divergence [nat/label]"
    low, high = figure.layout.yaxis.range
    assert 10**low < 0.001
    assert 10**high > 0.6
    assert "not shown: 1 (out of reach" in figure.layout.title.text


def test_options_that_vary_are_in_the_legend():
    rows = pd.concat(
        [ROWS[:2].assign(coding="context"), ROWS[:2].assign(coding=None), ROWS[2:4].assign(coding="huffman")]
    )
    data = divergence_data(rows)
    assert [c.label for c in data.curves] == ["trellis (coding context)", "trellis (coding as by default)", "ECSQ"]
    assert [c.symbol for c in data.curves] == ["cross", "cross-open", "diamond"]


def test_weighting_is_named_where_rows_tell_it():
    rows = pd.concat([ROWS[2:4].assign(weighted=w) for w in (True, False)])
    assert [c.label for c in divergence_data(rows).curves] == ["Hessian-weighted ECSQ", "ECSQ"]


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"but kl_mean, kl_99 is missing: sweep with evaluate="):
        divergence_data(ROWS.drop(columns=["kl_mean", "kl_99"]))
    with pytest.raises(ValueError, match="but bytes or compression_ratio is missing"):
        divergence_data(ROWS.drop(columns=["compression_ratio"]))
    with pytest.raises(ValueError, match="at least one row is required"):
        divergence_data(ROWS[:0])
    with pytest.raises(ValueError, match=r"must be of one model, but are of 2 \(a, b\)"):
        divergence_data(pd.concat([ROWS.assign(model=m) for m in "ab"]))
    with pytest.raises(ValueError, match="method must be one of"):
        divergence_data(ROWS.assign(method="rounding"))


def test_nothing_that_can_be_shown_is_an_empty_picture():
    data = divergence_data(ROWS[4:5])
    assert data.not_shown == 1
    assert still(draw_divergence(data)).axes


def test_still_picture():
    (axes,) = still(draw_divergence(divergence_data(ROWS))).axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "KL divergence [nat/label]"


def test_a_sweep_gives_such_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 4))
    data = [(torch.randn(40, 12), torch.randint(0, 4, (40,)))]
    rows = nq.sweep(
        {"net": model},
        ["uniform", "kmeans"],
        [4, 8],
        evaluate=lambda m: nq.evaluate(m, data, progress=False, reference=model),
        progress=False,
    )
    curves = divergence_data(rows).curves
    assert [c.label for c in curves] == ["uniform", "k-means"]
    for curve in curves:
        assert len(curve.size) == 2
        assert curve.mean[0] < curve.mean[1], "a smaller file is further away"
        assert (curve.high > curve.mean).all()
