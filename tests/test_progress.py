import pytest

from nbquant import progress as module
from nbquant.progress import Cancelled, track


def test_without_a_bar_items_pass_through(capsys):
    assert list(track([3, 1, 2], "items", False)) == [3, 1, 2]
    assert list(track(iter("ab"), "items", False)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:IProgress")
def test_bar_is_labelled_and_counts_once_it_takes_its_time(capsys, monkeypatch):
    assert list(track(range(4), "histograms")) == [0, 1, 2, 3]
    assert capsys.readouterr().err.strip() == ""
    monkeypatch.setattr(module, "QUIET", 0)
    assert list(track(range(4), "histograms")) == [0, 1, 2, 3]
    shown = capsys.readouterr().err
    assert "histograms" in shown
    assert "/4" in shown


@pytest.mark.parametrize(
    ("items", "total", "expected"), [([7, 8], None, 2), (iter([7, 8]), None, None), (iter([7, 8]), 2, 2)]
)
def test_callable_is_told_how_far_it_is_after_each_item(items, total, expected):
    told = []
    told.extend(track(items, "items", lambda *args: told.append(args), total))
    assert told == [(0, expected), 7, (1, expected), 8, (2, expected)]


def test_nothing_to_do():
    told = []
    assert list(track([], "items", lambda *args: told.append(args))) == []
    assert told == [(0, 0)]


@pytest.mark.parametrize("when", [0, 1, 2])
def test_cancelling_stops_before_the_next_item(when):
    worked = []

    def progress(done, total):
        if done == when:
            raise Cancelled

    with pytest.raises(Cancelled):
        worked.extend(track(range(3), "items", progress))
    assert worked == list(range(when))
