import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from nbquant.models import fashion_mnist, python_docs
from nbquant.models.evaluate import evaluate
from nbquant.models.layers import layer_names
from nbquant.models.zoo import NETWORKS
from nbquant.pipeline import train

# Batch norm's running averages need some steps before a network can be tested at all.
SAMPLES = {
    "lenet5-fashion": 320,
    "lenet5-fashion-pruned": 320,
    "resnet8-fashion": 1280,
    "mobilenet-fashion": 2560,
    "gpt-python": 160,
}
CLASSES = {"gpt-python": 128}  # 10 in all others


@pytest.fixture(scope="module")
def few():
    data = fashion_mnist.bundled()
    return replace(data, test=data.test.take(200))


def restored(name, file):
    """The network with weights from a file, in which tied ones are once."""
    model = NETWORKS[name].make()
    missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    assert not unexpected
    assert missing == (["head.weight"] if name == "gpt-python" else [])
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_one_epoch_is_better_than_chance_and_loads(name, tmp_path, monkeypatch, capsys):
    network, whole = NETWORKS[name], NETWORKS[name].bundled()
    data = replace(whole, train=whole.train.take(SAMPLES[name]), test=whole.test.take(200))
    monkeypatch.setitem(NETWORKS, name, replace(network, load=lambda folder: data if folder == "here" else None))
    out = tmp_path / "net.safetensors"
    train.main([name, "--data", "here", "--out", str(out), "--epochs", "1", "--seed", "3"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    record = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    model = restored(name, out)
    result = evaluate(model, data.test, progress=False)
    assert result.accuracy == record["test_accuracy"]
    assert result.loss == pytest.approx(record["test_loss"])
    assert result.loss < 0.95 * math.log(CLASSES.get(name, 10))
    assert result.accuracy > (0.1 if name == "gpt-python" else 0.2)
    assert record["nonzero"] == sum(int(p.count_nonzero()) for p in model.parameters())
    assert (record["seed"], record["train_samples"], record["test_samples"]) == (3, SAMPLES[name], 200)
    said = f"{100 * result.accuracy:.2f} % of 200 test samples, loss {result.loss:.4f}\n"
    assert capsys.readouterr().out == f"{out}: {said}"
    if name == "lenet5-fashion-pruned":  # as dense as the shipped one, layer by layer
        kept = {layer: int(model.get_parameter(f"{layer}.weight").count_nonzero()) for layer in layer_names(model)}
        assert kept == {"conv1": 330, "conv2": 5000, "fc1": 36_000, "fc2": 1500}
        assert record["nonzero"] == 43_410
        assert len(record["train_loss"]) == 2


def test_same_seed_same_network_and_no_other_random_number_is_disturbed(few):
    small = replace(few, train=few.train.take(128), test=few.test.take(50))
    state = torch.get_rng_state()
    (one, first), (two, _), (other, _) = (
        train.train("lenet5-fashion", small, epochs=1, seed=seed, progress=False) for seed in (5, 5, 6)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.fc1.weight, two.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)
    assert not one.training
    assert first.test_samples == 50


def test_what_cannot_be_trained_is_refused(few):
    with pytest.raises(ValueError, match=r"a network is required, one of 'lenet5-fashion', .* but got 'lenet'"):
        train.train("lenet", few)
    with pytest.raises(ValueError, match="epochs must be at least 1, but is 0: leave it out for 8"):
        train.train("resnet8-fashion", few, epochs=0)


@pytest.mark.parametrize("out", ["missing/net.safetensors", "net.pt"])
def test_command_refuses_a_place_it_cannot_write_before_training(tmp_path, capsys, out):
    with pytest.raises(SystemExit):
        train.main(["lenet5-fashion", "--out", str(tmp_path / out)])
    assert "--out must be a .safetensors file in a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "missing"),
    [("lenet5-fashion", "train-images-idx3-ubyte.gz"), ("gpt-python", python_docs.FOLDER_VARIABLE)],
)
def test_command_says_what_is_missing(tmp_path, capsys, name, missing):
    with pytest.raises(SystemExit):
        train.main([name, "--data", str(tmp_path), "--out", str(tmp_path / "net.safetensors")])
    assert missing in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
