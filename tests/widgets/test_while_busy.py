import ipywidgets as w
import pytest

from nbquant.widgets.while_busy import answer_while_busy


class Comm:
    """Takes the part of ipykernel 7.4's, which prefers the thread that spoke last."""

    def __init__(self):
        self.closed = False

    def _reply_subshell_for(self, data, default):
        return "that of cells"

    def close(self, **options):
        self.closed = True

    def send(self, **message):
        pass


@pytest.fixture
def box():
    inner = w.Button()
    box = w.VBox([w.HBox([inner]), w.Label()])
    yield box, inner
    box.close_all()


def test_front_end_chooses_the_thread_of_all_inside(box):
    box, inner = box
    for widget in (box, inner):
        widget.set_trait("comm", Comm())
    answer_while_busy(box)
    assert box.comm._reply_subshell_for({}, "asked") == "asked"
    assert inner.comm._reply_subshell_for({}, None) is None


def test_kernels_without_that_rule_are_left_alone(box):
    box, inner = box
    before = dict(vars(inner.comm))
    answer_while_busy(box)
    assert vars(inner.comm) == before
