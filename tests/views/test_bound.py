from dataclasses import replace

import numpy as np
import torch

from nbquant.analysis.bounds import Bound
from nbquant.analysis.statistics import Statistics
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.views.bound import bound_data, bound_traces
from nbquant.views.rate_distortion import draw_rate_distortion, rate_distortion_data
from nbquant.views.still import still

BOUND = Bound(
    rate=np.array([2.0, 1.0, 0.02]),
    lower=np.array([1.9, 0.9, 0.0]),
    distortion=np.array([1e-5, 4e-5, 1e-4]),
    predicted_loss=np.array([1e-2, 4e-2, 1e-1]),
    lmbda=np.array([1e-5, 5e-5, 1e-4]),
    gap=np.zeros(3),
    binning=np.zeros(3),
)


def data():
    w = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 0.05
    return bound_data(BOUND, Statistics.of(Selection((SelectedTensor("w", "w", w, torch.ones(1000)),))))


def test_lines_are_in_order_and_a_quarter_bit_apart():
    d = data()
    assert d.rate.tolist() == [0.02, 1.0, 2.0]
    np.testing.assert_allclose(d.scalar - d.rate, 0.2546, atol=1e-4)
    assert d.source_bits == 32
    assert (d.shannon[1:] > 0).all()
    assert d.lower.tolist() == [0, 0.9, 1.9]


def test_traces_lie_on_the_axes_of_the_figure():
    lower, rate, scalar, _ = bound_traces(data(), legend="legend2")
    assert rate["x"].tolist() == [32.0, 16.0], "what needs hardly a bit is off every picture"
    assert rate["y"].tolist() == [4e-2, 1e-2]
    assert len(scalar["x"]) == 3
    assert lower["legend"] == "legend2"
    assert len({t["line"]["dash"] for t in bound_traces(data())}) == 4
    assert bound_traces(data(), over="rate")[1]["x"].tolist() == [1.0, 2.0]


def test_figure_of_the_curves_takes_them():
    figure = draw_rate_distortion(rate_distortion_data([]))
    figure["data"] = bound_traces(data()) + figure["data"]
    assert len(still(figure).axes[0].lines) == 4


def test_in_brief_there_is_one_name():
    lower, reached = bound_traces(data(), brief=True)
    assert [lower["showlegend"], reached["showlegend"]] == [False, True]
    assert reached["name"] == "bound"


def test_what_is_certified_holds_for_less_distortion_too():
    weak = replace(BOUND, lower=np.array([0.5, 0.9, 0.0]))
    w = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 0.05
    statistics = Statistics.of(Selection((SelectedTensor("w", "w", w, torch.ones(1000)),)))
    assert bound_data(weak, statistics).lower.tolist() == [0.0, 0.9, 0.9]
