import io
import subprocess
import sys
import threading
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from nbquant.coding.ledger import Ledger
from nbquant.pipeline.finetune import Epoch
from nbquant.quantization import methods
from nbquant.views import still as module
from nbquant.views import theme
from nbquant.views.evaluated import EvaluatedPoint, draw_evaluated, evaluated_data
from nbquant.views.finetuning import draw_finetuning, finetuning_data
from nbquant.views.heatmap import heatmap_data
from nbquant.views.heatmap_drawing import draw_equal_sensitivities, draw_heatmap
from nbquant.views.histogram import draw_histogram, histogram_data
from nbquant.views.ledger import ledger_data, plot_ledger
from nbquant.views.notebook_figure import png, svg
from nbquant.views.prediction import PredictedPoint, draw_prediction, prediction_data
from nbquant.views.rate_distortion import Curve, draw_rate_distortion, rate_distortion_data
from nbquant.views.single_points import ChosenPoint, MeasuredPoint, PinnedPoint
from nbquant.views.still import picture, still

RATIO = np.array([4.0, 8.0, 16.0])
CURVES = [
    Curve(method, weighted, 32 / RATIO, RATIO, np.array([0.001, 0.01, 0.1]), RATIO)
    for method in ("kmeans", "ecsq")
    for weighted in (True, False)
]


def histogram(log_count=False, centres=(-0.5, 0, 0.5)):
    k = len(centres)
    data = histogram_data(
        np.linspace(-1, 1, 2001), np.ones(2001), centres, [667] * k, [2] * k, thresholds=[-0.25, 0.25] if k else None
    )
    return draw_histogram(data, log_count=log_count)


def rate_distortion():
    return draw_rate_distortion(
        rate_distortion_data(
            CURVES,
            chosen=ChosenPoint("ecsq", True, 2.0, 16.0, 0.05),
            target_ratio=12.0,
            pins=[PinnedPoint("a", "kmeans", True, 4.0, 8.0, 0.01)],
            measured=[
                MeasuredPoint("kmeans", True, 4.0, 8.0, 0.01, 0.91, 0.02),
                MeasuredPoint("ecsq", False, 3.0, 9.0, 0.01, None, -1.0),
            ],
        )
    )


def heatmap(shape=(6, 8)):
    h = torch.arange(48, dtype=torch.float64).reshape(shape)
    return draw_heatmap(heatmap_data(h, name="fc"))


def finetuning():
    history = [Epoch(0, None, 0.5, 0.9), Epoch(1, 0.4, 0.4, 0.95)]
    return draw_finetuning(finetuning_data([0.5, 0.4], history, 1))


FIGURES = {
    "histogram": histogram(),
    "log histogram": histogram(True),
    "bars": histogram(centres=()),
    "heatmap": heatmap(),
    "wrapped heatmap": heatmap((48,)),
    "equal": draw_equal_sensitivities("fc"),
    "rate and distortion": rate_distortion(),
    "prediction": draw_prediction(prediction_data([PredictedPoint("a", 9.0, 0.0, 0.02, 0.03, 0.04)])),
    "no prediction": draw_prediction(prediction_data([])),
    "fine-tuning": finetuning(),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_becomes_a_png_and_an_svg(name):
    figure = still(FIGURES[name], width=6, height=3)
    image = Image.open(io.BytesIO(png(figure, 100)))
    assert image.size == (600, 300)
    shades = np.asarray(image.convert("L"))
    assert shades[0, 0] == 255
    assert shades.min() < 90, "text must be dark"
    root = ElementTree.fromstring(svg(figure))
    assert root.tag.endswith("svg")
    assert svg(figure).count(b"<dc:date>") == 0


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name):
    figure = still(FIGURES[name], width=6, height=3)
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= 6.01
    assert box.y1 <= 3.01


def test_axes_are_those_of_the_figure():
    main, *_ = still(rate_distortion()).axes
    layout = rate_distortion()["layout"]
    assert (main.get_xscale(), main.get_yscale()) == ("log", "log")
    np.testing.assert_allclose(main.get_xlim(), [10.0**v for v in layout["xaxis"]["range"]])
    np.testing.assert_allclose(main.get_xticks(), layout["xaxis"]["tickvals"])
    assert [t.get_text() for t in main.get_xticklabels()] == layout["xaxis"]["ticktext"]
    assert main.get_xlabel() == "compression ratio"
    assert main.get_ylabel() == "predicted loss increase"


def test_bars_stand_where_they_do_on_the_screen_and_centres_on_an_axis_of_their_own():
    figure = histogram()
    main, lengths, fractions = still(figure).axes
    bars = [t for t in figure["data"] if t["type"] == "bar"]
    drawn = sorted((p.get_x(), p.get_width(), p.get_height()) for p in main.patches)
    given = sorted((x - w / 2, w, y) for t in bars for x, w, y in zip(t["x"], t["width"], t["y"], strict=True))
    np.testing.assert_allclose(drawn, given)
    assert lengths.get_ylabel() == "codeword length [bit]"
    np.testing.assert_allclose(lengths.collections[0].get_offsets(), [[-0.5, 2], [0, 2], [0.5, 2]])
    assert fractions.get_ylim() == (0, 1)
    assert not fractions.yaxis.get_visible()


