"""Quantized safetensors checkpoints, written by independent packers or with bytes of the libraries."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import nbquant as nq
from nbquant import cli
from nbquant.formats.packed_checkpoint import PackedCheckpoint
from nbquant.formats.packed_files import is_packed, open_packed
from nbquant.formats.packed_safetensors import packed_file
from nbquant.tensorfile import TensorFile
from tests.formats import layouts
from tests.formats.layouts import SAMPLES


@pytest.mark.parametrize("which", SAMPLES)
def test_weights_are_decoded_in_any_pieces(which, tmp_path):
    sample = SAMPLES[which]()
    opened = open_packed(sample.write(tmp_path))
    assert sorted(opened.tensors) == sorted([sample.name, "net.bias", "norm.weight"])
    packed = opened.tensors[sample.name]
    assert packed.shape == sample.weight.shape
    assert packed.kind == packed.format.name == sample.kind
    assert packed.bits == 8 * sum(t.numel() * t.element_size() for t in sample.tensors.values())
    assert packed.name == "net.weight" or packed.others == ("net.weight",)
    expected = sample.weight.view(np.int32)
    rows = packed.rows
    np.testing.assert_array_equal(packed.values(0, rows).view(np.int32), expected)
    for first, last in ((0, 1), (3, 4), (5, 18), (rows - 1, rows)):
        np.testing.assert_array_equal(packed.values(first, last).view(np.int32), expected[first:last])


@pytest.mark.parametrize("which", SAMPLES)
def test_codes_are_counted_once_in_any_pieces(which, tmp_path):
    """The codes decode to the weights, up to the order of columns, and those of all pieces are those of the whole."""
    sample = SAMPLES[which]()
    packed = open_packed(sample.write(tmp_path)).tensors[sample.name]
    whole = packed.codes(0, packed.rows)
    pieces = [packed.codes(i, min(i + 7, packed.rows)) for i in range(0, packed.rows, 7)]
    if "blocks" not in which:
        decoded = packed.format.decode(whole)
        np.testing.assert_array_equal(np.sort(decoded, axis=1), np.sort(sample.weight, axis=1))
    codes = np.concatenate([piece.codes.reshape(-1) for piece in pieces])
    np.testing.assert_array_equal(codes, whole.codes.reshape(-1))
    for part in whole.parts:
        if part.values.size > 1:
            values = np.concatenate([piece.part(part.name) for piece in pieces])
            np.testing.assert_array_equal(values, part.values, err_msg=part.name)


@pytest.mark.parametrize(("shape", "scales"), [((64, 3, 5, 5), (64, 1, 1, 1)), ((40,), ())])
def test_int8_of_any_shape_has_the_shape_of_the_weight(shape, scales, tmp_path):
    sample = layouts.int8_scales(shape, scales)
    packed = open_packed(sample.write(tmp_path)).tensors[sample.name]
    assert packed.shape == shape
    np.testing.assert_array_equal(packed.values(0, packed.rows).reshape(shape), sample.weight)


def test_blocks_of_rows_count_a_scale_once(tmp_path):
    packed = open_packed(SAMPLES["fp8 in blocks"]().write(tmp_path)).tensors["net.weight"]
    assert packed.codes(0, 200).part("scale").shape == (6,)
    assert packed.codes(1, 128).part("scale").shape == (0,)


def test_groups_of_unequal_size_are_decoded_without_a_block_format(tmp_path):
    sample = layouts.gptq()
    g = torch.arange(96) % 5 % 3
    q = np.round(sample.weight / np.repeat(sample.tensors["net.scales"].T.float().numpy(), 32, axis=1))
    path = layouts.Packed({**sample.tensors, "net.g_idx": g.int()}, "", "", q).write(tmp_path)
    packed = open_packed(path).tensors["net.qweight"]
    assert (packed.kind, packed.format, packed.codes) == ("int4_asym", None, None)
    one = layouts.gptq()
    path = layouts.Packed({**one.tensors, "net.g_idx": torch.arange(96).int() // 32}, "", "", q).write(tmp_path / "b")
    even = open_packed(path).tensors["net.qweight"]
    same = g.numpy() == np.arange(96) // 32
    np.testing.assert_array_equal(packed.values(3, 9)[:, same], even.values(3, 9)[:, same])
    assert (packed.values(3, 9)[:, ~same] != even.values(3, 9)[:, ~same]).any()


def test_unquantized_tensors_are_read_as_they_are(tmp_path):
    sample = layouts.awq()
    others = {
        "ids": torch.arange(6).reshape(2, 3),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "half": torch.ones(2, 3).half(),
    }
    save_file({**sample.tensors, **others, "none": torch.ones(0, 3)}, tmp_path / "m.safetensors")
    opened = open_packed(tmp_path)
    kinds = {name: packed.kind for name, packed in opened.tensors.items() if packed.format is None}
    assert kinds == {"ids": "I64", "mask": "BOOL", "half": "F16"}
    np.testing.assert_array_equal(opened.tensors["half"].values(1, 2), np.ones((1, 3), np.float32))
    assert opened.format == "AWQ"


def test_ordinary_checkpoints_are_not_packed(tmp_path):
    save_file({"net.weight": torch.ones(4, 4), "net.scale": torch.ones(4)}, tmp_path / "m.safetensors")
    assert not is_packed(tmp_path / "m.safetensors")
    assert not is_packed(tmp_path)
    save_file({"net.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "m.safetensors")
    assert not is_packed(tmp_path)
    with pytest.raises(ValueError, match="GGUF, Core ML, ONNX, quantized safetensors is required, but"):
        open_packed(tmp_path / "m.safetensors")
    assert not is_packed(tmp_path / "none.safetensors")


def test_folder_of_several_files_is_inspected_against_the_original(tmp_path):
    sample = layouts.gptq(act_order=True)
    parts = {"a.safetensors": ["net.qweight", "net.g_idx"], "b.safetensors": ["net.qzeros", "net.scales"]}
    for file, names in parts.items():
        save_file({name: sample.tensors[name] for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    net = torch.nn.Sequential()
    net.net = torch.nn.Linear(96, 64, bias=False)
    with torch.no_grad():
        net.net.weight.copy_(torch.from_numpy(sample.weight))
    row = nq.inspect(tmp_path, net, progress=False).iloc[0]
    assert (row["original"], row["order"], row["relative_error"]) == ("net.weight", "same", 0)
    stored = sample.tensors
    assert row["rate"] == 8 * sum(t.numel() * t.element_size() for t in stored.values()) / (64 * 96)
    zeros = int((sample.weight == 0).sum())
    assert row["zeros"] == zeros
    result = CliRunner().invoke(cli.commands, ["inspect", str(tmp_path)])
    assert result.exit_code == 0
    assert "net.qweight" in result.output


def test_scales_that_are_not_finite_are_counted(tmp_path):
    sample = layouts.compressed()
    sample.tensors["net.weight_scale"][2, 1] = math.nan
    row = nq.inspect(sample.write(tmp_path), progress=False).set_index("name").loc["net.weight_packed"]
    assert row["not_finite"] == 32


DAMAGES = {
    ("gptq 4 bits", "net.scales", None): "'net.scales' .* is required, but is not there",
    ("gptq 4 bits", "net.qzeros", None): "'net.qzeros' .* is required",
    ("gptq 4 bits", "net.scales", torch.ones(3, 60)): "'net.qweight' .* which does not fit 60 outputs",
    ("gptq 4 bits", "net.scales", torch.ones(2, 64)): "'net.qzeros' .* for the groups of 64 outputs, but has the shape",
    ("gptq 4 bits", "net.scales", torch.ones(3, 64, 1)): "'net.scales' .* of 2 axes, but is F32 of shape",
    ("gptq 4 bits", "net.qzeros", torch.zeros(3, 20, dtype=torch.int32)): "must have zero points of 2, 3, 4, 8 bits",
    ("gptq 4 bits", "net.g_idx", torch.full((96,), 3, dtype=torch.int32)): "from 0 to 2, but has 96, from 3 to 3",
    ("gptq 4 bits", "net.g_idx", torch.zeros(95, dtype=torch.int32)): "of each of 96 columns, .* but has 95",
    ("gptq without index", "net.qweight", torch.zeros(0, 64, dtype=torch.int32)): "'net.qweight' .* must be I32",
    ("awq", "net.qzeros", None): "'net.qzeros' .* is required",
    ("awq", "net.qzeros", torch.zeros(2, 8, dtype=torch.int32)): "must have the shape .3, 8. by codes and scales",
    ("awq", "net.qweight", torch.zeros(95, 8, dtype=torch.int32)): "3 groups for 95 columns, which do not divide",
    ("packed int4", "net.weight_scale", None): "'net.weight_scale' .* is required",
    ("packed int4", "net.weight_shape", None): "'net.weight_shape' .* is required",
    ("packed int4", "net.weight_shape", torch.tensor([20, 96])): "must have rows and columns of codes of shape",
    ("packed int4", "net.weight_shape", torch.tensor([21, 7000])): "12 words for 7000 columns, which is no number",
    ("packed int4", "net.weight_scale", torch.ones(4, 3)): "must have scales for 21 rows, or one, but has the shape",
    (
        "packed int4",
        "net.weight_packed",
        torch.ones(21, 12),
    ): "'net.weight_packed' .* must be I32 of 2 axes, but is F32",
    ("packed int4 asymmetric", "net.weight_zero_point", torch.ones(2, 3, dtype=torch.int32)): "must have zero points",
    ("golden nvfp4", "net.weight_scale", torch.ones(24, 32)): "must be F8_E4M3 of 2 axes",
    ("golden nvfp4", "net.weight_global_scale", torch.ones(2)): "must be one number",
    ("golden mxfp4", "net.weight_scale", torch.ones(24, 15, dtype=torch.uint8)): "a scale for each 32 of 24 × 512",
    ("whole int8", "net.weight_scale", torch.ones(21, 7)): "7 groups for 40 columns, which do not divide",
    ("bitsandbytes nf4", "net.weight.absmax", None): "'net.weight.absmax' .* is required",
    ("bitsandbytes nf4", "net.weight.quant_state.bitsandbytes__nf4", None): "bitsandbytes__nf4' .* is required",
    ("bitsandbytes nf4", "net.weight.quant_map", torch.ones(16)): "must have the 16 levels of nf4",
    ("bitsandbytes nf4", "net.weight.absmax", torch.ones(9)): "a scale for each 64 of 12,288 weights, but has 9",
    ("bitsandbytes nf4", "net.weight", torch.ones(9, 1, dtype=torch.uint8)): "has 9 bytes for the 12,288 weights",
    ("bitsandbytes nf4 double", "net.weight.nested_absmax", torch.ones(9)): "each 256 of 192 scales, but has 9",
    ("bitsandbytes nf4 double", "net.weight.nested_quant_map", None): "nested_quant_map' .* is required",
    ("fp8 per channel", "net.weight_scale", torch.ones(7, 1)): "has 7 rows of scales for 200 rows",
    ("fp8 per channel", "net.weight_scale", torch.ones(200, 7)): "7 groups for 300 columns",
}


@pytest.mark.parametrize(("which", "part", "value"), DAMAGES)
def test_damage_is_told_with_tensor_and_file(which, part, value, tmp_path):
    sample = SAMPLES[which]()
    tensors = {name: tensor for name, tensor in sample.tensors.items() if name != part}
    if value is not None:
        tensors[part] = value
    path = layouts.Packed(tensors, "", "", sample.weight).write(tmp_path)
    with pytest.raises(ValueError, match=DAMAGES[which, part, value]) as error:
        open_packed(path)
    assert "m.safetensors" in str(error.value)
    assert part.split(".")[0] in str(error.value)


def test_weight_without_scales_among_others_that_have_them_is_refused(tmp_path):
    tensors = layouts.float8((200, 1), width=300).tensors
    save_file({**tensors, "other.weight": tensors["net.weight"].clone()}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"'other\.weight_scale' .* is required"):
        open_packed(tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        *({"blocksize": 0}, {"blocksize": 1 << 40}, {"blocksize": True}, {"shape": [-1, 3]}, {"shape": "x"}),
        *({"quant_type": "fp4"}, {"nested_blocksize": 1}, {"nested_offset": "x"}, {"shape": [1 << 70, 2]}),
    ],
)
def test_damaged_state_is_told(state, tmp_path):
    sample = layouts.bitsandbytes(double=True)
    key = "net.weight.quant_state.bitsandbytes__nf4"
    whole = json.loads(sample.tensors[key].numpy().tobytes())
    raw = json.dumps(whole | state).encode()
    sample.tensors[key] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"must tell|is nested|bytes for the"):
        open_packed(sample.write(tmp_path))


MUTATED = ("gptq 4 bits act-order", "awq", "packed int4 asymmetric", "golden nvfp4", "whole int8 asymmetric")


def test_cut_file_is_told(tmp_path):
    path = layouts.awq().write(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    assert not is_packed(path)
    with pytest.raises(ValueError, match=r"m\.safetensors' must have .* it is truncated"):
        open_packed(path)


@pytest.mark.parametrize("which", [*MUTATED, "bitsandbytes nf4 double odd", "fp8 in blocks told"])
def test_any_damage_is_an_error_or_another_valid_file(which, tmp_path):
    """Whatever types, shapes, names and bytes become, no other error than ValueError comes."""
    sample = SAMPLES[which]()
    path = sample.write(tmp_path)
    stored = TensorFile.open(path).tensors
    rng = np.random.default_rng(0)
    opened, read, told = 0, 0, set()
    for _ in range(2000):
        places = {name: (entry.dtype, entry.shape, entry.source.offset) for name, entry in stored.items()}
        for _ in range(rng.integers(1, 3)):
            _change(places, str(rng.choice(list(places))), rng)
        with path.open("rb") as raw:
            file = TensorFile.of(path, raw, places)
        if rng.random() < 0.3:
            damaged = file.array(str(rng.choice(list(places)))).reshape(-1).view(np.uint8)
            damaged[rng.integers(0, len(damaged), 8)] = rng.choice([0, 1, 255, 49])
        try:
            found = packed_file(PackedCheckpoint(path, dict.fromkeys(file.tensors, file), sample.config or {}))
        except ValueError as error:
            told.add("m.safetensors" in str(error))
            continue
        opened += 1
        for packed in found.tensors.values():
            if packed.values is not None:
                assert packed.values(0, min(packed.rows, 2)).shape[1] == packed.columns
                read += 1
            if packed.codes is not None:
                assert packed.codes(0, min(packed.rows, 2)).codes.size
    assert told == {True}
    assert opened > 100
    assert read > 100


SAME_SIZE = {
    "I32": ("F32", "U32"),
    "F32": ("I32", "U32"),
    "F16": ("BF16", "I16"),
    "BF16": ("F16", "U16"),
    "U8": ("I8", "F8_E4M3", "BOOL"),
    "I8": ("U8", "F8_E5M2"),
    "I64": ("F64", "U64"),
    "F8_E4M3": ("F8_E5M2", "U8", "F8_E8M0"),
}


def _change(places, name, rng):
    """Change type, shape or name of a tensor, of the same number of bytes."""
    dtype, shape, begin = places[name]
    size = math.prod(shape)
    how = rng.integers(4)
    if how == 0 and dtype in SAME_SIZE:
        dtype = str(rng.choice(SAME_SIZE[dtype]))
    elif how == 1:
        factor = int(rng.choice([1, 2, 3, 4, 5, 8, 32]))
        if size % factor == 0:
            shape = (factor, size // factor) if rng.random() < 0.7 else (size // factor, factor)
    elif how == 2:
        shape = (*shape, 1) if rng.random() < 0.5 else (size,)
    elif how == 3:
        places[name[:-1] if rng.random() < 0.5 else name + "x"] = places.pop(name)
        return
    places[name] = dtype, shape, begin
