import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import nbquant as nq
from nbquant.analysis import statistics
from nbquant.formats.safetensors import INDEX
from nbquant.widgets.jobs.weights import Weights
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.explorer import explore

WAIT = 60
SHAPES = {"embed.weight": (60, 30), "block.norm.weight": (30,), "block.fc.weight": (40, 30), "block.fc.bias": (40,)}


def tensors():
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.1 for name, shape in SHAPES.items()}


def sensitivities():
    torch.manual_seed(1)
    return {name: torch.rand(shape) + 0.01 for name, shape in SHAPES.items()}


@pytest.fixture
def checkpoint(tmp_path):
    save_file(tensors() | {"block.norm.num_batches_tracked": torch.tensor(3)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    where = {name: f"{name.partition('.')[0]}.safetensors" for name in SHAPES}
    for shard in set(where.values()):
        save_file({name: t for name, t in tensors().items() if where[name] == shard}, folder / shard)
    (folder / f"model{INDEX}").write_text(json.dumps({"weight_map": where}))
    return folder


def test_checkpoint_without_sensitivities_weighs_all_alike(checkpoint):
    state = ExplorerState(checkpoint, ratio=6.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.available_layers == state.layers == ("block.fc", "block.norm", "embed")
    assert state.sensitivity is None
    assert state.exact.compression_ratio >= 6.0
    dense = state.exact.dequantize()
    loss = sum(0.5 * float(((tensors()[name] - dense[name]) ** 2).sum()) for name in SHAPES)
    assert state.exact.predicted_loss_increase == pytest.approx(loss, rel=1e-4)


def test_file_of_sensitivities_gives_what_the_mapping_gives(checkpoint, tmp_path):
    nq.save_sensitivity(sensitivities(), tmp_path / "h.safetensors")
    found = []
    for source in (sensitivities(), tmp_path / "h.safetensors", str(tmp_path / "h.safetensors")):
        state = ExplorerState(checkpoint, sensitivity=source, ratio=6.0, damping=0.3)
        assert state.wait(WAIT)
        assert state.error == ""
        found.append(state.exact.predicted_loss_increase)
    assert found[1] == found[2] == pytest.approx(found[0])
    mean = float(torch.cat([h.reshape(-1) for h in sensitivities().values()]).mean())
    assert state.statistics.offset == pytest.approx(0.3 * mean)


def test_folder_with_an_index_for_weights_and_for_sensitivities(sharded, tmp_path):
    folder = tmp_path / "h"
    folder.mkdir()
    save_file(sensitivities(), folder / "h.safetensors")
    for path in (sharded, sharded / f"model{INDEX}"):
        state = ExplorerState(path, sensitivity=folder, ratio=6.0, layers="block")
        assert state.wait(WAIT)
        assert state.error == ""
        assert state.layers == ("block.norm", "block.fc")
        assert state.sensitivity.method == "file"
        assert torch.equal(state.sensitivity["embed.weight"], sensitivities()["embed.weight"])
        state.layers = ("embed",)
        assert state.wait(WAIT)
        assert state.error == ""
        assert state.point.weights == 60 * 30


def test_weights_stay_on_disk(checkpoint, tmp_path):
    nq.save_sensitivity(sensitivities(), tmp_path / "h.safetensors")
    weights = Weights(checkpoint, tmp_path / "h.safetensors")
    for tensor in weights.select(weights.layers):
        assert tensor.weight_source is not None
        assert tensor.sensitivity_source is not None
    assert weights.origin == checkpoint


def test_what_was_seen_is_not_looked_at_again(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 20))
    weights = Weights(model)
    assert len(weights.looking_at(weights.select(("0",)))(False).tensors) == 2
    looked = []
    monkeypatch.setattr(
        "nbquant.widgets.jobs.weights.tensor_statistics",
        lambda tensors, progress: (
            looked.extend(t.name for t in tensors),
            statistics.tensor_statistics(tensors, progress),
        )[1],
    )
    both = weights.looking_at(weights.select(("0", "1")))(False)
    assert [t.name for t in both.tensors] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert looked == ["1.weight", "1.bias"]
    weights.looking_at(weights.select(("1",)))(False)
    assert looked == ["1.weight", "1.bias"]
    weights = weights.weighed({name: torch.ones_like(p) for name, p in model.named_parameters()}, ("0",))
    weights.looking_at(weights.select(("0",)))(False)
    assert looked[2:] == ["0.weight", "0.bias"]


def test_statistics_of_other_sensitivities_are_not_kept_for_the_new_ones():
    torch.manual_seed(0)
    model = nn.Linear(20, 30)
    weights = Weights(model)
    look = weights.looking_at(weights.select(("",)))
    weights = weights.weighed({name: torch.full_like(p, 5.0) for name, p in model.named_parameters()}, ("",))
    old = look(False)
    new = weights.looking_at(weights.select(("",)))(False)
    assert sum(t.histogram.mass for t in old.tensors) == pytest.approx(630)
    assert sum(t.histogram.mass for t in new.tensors) == pytest.approx(5 * 630)


@pytest.mark.parametrize("job", ["estimate", "measure", "finetune", "prune"])
def test_what_needs_a_network_says_so(checkpoint, job):
    state = ExplorerState(checkpoint, ratio=6.0)
    assert state.wait(WAIT)
    before = state.point
    getattr(state, job)()
    assert state.wait(WAIT)
    assert "explore(model, data)" in state.error
    assert state.point is before
    assert state.measurement is state.finetuned is None


def test_model_without_data(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.BatchNorm1d(40))
    state = ExplorerState(model, ratio=5.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert "no data" in state.lacking
    state.measure()
    assert "no data" in state.error
    state.save(tmp_path / "model.nbq")
    assert state.wait(WAIT)
    restored = nq.load(tmp_path / "model.nbq").apply(model)
    assert torch.equal(restored[0].weight, state.exact.dequantize()["0.weight"])
    assert torch.equal(restored[1].running_var, model[1].running_var)


def test_data_with_a_checkpoint_are_refused(checkpoint):
    with pytest.raises(ValueError, match="data need a module"):
        ExplorerState(checkpoint, [(torch.zeros(1, 2), torch.zeros(1))])


def test_files_that_are_not_there_are_refused(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="no file"):
        ExplorerState(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no file"):
        ExplorerState(checkpoint, sensitivity=tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="pickle"):
        ExplorerState(tmp_path / "model.pt")


def test_view_of_a_checkpoint(checkpoint):
    explorer = explore(checkpoint, ratio=6.0)
    assert explorer.state.wait(WAIT)
    controls = {control["name"]: control for control in explorer.controls}
    reasons = [controls[name]["disabled"] for name in ("estimator", "samples", "density", "epochs")]
    reasons += [explorer.blocked[name] for name in ("prune", "measure", "finetune")]
    assert all("explore(model, data)" in reason for reason in reasons)
    assert "save" not in explorer.blocked
    assert "h = 1: none given" in explorer.now["note"]
    assert "no sensitivities" in str(explorer.heatmap["layout"])
    assert explorer.revision("rate_distortion") > 0