def test_map_has_its_values_the_first_row_on_top_and_zeros_grey():
    main, bar = still(heatmap()).axes
    grey, values = main.images
    shown = values.get_array()
    np.testing.assert_allclose(10.0 ** shown[1].filled(0), np.arange(8, 16), rtol=1e-5)
    assert shown.mask.sum() == 1
    assert bool(shown.mask[0, 0])
    assert values.get_extent() == [-0.5, 7.5, 5.5, -0.5]
    assert main.get_ylim() == (5.5, -0.5)
    assert bar.get_ylabel() == "h [loss/weight²]"
    assert to_hex(grey.to_rgba(np.zeros((1, 1)))[0, 0]) == "#9a9a9a"


def test_lines_have_the_colour_and_dash_of_their_method():
    main, *_ = still(rate_distortion()).axes
    weighted, plain = main.lines[:2]
    assert (weighted.get_linestyle(), plain.get_linestyle()) == ("-", "--")
    assert weighted.get_color() == plain.get_color() == "#0072B2"


def test_roles_become_dark_colours_and_grid_pale():
    main, *_ = still(rate_distortion()).axes
    target = next(line for line in main.lines if line.get_label() == "target")
    assert to_hex(target.get_color()) == "#222222"
    assert not {theme.FOREGROUND, theme.MUTED} & {to_hex(line.get_color()) for line in main.lines}


def test_legend_has_plain_methods_in_the_first_column():
    figure = still(rate_distortion())
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "k-means",
        "ECSQ",
        "Hessian-weighted k-means",
        "Hessian-weighted ECSQ",
    ]


def test_title_is_plain_text_and_wraps():
    texts = [t.get_text() for t in still(rate_distortion(), width=4).axes[0].texts]
    assert "Rate and distortion" in texts
    subtitle = next(t for t in texts if t.startswith("chosen"))
    assert "\n" in subtitle
    assert not any("<" in t for t in texts)


@pytest.mark.parametrize("size", [8.5, 12])
def test_wrapped_lines_fit(size):
    words = "½Σhδ² 0123456789 wwww iiii MMMM " * 9
    lines = module._wrapped(words, 3.0, size)
    assert lines.split() == words.split()
    figure = module.Figure(figsize=(3, 3))
    text = figure.text(0, 0, lines, fontsize=size)
    assert text.get_window_extent().width <= 3.03 * figure.dpi


def test_unknown_traces_are_refused():
    with pytest.raises(ValueError, match="bar, scatter or heatmap, but got 'pie'"):
        still(theme.figure("a", "", [{"type": "pie"}]))


def test_picture_has_all_figures_a_caption_and_the_ledger():
    ledger = ledger_data({"file": Ledger(payload=8000, codebook=640)})
    whole = picture([histogram(), heatmap(), rate_distortion(), finetuning()], "what was explored " * 12, ledger)
    image = Image.open(io.BytesIO(png(whole, 100)))
    assert image.size[0] == 900
    assert 700 < image.size[1] < 1000
    titles = [ax.get_title() or ax.get_xlabel() for ax in whole.axes]
    for expected in ("weight", "input index", "compression ratio", "step", "bytes in the file"):
        assert expected in titles
    box = whole.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.x1 <= 9.01
    with pytest.raises(ValueError, match="but got neither"):
        picture([], "")


def test_several_threads_draw_at_once():
    expected = png(still(FIGURES["heatmap"]), 60)
    drawn = []
    threads = [threading.Thread(target=lambda: drawn.append(png(still(FIGURES["heatmap"]), 60))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert drawn == [expected] * 3


def test_ledger_is_saved_too():
    assert svg(plot_ledger(ledger_data({"file": Ledger(payload=80)}))).startswith(b"<?xml")


def test_a_notebook_shows_it_without_pyplot():
    """IPython asks a figure itself where no inline backend has been set up."""
    code = (
        "import sys, nbquant as nq, torch\n"
        "from IPython.core.formatters import DisplayFormatter\n"
        "figure = nq.plot.heatmap(nq.select(torch.nn.Linear(20, 20), {'weight': torch.rand(20, 20), "
        "'bias': torch.rand(20)}), 'weight', backend='matplotlib')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "data, _ = DisplayFormatter().format(figure)\n"
        "assert data['image/png'].startswith(b'\\x89PNG'), data\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_method_s_symbol_is_drawn():
    point = ChosenPoint("kmeans", True, 2.0, 8.0, 0.01)
    for method in methods.names():
        pins = [PinnedPoint("A", method, weighted, 3.0, 9.0, 0.02) for weighted in (True, False)]
        assert still(draw_rate_distortion(rate_distortion_data(CURVES, chosen=point, pins=pins))).axes


def test_measured_points_beyond_the_axis_are_drawn():
    lost = (0.1, 0.2, 0.3, 0.4, 90.0)
    points = [EvaluatedPoint("ecsq", True, 2.0, 5.0 + i, 0.1, a, 0.1, 0.01, 0.001, 100) for i, a in enumerate(lost)]
    data = evaluated_data(points, "accuracy")
    assert (data.value > data.limits[1]).any()
    assert still(draw_evaluated(data)).axes
