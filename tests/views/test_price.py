import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nbquant.analysis.price import Price
from nbquant.views.price import draw_price, price_data
from nbquant.views.still import still

POINTS = pd.DataFrame(
    {
        "sensitivity": ["exact", "exact", "bad", "bad", "good", "good", "far"],
        "distortion": [1e-3, 1e-2, 2e-3, 2e-2, 8e-3, 2e-3, 1.0],
        "bits_lost": [0, 0, 0.4, np.nan, 0.1, 0.05, np.nan],
    }
)
SUMMARY = pd.DataFrame(
    {
        "sensitivity": ["exact", "bad", "good", "far"],
        "rank_correlation": [1, np.nan, 0.8, 0.1],
        "bits_lost": [0, 0.4, 0.07, np.nan],
        "most_lost": [0, 0.4, 0.1, np.nan],
        "from_distortion": [1e-3] * 3 + [np.nan],
        "to_distortion": [1e-2] * 3 + [np.nan],
    }
)
PRICE = Price(POINTS, SUMMARY)


def test_the_cheapest_comes_first_and_what_cannot_be_compared_last():
    data = price_data(PRICE)
    assert [c.label for c in data.curves] == ["good", "bad", "far"]
    assert data.curves[0].distortion.tolist() == [2e-3, 8e-3]
    assert data.curves[0].bits_lost.tolist() == [0.05, 0.1]
    assert data.not_shown == 2


def test_legend_tells_ranks_and_loss_and_the_axis_runs_to_less_distortion():
    figure = go.Figure(draw_price(price_data(PRICE)))
    names = [t.name for t in figure.data]
    assert names == [
        "exact h",
        "good: ranks 0.80, mean +0.070",
        "bad: no ranks, mean +0.400",
        "far: ranks 0.10, nowhere near the exact curve",
    ]
    assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]
    assert "2 points beyond" in figure.layout.title.text
    assert len({t.marker.symbol for t in figure.data[1:]}) == 3


def test_more_estimates_than_colours_differ_by_dash():
    many = [f"e{i}" for i in range(9)]
    points = pd.DataFrame({"sensitivity": many, "distortion": 1e-3, "bits_lost": 0.1})
    summary = pd.concat([SUMMARY.iloc[[2]].assign(sensitivity=m) for m in many])
    looks = {(t.line.color, t.line.dash) for t in go.Figure(draw_price(price_data(Price(points, summary)))).data[1:]}
    assert len(looks) == 9


def test_still_picture():
    (axes,) = still(draw_price(price_data(PRICE))).axes
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
