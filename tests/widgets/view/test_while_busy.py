from types import SimpleNamespace

from nbquant.widgets.view.while_busy import answer_while_busy


class Comm:
    """Takes the part of ipykernel 7.4's, which prefers the thread that spoke last."""

    def _reply_subshell_for(self, data, default):
        return "that of cells"


def tree(comm):
    """Widgets within widgets, each with a comm of its own."""
    inner = SimpleNamespace(comm=comm())
    return SimpleNamespace(comm=comm(), children=(SimpleNamespace(comm=comm(), children=(inner,)),)), inner


def test_front_end_chooses_the_thread_of_all_inside():
    box, inner = tree(Comm)
    answer_while_busy(box)
    assert box.comm._reply_subshell_for({}, "asked") == "asked"
    assert inner.comm._reply_subshell_for({}, None) is None


def test_kernels_without_that_rule_are_left_alone():
    box, inner = tree(SimpleNamespace)
    answer_while_busy(box)
    assert vars(inner.comm) == vars(box.comm) == {}
