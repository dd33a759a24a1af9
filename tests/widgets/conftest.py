"""What several tests of the explorer set out from."""

import hashlib
from collections.abc import Callable, Hashable, Iterator

import pytest

from nbquant.analysis import tabulated
from nbquant.analysis.recent import Recent
from nbquant.analysis.statistics import Statistics
from nbquant.widgets.jobs import curves
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, network, sensitivities

CURVES_KEPT = 200


@pytest.fixture
def state() -> ExplorerState:
    """A small network with given sensitivities, all first results there."""
    model = network()
    state = ExplorerState(model, batches(), sensitivity=sensitivities(model), ratio=6.0)
    assert state.wait(WAIT)
    return state


def content(statistics: Statistics) -> Hashable:
    """All that a curve is computed from."""
    digest = hashlib.sha256()
    for tensor in statistics.tensors:
        histogram, gaps = tensor.histogram, tensor.gaps
        for bins in (histogram.marginal, histogram.joint):
            digest.update(bins.key.tobytes() + bins.sums.tobytes())
        digest.update(gaps.gaps.tobytes() + gaps.counts.tobytes())
        digest.update(repr((tensor.name, tensor.layer, tensor.dtype, len(histogram), histogram.zeros)).encode())
    return statistics.offset, digest.digest()


@pytest.fixture(scope="session", autouse=True)
def shared_curves() -> Iterator[None]:
    """Compute a curve, or a bound, once for all tests whose weights and sensitivities are equal."""
    points, bound = tabulated._points, curves.rate_distortion_bound
    known: Recent[object] = Recent(CURVES_KEPT)

    def once(key: Hashable, compute: Callable[[], object]) -> object:
        found = known.get(key)
        return found if found is not None else known.keep(key, compute())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tabulated,
            "_points",
            lambda family, statistics: once((family, content(statistics)), lambda: points(family, statistics)),
        )
        patch.setattr(
            curves,
            "rate_distortion_bound",
            lambda statistics, *, gap, progress: once(
                ("bound", gap, content(statistics)), lambda: bound(statistics, gap=gap, progress=progress)
            ),
        )
        yield
