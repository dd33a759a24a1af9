"""Checkpoints that optimum-quanto, HQQ, torchao, MLX, GPTQModel and AutoAWQ wrote, whole and damaged."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file

import nbquant as nq
from nbquant.formats.packed_checkpoint import PackedCheckpoint
from nbquant.formats.packed_files import open_packed
from nbquant.formats.packed_safetensors import packed_file
from nbquant.tensorfile import TensorFile
from tests.formats.test_packed_safetensors import _change

GOLDEN = {}
for _name in ("libraries", "gptq_awq"):
    with np.load(Path(__file__).parent / "golden" / f"{_name}.npz") as _stored:
        GOLDEN |= dict(_stored)
SAMPLES = sorted({key.rpartition("/")[0] for key in GOLDEN})


def write(which, folder, **changed):
    """A checkpoint; with tensors replaced, or left out if they are None."""
    folder.mkdir(exist_ok=True)
    raw = GOLDEN[f"{which}/file"].tobytes()
    path = folder / "m.safetensors"
    path.write_bytes(raw)
    if changed:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()} | changed  # noqa: SIM118
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata)
    config = str(GOLDEN[f"{which}/config"])
    if config:
        (folder / "config.json").write_text(config)
    return path


def weight_in(path):
    """The quantized weight."""
    found = [p for p in open_packed(path).tensors.values() if "net.weight" in (p.name, *p.others)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("which", SAMPLES)
def test_weights_are_those_of_the_library_in_any_pieces(which, tmp_path):
    packed = weight_in(write(which, tmp_path))
    expected = GOLDEN[f"{which}/weight"]
    assert packed.shape == expected.shape
    rows = packed.rows
    whole = packed.values(0, rows)
    np.testing.assert_array_equal(whole.astype(expected.dtype), expected)  # some compute in float16
    for first, last in ((0, 1), (3, 8), (rows - 1, rows)):
        np.testing.assert_array_equal(packed.values(first, last), whole[first:last])


@pytest.mark.parametrize("which", SAMPLES)
def test_codes_are_counted_once_in_any_pieces(which, tmp_path):
    """The codes of all pieces are those of the whole, and decode to the weights, up to their order."""
    packed = weight_in(write(which, tmp_path))
    whole = packed.codes(0, packed.rows)
    assert whole.codes.size == packed.weights
    expected = GOLDEN[f"{which}/weight"]
    decoded = packed.format.decode(whole).astype(expected.dtype)
    np.testing.assert_array_equal(np.sort(decoded, axis=None), np.sort(expected, axis=None))
    pieces = [packed.codes(i, min(i + 5, packed.rows)) for i in range(0, packed.rows, 5)]
    np.testing.assert_array_equal(np.concatenate([p.codes.ravel() for p in pieces]), whole.codes.ravel())
    for part in whole.parts:
        if part.values.size > 1:
            np.testing.assert_array_equal(np.concatenate([p.part(part.name) for p in pieces]), part.values)


@pytest.mark.parametrize(
    ("which", "kind", "rate"),
    [
        ("quanto int8", "int8/channel", 8 + 32 / 64),
        ("quanto int4 groups", "uint4_minimum/128", 4 + 64 / 128),
        ("quanto fp8 e5m2", "fp8_e5m2/channel", 8 + 32 / 64),
        ("HQQ 4 axis 0", "uint4_zero/16", 4 + 64 / 16),
        ("HQQ 3 axis 1", "uint3_zero/16", 32 * 5 * 16 / 768 + 64 / 16),
        ("HQQ 5 axis 1", "uint5_zero/16", 8 + 64 / 16),
        ("torchao int8", "int8/channel", 8 + 40 / 64),
        ("torchao int4", "int4/32", 8 + 40 / 32),
        ("torchao int3 asymmetric", "int3_asym/32", 8 + 40 / 32),
        ("torchao nvfp4 tensor scale", "nvfp4", 4 + 8 / 16 + 32 / 768),
        ("MLX 3", "uint3_minimum/64", 3 + 64 / 64),
        ("MLX 4 groups of 32", "uint4_minimum/32", 4 + 64 / 32),
        ("MLX nvfp4", "nvfp4", 4.5),
    ],
)
def test_formats_and_stored_bits(which, kind, rate, tmp_path):
    packed = weight_in(write(which, tmp_path))
    assert packed.kind == kind
    assert packed.bits / packed.weights == pytest.approx(rate, rel=1e-12)


def test_parts_and_descriptions_are_not_listed_as_tensors(tmp_path):
    listed = {which: set(open_packed(write(which, tmp_path)).tensors) for which in SAMPLES if which[0] != "M"}
    assert listed["HQQ 4 axis 1"] == {"net.W_q", "net.bias"}
    assert listed["torchao int8"] == {"net._weight_qdata", "net.bias"}
    assert {"net.weight._data", "net.bias"} <= listed["quanto int8"]


def test_checkpoint_is_inspected_against_the_original(tmp_path):
    path = write("HQQ 4 axis 1", tmp_path)
    net = torch.nn.Module()
    net.net = torch.nn.Linear(64, 12)
    with torch.no_grad():
        net.net.weight.copy_(torch.from_numpy(GOLDEN["HQQ 4 axis 1/weight"]))
    row = nq.inspect(path, net, progress=False).set_index("name").loc["net.W_q"]
    assert (row["original"], row["order"], row["relative_error"], row["levels"]) == ("net.weight", "same", 0, 16)
    assert 0 < row["code_entropy"] < 4


def test_mlx_without_configuration_has_groups_of_64(tmp_path):
    path = write("MLX 4", tmp_path)
    (tmp_path / "config.json").unlink()
    assert weight_in(path).kind == "uint4_minimum/64"
    config = {"quantization": {"group_size": 64, "bits": 4, "net": {"group_size": 32, "bits": 8}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weight_in(path).kind == "uint8_minimum/32"


def test_experts_of_mlx_are_put_below_one_another(tmp_path):
    path = write("MLX 4", tmp_path)
    tensors = load(path.read_bytes())
    save_file({name: torch.stack([value, value]) for name, value in tensors.items()}, path)
    packed = weight_in(path)
    assert packed.shape == (24, 128)
    np.testing.assert_array_equal(packed.values(12, 24), GOLDEN["MLX 4/weight"])


def test_layouts_for_an_accelerator_are_listed_only(tmp_path):
    path = write("torchao int8", tmp_path, **{"net._weight_qdata": torch.zeros(12, 8, 4, 2, dtype=torch.int32)})
    packed = weight_in(path)
    assert (packed.kind, packed.values, packed.codes) == ("torchao I32", None, None)
    assert len(nq.inspect(path, progress=False)) == 2


DAMAGES = [
    ("quanto int8", "net.weight._scale", None, "'net.weight._scale' .* is required, but is not there"),
    ("quanto int8", "net.weight._scale", torch.ones(7, 1), "has 7 rows of scales for 12 rows"),
    ("quanto int4", "net.weight._shift", None, "'net.weight._shift' .* is required"),
    ("quanto int4", "net.weight._shift", torch.ones(5, 1), "for 12 scales and 5 shifts"),
    ("quanto int4", "net.weight._scale", torch.ones(99, 1), "must hold integers of 2 or 4 bits for 99 scales"),
    ("HQQ 4 axis 1", "net.scale", None, "'net.scale' .* is required"),
    ("HQQ 4 axis 1", "net.nbits", None, "'net.nbits' .* is required"),
    ("HQQ 4 axis 1", "net.nbits", torch.tensor(9, dtype=torch.int32), "'net.nbits' .* must be 1 to 8, but is 9"),
    ("HQQ 4 axis 1", "net.nbits", torch.tensor(2, dtype=torch.int32), "a packed grid of 48 × 16 integers of 2 bits"),
    ("HQQ 4 axis 1", "net.axis", torch.tensor(2, dtype=torch.int32), "'net.axis' .* must be 0 or 1, but is 2"),
    ("HQQ 4 axis 1", "net.axis", torch.ones(2, dtype=torch.int32), "'net.axis' .* must be one number"),
    ("HQQ 4 axis 1", "net.shape", torch.tensor([12, -64]), "'net.shape' .* must be rows and columns"),
    ("HQQ 4 axis 1", "net.shape", torch.tensor([12, 65]), "has 48 scales, and 48 zero points, for 12 × 65 weights"),
    ("HQQ 4 axis 1", "net.zero", torch.ones(7, 1), "has 48 scales, and 7 zero points"),
    ("torchao int4", "net._weight_scale", torch.ones(12, 3), "must have 36 zero points for as many scales"),
    ("torchao int4", "net._weight_scale", torch.ones(5, 2), "must have scales for 12 rows"),
    ("torchao int4", "net._weight_zero_point", torch.ones(3, dtype=torch.int8), "24 zero points for as many scales"),
    (
        "torchao mxfp4",
        "net._weight_scale",
        torch.ones(12, 3).to(torch.float8_e8m0fnu),
        "a scale for each 32 of 12 × 64",
    ),
    ("torchao nvfp4 tensor scale", "net._weight_per_tensor_scale", torch.ones(2), "must be one number"),
    ("MLX 4", "net.biases", None, "'net.biases' .* is required"),
    ("MLX 4", "net.biases", torch.ones(12, 3), "must have the shape .12, 2. of the scales"),
    ("MLX 4", "net.scales", torch.ones(11, 2), "must have scales for the rows of codes of shape .12, 16."),
    ("MLX mxfp4", "net.scales", torch.ones(12, 3, dtype=torch.uint8), "which is none of nvfp4, mxfp4, mxfp8"),
]


@pytest.mark.parametrize(("which", "part", "value", "told"), DAMAGES)
def test_damage_is_told_with_tensor_and_file(which, part, value, told, tmp_path):
    path = write(which, tmp_path, **{part: value})
    with pytest.raises(ValueError, match=told) as error:
        open_packed(path)
    assert "m.safetensors" in str(error.value)
    assert "net." in str(error.value)


def test_groups_of_mlx_that_no_length_gives_are_told(tmp_path):
    path = write("MLX 4", tmp_path, **{"net.scales": torch.ones(12, 3), "net.biases": torch.ones(12, 3)})
    with pytest.raises(ValueError, match=r"'net\.weight' of .* has 16 words for 3 groups of a row, which fits 0 of"):
        open_packed(path)


def test_integers_beyond_their_bits_are_told(tmp_path):
    codes = torch.zeros(12, 64, dtype=torch.int8)
    codes[7, 5] = 8
    packed = weight_in(write("torchao int4", tmp_path, **{"net._weight_qdata": codes}))
    assert packed.values(0, 7).shape == (7, 64)
    with pytest.raises(
        ValueError, match=r"_weight_qdata' .* must hold integers of 4 bits, but has others in rows 5 to 8"
    ):
        packed.values(5, 9)


def test_scales_that_are_not_finite_are_counted(tmp_path):
    scale = torch.ones(48, 1)
    scale[3] = math.nan
    path = write("HQQ 4 axis 1", tmp_path, **{"net.scale": scale})
    assert nq.inspect(path, progress=False).set_index("name").loc["net.W_q", "not_finite"] == 16


@pytest.mark.parametrize("which", ["quanto int4 groups", "HQQ 3 axis 0", "torchao int3 asymmetric", "MLX 4"])
def test_any_damage_is_an_error_or_another_valid_file(which, tmp_path):
    """Whatever types, shapes, names and bytes become, no other error than ValueError comes."""
    path = write(which, tmp_path)
    whole = TensorFile.open(path)
    rng = np.random.default_rng(0)
    config = json.loads(str(GOLDEN[f"{which}/config"]) or "{}").get("quantization", {})
    opened, read, told = 0, 0, set()
    for _ in range(2000):
        places = {name: (e.dtype, e.shape, e.source.offset) for name, e in whole.tensors.items()}
        for _ in range(rng.integers(1, 3)):
            _change(places, str(rng.choice(list(places))), rng)
        with path.open("rb") as raw:
            file = TensorFile.of(path, raw, places, whole.metadata)
        if rng.random() < 0.3:
            damaged = file.array(str(rng.choice(list(places)))).reshape(-1).view(np.uint8)
            damaged[rng.integers(0, len(damaged), 4)] = rng.choice([0, 1, 255, 49])
        try:
            found = packed_file(PackedCheckpoint(path, dict.fromkeys(file.tensors, file), config))
            opened += 1
            for packed in found.tensors.values():
                if packed.values is not None:
                    assert packed.values(0, min(packed.rows, 2)).shape[1] == packed.columns
                    read += 1
                if packed.codes is not None:
                    assert packed.codes(0, packed.rows).codes.size == packed.weights
        except ValueError as error:
            told.add("m.safetensors" in str(error))
    assert told == {True}
    assert opened > 100
    assert read > 100
