"""What several tests of the explorer set out from."""

import pytest

from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, batches, network, sensitivities


@pytest.fixture
def state() -> ExplorerState:
    """A small network with given sensitivities, all first results there."""
    model = network()
    state = ExplorerState(model, batches(), sensitivity=sensitivities(model), ratio=6.0)
    assert state.wait(WAIT)
    return state
