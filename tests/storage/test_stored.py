"""What an open file tells and gives, beside its tensors."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import nbquant as nq
from tests.storage.cases import Tied, all_same, network, quantize


@pytest.fixture
def tied(tmp_path):
    model = Tied()
    nq.save(nq.KMeans(5).fit(nq.select(model, layers="embed")), tmp_path / "m.nbq", model, progress=False)
    return model, nq.load(tmp_path / "m.nbq")


def test_a_row_a_name(tied):
    _, stored = tied
    frame = stored.to_frame().set_index("name")
    assert list(frame.index) == list(stored.names)
    row = frame.loc["embed.weight"]
    assert (row["layer"], row["shape"], row["dtype"], row["stored"]) == ("embed", "6×4", "F32", "quantized")
    assert (row["weights"], row["nonzero"], row["levels"]) == (24, 24, 5)
    assert row["bit/weight"] == 8 * row["bytes"] / 24
    assert row["ratio"] == 96 / row["bytes"]
    assert (frame.loc["head.weight", "stored"], frame.loc["head.weight", "bytes"]) == ("tied to embed.weight", 0)
    assert (frame.loc["scales", "stored"], frame.loc["scales", "ratio"]) == ("unchanged", 1)
    own = [n for n in frame.index if not frame.loc[n, "stored"].startswith("tied")]
    sections = sum(section.size for section in stored._layout.sections)
    assert frame.loc[own, "bytes"].sum() == sections - stored._layout.codebooks[0].size


def test_pruned_weights_are_counted(tmp_path):
    model = network(0.3)
    nq.save(quantize(model), tmp_path / "m.nbq", model, progress=False)
    frame = nq.load(tmp_path / "m.nbq").to_frame().set_index("name")
    assert frame["nonzero"].to_dict() == {n: int(p.count_nonzero()) for n, p in model.named_parameters()}


def test_what_it_says_of_itself(tied):
    _, stored = tied
    assert stored.recipe["quantizer"] == {
        "method": "kmeans", "levels": 5, "weighted": True, "coding": "huffman", "per_layer": False, "pinned_zero": False
    }  # fmt: skip
    assert stored.recipe["nbquant"] == nq.__version__
    stored.recipe["quantizer"]["levels"] = 9
    assert stored.recipe["quantizer"]["levels"] == 5
    assert stored.compression_ratio == stored.source_bits / 8 / stored.size
    assert "1 tensors quantized" in repr(stored)
    with pytest.raises(ValueError, match=r"'embed.wieght' came: the nearest are 'embed.weight'"):
        stored.tensor("embed.wieght")


def test_apply_leaves_the_model_as_it_is(tied):
    _, stored = tied
    model = Tied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    restored = stored.apply(model)
    assert all_same(model.state_dict(), before)
    assert all_same(restored.state_dict(), stored.state_dict(progress=False))


def untied():
    model = Tied()
    model.head.weight = nn.Parameter(torch.zeros(6, 4))
    return model


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: nn.Linear(2, 2), "lacks 'embed.weight'"),
        (lambda: nn.ModuleList([Tied()]), "lacks"),
        (lambda: Tied(torch.float16), "must have shape .* and type torch.float32, but the model has .* torch.float16"),
    ],
)
def test_apply_refuses_other_models(tied, other, message):
    _, stored = tied
    with pytest.raises(ValueError, match=message):
        stored.apply(other())


def test_apply_to_a_model_with_more(tied):
    _, stored = tied
    model = Tied()
    model.more = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"has 'more.weight', 'more.bias' besides"):
        stored.apply(model)


def test_apply_to_a_model_that_is_tied_otherwise(tied, tmp_path):
    _, stored = tied
    restored = stored.apply(untied())
    assert torch.equal(restored.head.weight, restored.embed.weight)
    apart = untied()
    nq.save(nq.KMeans(5).fit(nq.select(apart)), tmp_path / "apart.nbq", apart, progress=False)
    with pytest.raises(ValueError, match=r"'embed.weight' and 'head.weight' are one tensor in the model"):
        nq.load(tmp_path / "apart.nbq").apply(Tied())


def test_restored_can_be_fine_tuned_and_applied(tmp_path):
    model = network(0.3)
    quantized = quantize(model)
    nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    again = nq.load(tmp_path / "m.nbq").quantized()
    assert all_same(again.apply(model).state_dict(), quantized.apply(model).state_dict())
    assert again.rate == quantized.rate


def test_restored_in_a_new_process(tmp_path):
    model, _ = nq.zoo.load("lenet5-fashion-pruned")
    quantized = nq.fit(nq.select(model), "ecsq", ratio=50, progress=False)
    nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    torch.save(quantized.apply(model).state_dict(), tmp_path / "expected.pt")
    script = """
import sys
import torch
import nbquant as nq
from tests.storage.cases import all_same

model, _ = nq.zoo.load("lenet5-fashion")
restored = nq.load(sys.argv[1]).apply(model)
assert all_same(dict(restored.state_dict()), dict(torch.load(sys.argv[2], weights_only=True)))
"""
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "m.nbq", tmp_path / "expected.pt"], check=True, cwd=os.getcwd()
    )


def test_one_tensors_read_reads_nothing_else(tmp_path, monkeypatch):
    from nbquant.storage import books, sections, stored

    model = network(0.3)
    nq.save(quantize(model), tmp_path / "m.nbq", model, progress=False)
    loaded = nq.load(tmp_path / "m.nbq")
    labels = []
    read = sections.reading
    for module in (books, stored):
        monkeypatch.setattr(module, "reading", lambda path, part: labels.append(part.label) or read(path, part))
    loaded.tensor("2.weight")
    assert labels[0] == "codebook 'all'"
    assert [label for label in labels if label.startswith("tensor")] == ["tensor '2.weight'"]
