"""Table 1 runs on a few images, and says what it lacks; what its numbers say is not looked at."""

import gzip
import struct

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import nbquant as nq
from nbquant.models.batches import Batches
from nbquant.models.dataset import Dataset
from nbquant.models.lenet import LeNet5
from tests.benchmarks import imagenet, paper_networks, table1, train_cifar10
from tests.benchmarks.paper_networks import Images4
from tests.benchmarks.reproduction import Question


@pytest.mark.parametrize("suffix", ["md", "csv"])
def test_table_is_shown_and_written(tmp_path, capsys, suffix):
    out = tmp_path / f"table.{suffix}"
    figures = ["--figures", str(tmp_path)] if suffix == "md" else []
    table1.main(["--smoke", "lenet5-fashion", "--out", str(out), *figures])
    shown = capsys.readouterr().out
    assert "largest ratio with at most 0.5 points lost on the choosing half" in shown
    assert shown.count("k-means") == 8  # plain and weighted, dense and pruned, before and after
    assert "44.58" in shown, "the paper's number for pruned k-means"
    if suffix == "md":
        assert out.read_text(encoding="utf-8").count("|") > 100
        assert sorted(p.suffix for p in tmp_path.glob("*-figure?.*")) == [".csv", ".csv", ".png", ".png"]
        return
    table = pd.read_csv(out)
    measured = table[table["bytes"].notna()]
    parts = ["payload", "code_table", "codebook", "unquantized", "header", "container", "padding"]
    positions = measured[["position_payload", "position_table"]].fillna(0).sum(axis=1)
    assert (measured[parts].sum(axis=1) + positions == 8 * measured["bytes"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet"], "networks are lenet5-fashion, resnet8-fashion, but lenet came"),
        (["--checkpoint", "a.safetensors"], "belongs to one of --mnist, --cifar10 and --imagenet, but 0 came"),
        (["--out", "table.txt"], r"must end in .md or .csv, but is table.txt"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        table1.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_data_are_told(tmp_path):
    with pytest.raises(SystemExit, match="table1: train-images-idx3-ubyte"):
        table1.main(["--mnist", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"table1: data_batch_1\.bin"):
        table1.main(["--cifar10", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"AlexNet is not trained here: .*pip install torchvision"):
        table1.main(["--imagenet", str(tmp_path)])


def test_parts_of_a_set_share_no_image():
    inputs = torch.arange(10.0)
    batches = Batches(inputs, inputs.long(), 5)
    images = Images4.of(Dataset("numbers", batches.take(4), batches, batches))
    assert images.choosing.inputs.tolist() == [0, 2, 4, 6, 8]
    assert images.reporting.inputs.tolist() == [1, 3, 5, 7, 9]


def test_mnist_from_files_and_a_checkpoint(tmp_path):
    for split in ("train", "t10k"):
        with gzip.open(tmp_path / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4I", 0x803, 4, 28, 28) + bytes(4 * 784))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 4) + bytes([0, 1, 2, 3]))
    model = LeNet5()
    save_file(model.state_dict(), tmp_path / "lenet.safetensors")
    network = paper_networks.on_mnist(tmp_path, tmp_path / "lenet.safetensors", None, None, "cpu")
    assert torch.equal(network.model.fc1.weight, model.fc1.weight)
    assert network.images.reporting.targets.tolist() == [1, 3]
    assert network.density == 0.0855
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must hold the 8 tensors of LeNet5 \(conv1.weight, .* but: "):
        paper_networks.on_mnist(tmp_path, tmp_path / "other.safetensors", None, None, "cpu")


@pytest.mark.parametrize("folders", [["train", "val"], [""]])
def test_imagenet_s_images_are_parted(tmp_path, monkeypatch, folders):
    monkeypatch.setattr(paper_networks, "image_files", lambda folder: imagenet.image_files(folder, 2))
    for folder in folders:
        for name in ("n1", "n2"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (8, 8)).save(tmp_path / folder / name / f"{i}.jpg")
    images = paper_networks._of_folders(tmp_path, most=100)
    parts = [set(part.paths) for part in (images.tuning, images.choosing, images.reporting)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == (24 if folders == ["train", "val"] else 12)
    assert all(set(part.targets) == {0, 1} for part in (images.tuning, images.choosing, images.reporting))
    assert ("validation images only" in images.note) == (folders == [""])


def test_layers_of_resnets_are_all_but_batch_norms():
    assert len(nq.select(paper_networks.ResNet32(), layers=paper_networks.RESNET32_LAYERS)) == 464_154 - 2_272
    model, _ = nq.zoo.load("resnet8-fashion")
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert len(nq.select(model, layers=paper_networks.RESNET8_LAYERS)) == 75_002 - norms


def test_images_are_shifted_and_mirrored():
    torch.manual_seed(0)
    image = torch.arange(1.0, 3 * 32 * 32 + 1).reshape(1, 3, 32, 32)
    padded = nn.functional.pad(image[0], (4,) * 4)
    allowed = [
        version
        for top in range(9)
        for left in range(9)
        for cut in [padded[:, top : top + 32, left : left + 32]]
        for version in (cut, cut.flip(2))
    ]
    out = train_cifar10.augmented(image.expand(40, -1, -1, -1))
    found = [[torch.equal(one, version) for version in allowed].index(True) for one in out]
    assert len(set(found)) > 20
    assert {i % 2 for i in found} == {0, 1}


def test_training_lowers_the_loss_and_leaves_random_numbers_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    targets = torch.arange(64) % 2
    data = Batches(torch.randn(64, 3, 32, 32) * 0.01 + targets.reshape(-1, 1, 1, 1), targets, 64)
    before = nq.evaluate(model, data, progress=False).loss
    state = torch.get_rng_state()
    trained = train_cifar10.train_resnet(model, data, epochs=8, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert not trained.training
    assert nq.evaluate(trained, data, progress=False).loss < before / 2


@pytest.mark.parametrize("kept", [30, 60])
def test_ratio_of_a_pruned_network_counts_positions_however_many_are_kept(kept):
    model = nn.Linear(100, 1, bias=False)
    with torch.no_grad():
        model.weight[0, kept:] = 0
    ratio = table1.positions_ratio(Question(model, nq.select(model), [], []))
    # Gaps are all alike: a bit each at least.
    assert 0.9 * 100 / kept < ratio <= 32 * 100 / (33 * kept)
