"""Fine-tune, measure and save from the state, and what comes in between."""

import threading

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.storage.write import file_ledger
from nbquant.widgets.jobs import save as module
from nbquant.widgets.jobs.network import Data
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.explorer import explore
from nbquant.widgets.view.readout import size_text
from tests.widgets.samples import batches, sensitivities

WAIT = 60


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.BatchNorm1d(40), nn.Linear(40, 5))


@pytest.fixture
def state(tmp_path):
    model = network()
    state = ExplorerState(
        model,
        batches(),
        sensitivity=sensitivities(model),
        ratio=6.0,
        path=str(tmp_path / "model.nbq"),
        measure_at_rest=False,
    )
    assert state.wait(WAIT)
    return state


def finetuned(state):
    state.finetune()
    assert state.wait(WAIT)
    assert state.error == ""
    return state.finetuned


def test_finetuning_replaces_what_is_measured_and_saved(state):
    exact = state.exact
    state.measure()
    assert state.wait(WAIT)
    assert state.measurement.quantized is exact
    state.epochs = 2
    found = finetuned(state)
    assert found is state.training
    assert state.exact is exact
    assert state.kept is found.quantized
    assert state.measurement is None  # of what it was before
    assert (len(found.step_loss), len(found.history)) == (8, 3)
    assert not torch.equal(state.kept.codebook, exact.codebook)
    state.measure()
    state.save()
    assert state.wait(WAIT)
    assert state.measurement.quantized is found.quantized
    tuned = found.quantized.apply(network())
    assert state.measurement.evaluation == nq.evaluate(tuned, batches(), progress=False, reference=network())
    restored = nq.load(state.path).state_dict(progress=False)
    assert torch.equal(restored["0.weight"], found.quantized.dequantize()["0.weight"])


def test_finetuning_again_starts_from_the_same_point(state):
    first = finetuned(state).quantized
    assert torch.equal(finetuned(state).quantized.codebook, first.codebook)


def test_finetuning_ends_with_the_target_but_its_curve_stays(state):
    found = finetuned(state)
    state.measure()
    assert state.wait(WAIT)
    state.ratio = 7.0
    assert state.finetuned is None
    assert state.training is found
    assert state.wait(WAIT)
    assert state.kept is state.exact
    state.ratio = 6.0
    assert state.wait(WAIT)
    assert state.measurement is None  # that of the fine-tuned is not that of this one


def test_target_that_moves_stops_finetuning(state):
    started, seen = threading.Event(), []

    class Endless:
        def __iter__(self):
            started.set()
            while True:
                seen.append(1)
                yield from batches()

    state._network.data = Data(batches(), batches(), Endless())
    state.finetune()
    assert started.wait(WAIT)
    state.ratio = 7.0
    assert state.wait(WAIT)
    assert state.finetuned is state.training is None
    assert state.error == state.activity == ""


def test_cancelling_finetuning_leaves_what_was(state):
    started = threading.Event()

    class Endless:
        def __iter__(self):
            started.set()
            while True:
                yield from batches()

    exact = state.exact
    state._network.data = Data(batches(), batches(), Endless())
    state.finetune()
    assert started.wait(WAIT)
    assert state.activity == "Fine-tuning"
    state.cancel()
    assert state.wait(WAIT)
    assert state.activity == ""
    assert state.kept is exact
    state._network.data = Data(batches(), batches(), batches())
    finetuned(state)


def test_training_batches_are_those_of_the_data_if_it_has_them():
    class Split:
        calibration, test, train = batches(16), batches(32), batches(64)

    assert Data.of(Split).train is Split.train
    del Split.train
    assert Data.of(Split).train is Split.calibration


def test_finetuning_that_fails_says_why(state):
    state._network.data = Data(batches(), batches(), [(torch.full((4, 20), float("inf")), torch.zeros(4).long())])
    state.finetune()
    assert state.wait(WAIT)
    assert "loss must stay finite" in state.error
    assert state.kept is state.exact


def test_jobs_take_the_exact_pass_that_is_under_way(state):
    state.ratio = 7.0
    assert state.exact is None
    state.save()
    state.finetune()
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.saved.quantized is state.exact
    assert state.finetuned is not None
    assert state.ledger == file_ledger(state.finetuned.quantized, network())


def test_saved_file_is_the_ledger(state):
    assert state.wait(WAIT)
    told = state.ledger
    state.save()
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.file is state.saved
    stored = nq.load(state.path)
    assert state.saved.size == stored.size == (state.saved.path).stat().st_size
    assert told == state.ledger == state.saved.ledger
    assert state.saved.compression_ratio == pytest.approx(stored.compression_ratio)
    for part, bits in state.exact.ledger.items():
        assert state.saved.ledger[part] == bits
    restored = stored.apply(network())
    dense = state.exact.apply(network())
    for name, value in dense.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)
    state.ratio = 7.0
    assert state.ledger is None
    assert state.file is None  # it holds something else
    assert state.saved is not None


def test_last_of_two_saves_wins(state, tmp_path):
    state.save(tmp_path / "a.nbq")
    state.save(tmp_path / "b.nbq")
    assert state.wait(WAIT)
    assert state.saved.path == tmp_path / "b.nbq" == tmp_path / state.path
    assert nq.load(tmp_path / "b.nbq").size == state.saved.size


@pytest.mark.parametrize("name", ["model.bin", "", "none/model.nbq", "file/model.nbq"])
def test_path_that_cannot_be_saved_to_is_an_error(state, tmp_path, name):
    (tmp_path / "file").write_text("")
    state.save(tmp_path / name if name else "")
    assert state.wait(WAIT)
    assert state.error != ""
    assert "Error" not in state.error  # in words, not by its type
    assert state.saved is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    state.save(tmp_path / "model.nbq")
    assert state.wait(WAIT)
    assert state.error == ""


