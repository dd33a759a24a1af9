import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nbquant.sensitivity import Sensitivity
from nbquant.sensitivity.files import load_sensitivity, save_sensitivity


def example():
    tensors = {"b": torch.tensor([[1.0, 3.0]]), "a": torch.tensor([8.0, 0.0], dtype=torch.float64)}
    return Sensitivity(tensors, "hutchinson", 5, {"b": 1}, inactive=("c.weight", "ü")).damped(0.1)


def test_round_trip(tmp_path):
    save_sensitivity(example(), tmp_path / "h.safetensors")
    found = load_sensitivity(str(tmp_path / "h.safetensors"))
    assert {name: h.tolist() for name, h in found.items()} == {name: h.tolist() for name, h in example().items()}
    assert found["a"].dtype == torch.float64
    assert (found.method, found.samples, found.clamped) == ("hutchinson", 5, {"b": 1})
    assert (found.damping, found.inactive) == (example().damping, ("c.weight", "ü"))
    assert found.damped(1.0).damping == pytest.approx(1.2)


def test_file_of_others(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "h.safetensors", metadata={"method": "theirs", "format": "pt"})
    found = load_sensitivity(tmp_path / "h.safetensors")
    assert (found.method, found.samples, found.damping) == ("file", 0, 0.0)
    assert found["w"].tolist() == [1, 1, 1]


def test_plain_mapping(tmp_path):
    save_sensitivity({"w": torch.ones(3).to(torch.bfloat16)}, tmp_path / "h.safetensors")
    assert load_sensitivity(tmp_path / "h.safetensors").method == "file"


def test_replaced_as_a_whole_while_it_is_mapped(tmp_path):
    path = tmp_path / "h.safetensors"
    save_sensitivity({"w": torch.ones(3)}, path)
    first = load_sensitivity(path)
    save_sensitivity(first.damped(1.0), path)
    assert first["w"].tolist() == [1, 1, 1]
    assert load_sensitivity(path)["w"].tolist() == [2, 2, 2]
    assert os.listdir(tmp_path) == ["h.safetensors"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples", "many"),
        ("damping", "x"),
        ("clamped", "[1]"),
        ("clamped", '{"a": "b"}'),
        ("inactive", "3"),
        ("inactive", "[" * 100_000),
        ("method", None),
    ],
)
def test_metadata_that_make_no_sense(tmp_path, key, value):
    path = tmp_path / "h.safetensors"
    save_sensitivity(example(), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {key: value}
    save_file({"w": torch.ones(1)}, path, metadata={k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(ValueError, match="must say how the sensitivities came about, but do not"):
        load_sensitivity(path)


@pytest.mark.parametrize(
    ("sensitivity", "name", "error", "message"),
    [
        ({"w": torch.ones(3)}, "h.pt", ValueError, r"must end in \.safetensors, but is 'h\.pt'"),
        (torch.ones(3), "h.safetensors", TypeError, "must map names to tensors, but a Tensor came"),
        ({}, "h.safetensors", ValueError, "mapping is empty"),
        ({"w": torch.arange(3)}, "h.safetensors", TypeError, "'w' must be a floating-point tensor, but is torch.int64"),
        ({"w": [1.0]}, "h.safetensors", TypeError, "'w' must be a floating-point tensor, but is list"),
        ({"w": torch.ones(3)}, "none/h.safetensors", OSError, "a folder that exists is required"),
    ],
)
def test_what_cannot_be_saved(tmp_path, sensitivity, name, error, message):
    with pytest.raises(error, match=message):
        save_sensitivity(sensitivity, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_sensitivity(tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match="is a pickle"):
        load_sensitivity(tmp_path / "h.pt")
    save_file({"w": torch.ones(3), "codes": torch.arange(3)}, tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match=r"but 1 of 2 in .* are not \('codes' is I64\)"):
        load_sensitivity(tmp_path / "h.safetensors")
