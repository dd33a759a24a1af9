import contextlib
import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from nbquant.formats.safetensors import INDEX
from nbquant.models.checkpoint import Checkpoint

TENSORS = {
    "stem.weight": torch.randn(3, 2),
    "norm.weight": torch.ones(3),
    "norm.running_mean": torch.zeros(3),
    "norm.num_batches_tracked": torch.tensor(7),
    "fc.weight": torch.randn(4, 3).to(torch.bfloat16),
    "fc.bias": torch.zeros(4),
}
SHARDS = {"a.safetensors": ["fc.weight", "norm.weight", "norm.num_batches_tracked"], "b.safetensors": []}
SHARDS["b.safetensors"] = [name for name in TENSORS if name not in SHARDS["a.safetensors"]]


def sharded(folder, order=tuple(TENSORS)):
    folder.mkdir(exist_ok=True)
    for shard, names in SHARDS.items():
        save_file({name: TENSORS[name] for name in names}, folder / shard)
    where = {name: shard for shard, names in SHARDS.items() for name in names}
    write_index(folder, {name: where[name] for name in order})
    return folder


def write_index(folder, weight_map):
    (folder / f"model{INDEX}").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def read_index(folder):
    return json.loads((folder / f"model{INDEX}").read_text())["weight_map"]


@given(st.permutations(list(TENSORS)))
def test_shards_are_one_in_the_order_of_the_index(tmp_path_factory, order):
    folder = sharded(tmp_path_factory.getbasetemp() / "permuted", order)
    for path in (folder, str(folder), folder / f"model{INDEX}"):
        checkpoint = Checkpoint.open(path)
        assert list(checkpoint.files) == list(order)
        assert checkpoint.stored("fc.weight").dtype == "BF16"
        for name in ("stem.weight", "fc.weight", "norm.running_mean"):
            assert torch.equal(checkpoint.tensor(name), TENSORS[name])