def test_failed_write_leaves_the_old_file(state, tmp_path, monkeypatch):
    state.save()
    assert state.wait(WAIT)
    before = state.saved.path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    state.ratio = 7.0
    assert state.wait(WAIT)
    state.save()
    assert state.wait(WAIT)
    assert "No space left" in state.error
    assert state.saved.path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.nbq"]
    state.ratio = 6.0
    assert state.error == ""  # that was about another target


def test_cancelled_save_leaves_nothing(state, tmp_path, monkeypatch):
    started = threading.Event()

    def slow(quantized, path, model, progress):
        started.set()
        while True:
            progress(0, None)

    monkeypatch.setattr(module, "save", slow)
    state.save()
    assert started.wait(WAIT)
    assert state.activity == "Saving"
    state.cancel()
    assert state.wait(WAIT)
    assert state.saved is None
    assert state.activity == state.error == ""
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_keep_without_a_point(state, tmp_path):
    unreachable = ExplorerState(network(), batches(), sensitivity=sensitivities(network()), ratio=900.0)
    assert unreachable.wait(WAIT)
    unreachable.save(tmp_path / "model.nbq")
    assert unreachable.wait(WAIT)
    assert "no operating point" in unreachable.error
    assert not (tmp_path / "model.nbq").exists()


@pytest.mark.parametrize("epochs", [0, -1])
def test_senseless_epochs_are_refused(epochs):
    with pytest.raises(ValueError, match="epochs"):
        ExplorerState(network(), batches(), epochs=epochs)


def act(explorer, name):
    explorer._handle_custom_msg({"kind": "act", "name": name}, [])


def test_view_follows(tmp_path):
    model = network()
    explorer = explore(model, batches(), sensitivity=sensitivities(model), ratio=6.0, measure_at_rest=False)
    assert explorer.state.wait(WAIT)
    panel = explorer
    assert "not saved" in panel.facts[1]["note"]
    assert {"payload", "container"} <= set(panel.now["ledger"])
    explorer.epochs = 2
    act(explorer, "finetune")
    assert explorer.state.wait(WAIT)
    assert explorer.state.epochs == 2
    assert explorer.revision("finetuning") == 1
    assert panel.now["note"] == "before fine-tuning"
    assert "8 steps" in explorer.descriptions["finetuning"]
    explorer.path = str(tmp_path / "<b>.nbq")
    act(explorer, "save")
    assert explorer.state.wait(WAIT)
    saved = explorer.state.saved
    assert f"<b>.nbq: {saved.size:,} bytes" in explorer.outcome
    assert panel.facts[1]["value"] == size_text(saved.size)
    assert ", saved" in panel.facts[1]["note"]
    assert sum(panel.now["ledger"].values()) == 8 * saved.size
    explorer.state.path = "other.nbq"
    assert explorer.path == "other.nbq"
    explorer.state.ratio = 7.0
    assert "not saved" in panel.facts[1]["note"]
    assert "container" not in panel.now["ledger"]
    assert explorer.revision("finetuning") == 1


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (34_123, "34.1 kB"), (999_600, "1.0 MB"), (5e12, "5000 GB")],
)
def test_sizes_as_people_say_them(size, text):
    assert size_text(size) == text


def test_undo_takes_finetuning_back_and_redo_brings_it_again(state):
    exact, before = state.exact, state.ledger
    found = finetuned(state)
    ledger = state.ledger
    state.measure()
    assert state.wait(WAIT)
    measurement = state.measurement
    state.undo()
    assert state.finetuned is None
    assert state.kept is exact
    assert (state.ledger, state.measurement) == (before, None)
    state.redo()
    assert (state.finetuned, state.ledger, state.measurement) == (found, ledger, measurement)
    assert (state.can_undo, state.can_redo) == (True, False)


def test_undo_of_another_target_or_method_brings_finetuned_values_back(state):
    found = finetuned(state)
    state.ratio = 9.0
    assert state.finetuned is None
    state.undo()
    assert state.finetuned is found
    state.per_layer = True
    assert state.wait(WAIT)
    state.undo()  # to curves that come later
    assert state.wait(WAIT)
    assert state.kept is found.quantized
    state.choose_point("ecsq", True, "ratio", 8.0)
    state.per_layer = True
    state.undo()
    state.undo()
    assert state.wait(WAIT)
    assert state.kept is found.quantized
    state.redo()
    assert state.wait(WAIT)
    assert (state.method, state.finetuned) == ("ecsq", None)


def test_finetuned_values_do_not_come_back_to_a_point_that_was_left_meanwhile(state):
    finetuned(state)
    state.per_layer = True
    state.undo()
    state.ratio = 7.0
    state.ratio = 6.0
    assert state.wait(WAIT)
    assert state.finetuned is None


@pytest.mark.parametrize("step", ["prune", "trellis"])
def test_finetuned_values_come_back_through_fast_redo(step):
    """Curves of the model, or of the method, come later than the step that goes back to them."""
    state = ExplorerState(network(), batches(), ratio=6.0, density=0.5, measure_at_rest=False)
    assert state.wait(WAIT)
    if step == "prune":
        state.prune()
    else:
        state.method = step
    assert state.wait(WAIT)
    found = finetuned(state)
    state.undo()
    state.undo()
    assert state.wait(WAIT)
    assert state.finetuned is None
    state.redo()
    state.redo()
    assert state.wait(WAIT)
    assert (state.finetuned, state.can_redo) == (found, False)
    state.undo()
    assert state.wait(WAIT)
    assert state.finetuned is None
