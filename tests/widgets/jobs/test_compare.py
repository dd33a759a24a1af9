"""The present result against that of a pin: difference of accuracy with its paired error, bytes, map."""

import numpy as np
import pytest
import torch

import nbquant as nq
from nbquant.widgets.panels.difference import DIFFERENCE, data
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.readout import versus
from tests.widgets.samples import WAIT, batches, sensitivities, two_layers


@pytest.fixture
def state():
    """A point at 6×, pinned as A; now at 12×."""
    model = two_layers()
    state = ExplorerState(model, batches(), sensitivity=sensitivities(model), ratio=6.0, measure_at_rest=False)
    assert state.wait(WAIT)
    state.pin()
    state.ratio = 12.0
    assert state.wait(WAIT)
    return state


def compared(state, place=0):
    state.compared = place
    assert state.wait(WAIT)
    assert state.error == ""
    return state.comparison


def rows(state):
    return {row["label"]: (row["value"], row["note"]) for row in versus(state)}


def test_accuracy_is_compared_on_the_same_samples(state):
    pinned = nq.fit(state.selection.damped(state.statistics.offset), state.method, ratio=6.0, progress=False)
    state.measure_at_rest = True
    found = compared(state)
    assert torch.equal(found.other.codebook, pinned.codebook)
    now, other = (q.apply(two_layers()) for q in (found.quantized, found.other))
    right = [torch.cat([net.eval()(x).argmax(-1) == y for x, y in batches()]).double() for net in (now, other)]
    paired = right[0] - right[1]
    beside = found.evaluation.comparison
    assert beside.accuracy_change == pytest.approx(float(paired.mean()))
    assert beside.accuracy_error == pytest.approx(float(paired.std()) / 8)  # 64 samples
    assert not found.partial
    value, note = rows(state)["accuracy"]
    assert value == f"{100 * float(paired.mean()):+.2f} ± {100 * float(paired.std()) / 8:.2f} points".replace("-", "−")
    assert note.startswith("the same 64 samples")


def test_bytes_and_loss_are_of_the_two(state):
    found = compared(state)
    assert found.evaluation is None  # measure_at_rest is off
    assert "accuracy" not in rows(state)
    bits = state.ledger.total - state.pins[0].bits
    assert rows(state)["bytes"][0] == f"{bits / 8:+,.0f}".replace("-", "−")
    more = state.exact.predicted_loss_increase / state.pins[0].predicted_loss - 1
    assert rows(state)["predicted loss"][1] == f"{more:+.1%}"


def test_it_follows_the_point_and_goes_with_the_pin(state):
    before = compared(state)
    state.ratio = 9.0
    assert state.wait(WAIT)
    assert state.comparison.quantized is state.exact is not before.quantized
    assert state.comparison.other is before.other
    state.compared = -1
    assert (state.comparison, versus(state)) == (None, [])
    compared(state)
    state.unpin(0)
    assert state.wait(WAIT)
    assert (state.compared, state.comparison, versus(state)) == (-1, None, [])


def test_result_of_a_restored_pin_is_computed_again(state):
    kept = compared(state).other
    session = state.session()
    again = ExplorerState(
        two_layers(), batches(), sensitivity=sensitivities(two_layers()), ratio=8.0, measure_at_rest=False
    )
    again.restore(session)
    assert again.wait(WAIT)
    found = compared(again).other
    assert found is not kept
    for name, values in kept.dequantize().items():
        assert torch.equal(found.dequantize()[name], values)


def test_pin_of_another_model_is_refused_with_what_to_do(state):
    session = state.session()
    session["pins"][0]["pruned"] = 0.5
    state.restore(session)
    state.compared = 0
    assert state.wait(WAIT)
    assert state.comparison is None
    assert "pruned to a density of 0.5" in state.error
    session["pins"][0] |= {"pruned": None, "finetuned": True}
    state.restore(session)
    state.compared = 0
    assert state.wait(WAIT)
    assert "fine-tune and pin again" in state.error


@pytest.mark.parametrize("place", [1, 7, -2])
def test_place_without_a_pin_is_told_and_the_last_one_kept(state, place):
    compared(state)
    state.compared = place
    assert state.wait(WAIT)
    assert state.compared == 0
    assert state.error == f"compared must be the place of a pin, from 0 to 0, or -1 for none, but is {place}"
    assert state.comparison is not None


def test_place_is_none_before_there_are_pins():
    with pytest.raises(ValueError, match="compared must be -1 at first"):
        ExplorerState(two_layers(), compared=0)


def test_map_holds_the_difference_of_both(state):
    state.focus = "2.weight"
    assert data(state, True) is None
    assert "no pin" in DIFFERENCE.figure(state)["layout"]["title"]["text"]
    found = compared(state)
    now, other = (q.dequantize()["2.weight"].double().numpy() for q in (found.quantized, found.other))
    drawn = data(state, True)
    np.testing.assert_allclose(np.nan_to_num(10.0**drawn.log_value), np.abs(now - other), rtol=1e-5)
    assert drawn.zero_share == np.mean(now == other)


def test_map_has_the_weights_of_what_is_not_quantized(state):
    state.layers = ("0",)
    assert state.wait(WAIT)
    compared(state)
    drawn = data(state, True)
    pinned = state.comparison.other.dequantize()["0.weight"].double().numpy()
    now = state.comparison.quantized.dequantize()["0.weight"].double().numpy()
    np.testing.assert_allclose(np.nan_to_num(10.0**drawn.log_value), np.abs(now - pinned), rtol=1e-5)
