from types import SimpleNamespace

from nbquant.widgets.view.while_busy import answer_while_busy


class Comm:
    """Takes the part of ipykernel 7.4's, which prefers the thread that spoke last."""

    def _reply_subshell_for(self, data, default):
        return "that of cells"


def test_front_end_chooses_the_thread():
    widget = SimpleNamespace(comm=Comm())
    answer_while_busy(widget)
    assert widget.comm._reply_subshell_for({}, "asked") == "asked"
    assert widget.comm._reply_subshell_for({}, None) is None


def test_kernels_without_that_rule_are_left_alone():
    widget = SimpleNamespace(comm=SimpleNamespace())
    answer_while_busy(widget)
    assert vars(widget.comm) == {}
