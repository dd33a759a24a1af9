import matplotlib as mpl
import pandas as pd
import pytest

from nbquant.coding import codes
from nbquant.quantization import methods
from nbquant.views.accuracy import accuracy_data, plot_accuracy
from nbquant.views.palette import BLUE, VERMILION


def rows(*points, coding="huffman", finetuned=False, method="kmeans", weighted=True):
    return pd.DataFrame(
        [
            {
                "method": method,
                "weighted": weighted,
                "coding": coding,
                "finetuned": finetuned,
                "codeword_length": length,
                "accuracy": accuracy,
            }
            for length, accuracy in points
        ]
    )


FOUR = pd.concat(
    [
        rows((2, 0.9), (1, 0.5), coding=c, finetuned=f, method=m, weighted=w)
        for m, w in (("kmeans", False), ("kmeans", True), ("uniform", False))
        for c in ("fixed", "huffman")
        for f in (False, True)
    ]
)


def test_panels_are_in_the_paper_s_order():
    data = accuracy_data(FOUR, 0.92)
    assert [p.title for p in data.panels] == [
        "fixed-length code",
        "fixed-length code, fine-tuned",
        "Huffman code",
        "Huffman code, fine-tuned",
    ]
    assert [len(p.curves) for p in data.panels] == [3] * 4


def test_points_run_by_length_in_percent():
    (panel,) = accuracy_data(rows((3, 0.9), (1, 0.85), (2, 0.88)), 0.92).panels
    (curve,) = panel.curves
    assert curve.codeword_length.tolist() == [1, 2, 3]
    assert curve.accuracy.tolist() == pytest.approx([85, 88, 90])


def test_curves_look_as_everywhere():
    plain, weighted, uniform = accuracy_data(FOUR, 0.92).panels[0].curves
    assert (plain.colour, weighted.colour, uniform.colour) == (BLUE, BLUE, VERMILION)
    assert (plain.line, weighted.line, uniform.line) == ("--", "-", "--")
    assert weighted.label == "Hessian-weighted k-means"


def test_sensitivities_are_told_apart_by_name():
    table = pd.concat([rows((1, 0.8), (2, 0.9)).assign(sensitivity=name) for name in ("all", "1,000", "Adam")])
    (panel,) = accuracy_data(table, 0.92).panels
    assert [c.label for c in panel.curves] == ["all", "1,000", "Adam"]
    assert len({(c.colour, c.marker) for c in panel.curves}) == 3


@pytest.mark.parametrize(
    ("accuracy", "low", "left_out"), [((0.9, 0.5), 80, 1), ((0.9, 0.88), 87, 0), ((0.3, 0.2), 80, 2)]
)
def test_far_below_the_original_nothing_is_shown_but_counted(accuracy, low, left_out):
    data = accuracy_data(rows(*enumerate(accuracy, 1)), 0.92, depth=12)
    assert data.accuracy_range[0] == pytest.approx(low)
    assert data.accuracy_range[1] > 92
    assert data.left_out == left_out


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        accuracy_data(rows(), 0.92)
    with pytest.raises(ValueError, match=r"original must be in \[0, 1\] .* but got 92"):
        accuracy_data(FOUR, 92)


def test_figure_shows_the_numbers_and_changes_nothing_global():
    before = dict(mpl.rcParams)
    data = accuracy_data(FOUR, 0.92)
    figure = plot_accuracy(data)
    assert dict(mpl.rcParams) == before
    axes = figure.axes
    assert [a.get_title() for a in axes] == [f"({x}) {p.title}" for x, p in zip("abcd", data.panels, strict=True)]
    assert {a.get_xlabel() for a in axes} == {"average codeword length [bit/weight]"}
    assert axes[0].get_ylabel() == "accuracy [%]"
    drawn = axes[3].lines[1:]  # the first is the original's
    assert [line.get_ydata().tolist() for line in drawn] == [c.accuracy.tolist() for c in data.panels[3].curves]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [c.label for c in data.panels[0].curves]
    assert legend.get_title().get_text() == "dotted: original, 92.00 %; 12 points lie below"


def test_three_panels_leave_the_fourth_empty():
    figure = plot_accuracy(accuracy_data(FOUR[~((FOUR.coding == "fixed") & FOUR.finetuned)], 0.92))
    assert [a.get_visible() for a in figure.axes] == [True, True, True, False]


def test_every_method_and_code_can_be_drawn():
    every = [rows((2, 0.9), (1, 0.5), coding=c.name, method=m.name) for m in methods.METHODS for c in codes.CODES]
    data = accuracy_data(pd.concat(every), 0.92)
    assert [p.title for p in data.panels] == [c.title for c in codes.CODES]
    assert len({c.marker for c in data.panels[0].curves}) == len(methods.METHODS)
    assert plot_accuracy(data).axes
