"""The curves of the explorer."""

import threading

from nbquant.widgets.jobs import curves, jobs
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


def test_runs_of_a_trellis_are_told_with_their_share_of_all(monkeypatch):
    monkeypatch.setattr(jobs, "APART", 0.0)  # on a fast machine little would be told
    state = ExplorerState(network(), ratio=8.0)
    assert state.wait(WAIT)
    told, shares = [], []
    state.observe(lambda change: told.append(change["new"]), "activity")
    state.observe(lambda change: shares.append(change["new"]), "progress")
    state.method = "trellis"
    assert state.wait(WAIT)
    assert state.error == ""
    runs = [text for text in told if text.startswith("Running trellis, run ")]
    assert runs
    assert all(" of about " in text for text in runs)
    assert "gave" in runs[-1]
    shares = [share for share in shares if 0 < share < 1]
    assert len(shares) > 2
    assert max(shares) > 0.5
