"""The curves of the explorer."""

import threading

from nbquant.widgets.jobs import curves
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, network


def test_the_user_is_told_of_kernels_that_are_compiled(monkeypatch):
    go_on, shown = threading.Event(), threading.Event()

    def precompile(report):
        while not go_on.wait(0.01):
            report(3, 12)

    monkeypatch.setattr(curves, "precompile", precompile)
    monkeypatch.setattr(curves, "QUIET", 0.0)
    state = ExplorerState(network())
    state.observe(lambda change: shown.set() if change["new"].startswith("3 of 12") else None, "pace")
    assert shown.wait(WAIT)
    assert state.activity == "Compiling kernels"
    go_on.set()
    assert state.wait(WAIT)
    assert not state.error
    assert state.point is not None
