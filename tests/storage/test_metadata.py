import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import nbquant as nq
from nbquant.storage.errors import CorruptFileError
from nbquant.storage.metadata import MOST_METADATA, merged_metadata, metadata_size
from tests.storage.cases import assembled, parts

GOLDEN = Path(__file__).parent / "golden" / "metadata.nbq"


def said(path):
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def round_trip(folder, metadata):
    """What a file says about itself, before and after."""
    before, small, after = (folder / name for name in ("m.safetensors", "m.nbq", "back.safetensors"))
    weight = torch.linspace(-1, 1, 600).reshape(20, 30)
    save_file({"a.weight": weight, "a.bias": torch.ones(20)}, before, metadata=metadata)
    quantized = nq.fit(nq.select(before, layers="a.weight"), "kmeans", levels=4, progress=False)
    ledger = nq.save(quantized, small, before, progress=False)
    assert ledger.total == 8 * small.stat().st_size
    nq.decompress(small, after, progress=False)
    return nq.load(small).metadata, said(after)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "mlx"},
        {"format": "pt", "modelspec.title": "mine ü 日本", "ss_network_alpha": "16", "": "of no name", "empty": ""},
        {"quotes": '{"a": "\\u0000\n"}', "nul": "\0", "__metadata__": "of its own name", "coding": "context"},
    ],
)
def test_metadata_come_back(tmp_path, metadata):
    stored, after = round_trip(tmp_path, metadata)
    assert stored == metadata
    own = json.loads(after.pop("nbquant"))
    assert own["recipe"]["quantizer"]["method"] == "kmeans"
    assert after == {"format": "pt"} | metadata


def test_a_file_that_says_nothing_is_as_before(tmp_path):
    stored, after = round_trip(tmp_path, None)
    assert stored == {}
    assert after.keys() == {"format", "nbquant"}
    data = (tmp_path / "m.nbq").read_bytes()
    assert data[10] == 0
    assert "metadata" not in parts(data)[0]


def test_our_own_entry_is_that_of_the_last_time(tmp_path):
    first = tmp_path / "m.safetensors"
    round_trip(tmp_path, {"title": "t"})
    (tmp_path / "back.safetensors").replace(first)
    again = nq.fit(nq.select(first), "uniform", step=0.5, progress=False)
    nq.save(again, tmp_path / "2.nbq", first, progress=False)
    assert nq.load(tmp_path / "2.nbq").metadata == {"format": "pt", "title": "t"}
    nq.decompress(tmp_path / "2.nbq", tmp_path / "2.safetensors", progress=False)
    assert json.loads(said(tmp_path / "2.safetensors")["nbquant"])["recipe"]["quantizer"]["method"] == "uniform"


def test_metadata_count_in_a_ratio_of_the_whole_file(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.randn(60, 80)}, path, metadata={"text": "x" * 1000})
    quantized = nq.fit(nq.select(path), "kmeans", ratio=4, file_of=path, progress=False)
    assert nq.save(quantized, tmp_path / "m.nbq", path, progress=False).total <= 32 * 4800 / 4


def test_what_is_too_long_is_left_out_and_said(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of 3 metadata entries \('long'\) are left out: at most 1,048,576 bytes"):
        stored, after = round_trip(tmp_path, {"a": "b", "long": "\t" * MOST_METADATA, "c": "d"})
    assert stored == {"a": "b", "c": "d"}
    assert "long" not in after


def test_files_of_a_checkpoint_must_agree():
    assert merged_metadata([{"format": "pt", "a": "1"}, {"format": "pt", "b": "2"}]) == {
        "format": "pt",
        "a": "1",
        "b": "2",
    }
    with pytest.warns(UserWarning, match=r"1 of 2 metadata entries \('a'\) are left out"):
        assert merged_metadata([{"a": "1", "b": "2"}, {"a": "2"}, {"a": "1"}]) == {"b": "2"}


@pytest.mark.parametrize(
    "value", [[], "text", 3, None, {"a": 1}, {"a": None}, {"a": ["b"]}, {"a": {}}, {"a": "x" * MOST_METADATA}]
)
def test_other_values_are_refused(tmp_path, value):
    header, sections = parts(GOLDEN.read_bytes())
    (tmp_path / "m.nbq").write_bytes(assembled(header | {"metadata": value}, sections, minor=1))
    with pytest.raises(
        CorruptFileError, match="metadata must be an object of texts of at most 1,048,576 bytes"
    ) as error:
        nq.load(tmp_path / "m.nbq")
    assert len(str(error.value)) < 600


def test_the_most_is_read(tmp_path):
    text = "x" * (MOST_METADATA - metadata_size({"a": ""}))
    header, sections = parts(GOLDEN.read_bytes())
    (tmp_path / "m.nbq").write_bytes(assembled(header | {"metadata": {"a": text}}, sections, minor=1))
    assert nq.load(tmp_path / "m.nbq").metadata == {"a": text}


def test_the_golden_file_is_read():
    """Made by version 1.1 of the format; its writer may change, but not what a reader finds in it."""
    stored = nq.load(GOLDEN)
    assert GOLDEN.read_bytes()[8:12] == b"\1\0\1\0"
    assert stored.metadata == {"format": "pt", "modelspec.title": "mine ü"}
    assert stored.tensor("w").tolist() == [[0.0, 1.5], [-1.0, 0.0]]


def test_a_reader_of_version_1_0_finds_the_same_tensors(tmp_path):
    header, sections = parts(GOLDEN.read_bytes())
    del header["metadata"]
    (tmp_path / "m.nbq").write_bytes(assembled(header, sections))
    assert torch.equal(nq.load(tmp_path / "m.nbq").tensor("w"), nq.load(GOLDEN).tensor("w"))
