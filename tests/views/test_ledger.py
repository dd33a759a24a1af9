import pytest

from nbquant.coding.ledger import Ledger
from nbquant.views.ledger import ledger_data, plot_ledger

FILE = Ledger(payload=8000, codebook=640, position_payload=0, header=4000, padding=4)


def test_parts_are_in_bytes_and_sum_up():
    (bar,) = ledger_data({"a": FILE}).bars
    assert bar.parts == (("payload", 1000), ("codebook", 80), ("header", 500), ("padding", 0.5))
    assert bar.total == FILE.total / 8


def test_bars_are_drawn_end_to_end_and_in_order():
    figure = plot_ledger(ledger_data({"a": FILE, "b": Ledger(payload=80)}))
    (ax,) = figure.axes
    edges = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    assert edges == [(0, 1000), (1000, 1080), (1080, 1580), (1580, 1580.5), (0, 10)]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "bytes in the file"
    shown = [t.get_text() for t in ax.texts]
    assert shown == ["1,000", "500", "1,580 bytes", "10 bytes"], "narrow parts have no number in the bar"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["payload", "codebook", "header", "padding"]


def test_same_part_has_the_same_colour_in_each_bar():
    (ax,) = plot_ledger(ledger_data({"a": FILE, "b": Ledger(payload=80)})).axes
    assert ax.patches[0].get_facecolor() == ax.patches[4].get_facecolor() != ax.patches[1].get_facecolor()


@pytest.mark.parametrize("ledgers", [{}, {"a": FILE, "b": Ledger(payload=0)}])
def test_nothing_is_refused(ledgers):
    with pytest.raises(ValueError, match="ledgers with bits are required"):
        ledger_data(ledgers)