def test_one_file_and_a_folder_with_it(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        assert set(Checkpoint.open(path).files) == set(TENSORS)
    assert set(Checkpoint.open(tmp_path).layers) == {"stem", "norm", "fc"}


def test_links_to_files_elsewhere_are_followed(tmp_path):
    """As download caches lay them out: a folder of links to files that are named by their content."""
    real, links = sharded(tmp_path / "blobs"), tmp_path / "snapshot"
    links.mkdir()
    for file in real.iterdir():
        (links / file.name).symlink_to(file)
    checkpoint = Checkpoint.open(links)
    assert torch.equal(checkpoint.tensor("stem.weight"), TENSORS["stem.weight"])
    assert checkpoint.stored("stem.weight").source.path == (real / "b.safetensors").resolve()


def test_what_can_be_quantized(tmp_path):
    save_file(TENSORS | {"codes": torch.zeros(2, dtype=torch.int8)}, tmp_path / "m.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    quantizable = {name for name in checkpoint.files if checkpoint.is_quantizable(name)}
    assert quantizable == {"stem.weight", "norm.weight", "fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("packed", "beside"),
    [
        ({"q.qweight": torch.int32}, ["q.scales", "q.g_idx"]),
        ({"q.weight": torch.float8_e4m3fn}, ["q.weight_scale_inv"]),
        ({"q.weight": torch.uint8}, ["q.weight.absmax", "q.weight.quant_map"]),
        ({"q.weight_packed": torch.int32}, ["q.weight_scale"]),
        ({"weight": torch.int8}, ["scale"]),
    ],
)
def test_scales_belong_to_their_quantized_weight(tmp_path, packed, beside):
    name, dtype = next(iter(packed.items()))
    bias = name.rpartition(".")[0] + ".bias" if "." in name else "bias"
    tensors = {name: torch.zeros(4).to(dtype), bias: torch.ones(4), "fc.scales": torch.ones(4)}
    save_file(tensors | {other: torch.ones(2) for other in beside}, tmp_path / "m.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert [checkpoint.packed.parts[other] for other in beside] == [name] * len(beside)
    assert {n for n in checkpoint.files if checkpoint.is_quantizable(n)} == {bias, "fc.scales"}


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "ckpt", "BIN"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    for path in (tmp_path / f"model.{suffix}", tmp_path):
        (tmp_path / f"model.{suffix}").touch()
        with pytest.raises(ValueError, match=r"is a pickle, which may run code .*safetensors\.torch\.save_file"):
            Checkpoint.open(path)


def test_other_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        Checkpoint.open(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="index of a checkpoint is required, but there is no file"):
        Checkpoint.open(tmp_path / f"none{INDEX}")
    with pytest.raises(ValueError, match=r"a folder with one of these is required, but 'lenet5-fashion' came"):
        Checkpoint.open("lenet5-fashion")
    with pytest.raises(ValueError, match="holds none of either"):
        Checkpoint.open(tmp_path)
    for name in "abcd":
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"holds 4 \('a\.safetensors', 'b\.safetensors', 'c\.safetensors' and 1 more"):
        Checkpoint.open(tmp_path)


def drop_shard(folder):
    (folder / "b.safetensors").unlink()


def truncate_shard(folder):
    content = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(content[:-1])


def other_shard(folder):
    save_file({"other": torch.ones(2)}, folder / "b.safetensors")


def copy_shard(folder):
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")


def swap_names(folder):
    write_index(folder, read_index(folder) | {"fc.weight": "b.safetensors"})


def forget_name(folder):
    write_index(folder, {name: shard for name, shard in read_index(folder).items() if name != "norm.weight"})


def second_index(folder):
    shutil.copy(folder / f"model{INDEX}", folder / f"other{INDEX}")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (drop_shard, FileNotFoundError, r"all files of 'model.*' are required, but 'b\.safetensors' is not in"),
        (
            truncate_shard,
            ValueError,
            r"b\.safetensors' must have \d+ bytes by its header, but has \d+: it is trunc",
        ),
        (other_shard, ValueError, r"6 tensors of .* but 3 are not \('stem\.weight', .*should be in 'b\.safetensors'"),
        (copy_shard, ValueError, r"must be in one file, but '[\w.]+' is in '[ab]\.safetensors' and in '[ab]\."),
        (swap_names, ValueError, r"but 1 are not \('fc\.weight'; the first should be in 'b\.safetensors'"),
        (forget_name, ValueError, r"must name all tensors .* but 1 of 6 are not named \('norm\.weight'\)"),
        (second_index, ValueError, r"must hold one .* holds 2 \("),
    ],
)
def test_damaged_shards(tmp_path, damage, error, message):
    folder = sharded(tmp_path / "model")
    damage(folder)
    with pytest.raises(error, match=message):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "shard",
    [
        "../a.safetensors",
        "x/../../a.safetensors",
        "/etc/a.safetensors",
        "C:\\a.safetensors",
        "..\\a.safetensors",
        "a\0.safetensors",
        "a.json",
        "",
    ],
)
def test_index_stays_in_its_folder(tmp_path, shard):
    write_index(tmp_path, {"w": shard})
    with pytest.raises(ValueError, match=r"must be \.safetensors files in its folder, but .*do not use"):
        Checkpoint.open(tmp_path)


def test_index_of_pickles(tmp_path):
    write_index(tmp_path, {"w": "pytorch_model.bin"})
    with pytest.raises(ValueError, match="is a pickle"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be JSON"),
        ("[]", "must be a JSON object, but is a list"),
        ("{}", "must map tensors to files"),
        ('{"weight_map": ["a.safetensors"]}', "must map tensors to files"),
        ('{"weight_map": {"w": 3}}', "must map tensors to files"),
        ('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', "'w' comes twice"),
        ("[" * 100_000, "must be JSON"),
    ],
)
def test_damaged_index(tmp_path, content, message):
    (tmp_path / f"model{INDEX}").write_text(content)
    with pytest.raises(ValueError, match=message):
        Checkpoint.open(tmp_path)


def test_index_without_bound_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("nbquant.formats.safetensors.MOST_JSON", 50)
    folder = sharded(tmp_path / "model")
    with pytest.raises(ValueError, match="must be at most 50 bytes, but is more"):
        Checkpoint.open(folder)


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=12)), st.binary(max_size=4), st.integers(0, 60))
def test_any_index_is_refused_or_opened(tmp_path_factory, weight_map, noise, at):
    folder = sharded(tmp_path_factory.getbasetemp() / "fuzzed")
    text = json.dumps({"weight_map": read_index(folder) | weight_map}).encode()
    (folder / f"model{INDEX}").write_bytes(text[:at] + noise + text[at:])
    with contextlib.suppress(ValueError, OSError):
        assert set(Checkpoint.open(folder).files) == set(TENSORS)
