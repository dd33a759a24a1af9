"""Exported safetensors checkpoints, read back by ourselves and, in golden/, by the libraries."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import nbquant as nq
from nbquant.formats.packed_files import open_packed

GOLDEN = Path(__file__).parent / "golden" / "compressed_tensors.npz"
COMPRESSED = (
    *("int4/16", "int4/channel", "int4/tensor", "int4_asym/16", "int4_asym/channel", "int4_asym/tensor"),
    *("int8", "int8_asym", "int8_torchao", "int3/16", "int3_asym/16", "int2/16", "int2_asym/16"),
    *("matmul4", "matmul4_asym", "matmul8", "matmul8_asym", "fp8_e4m3", "fp8_e4m3/channel"),
)
GPTQ = (
    *("int4/32", "int4_asym/32", "int4/channel", "int4_asym/channel", "int4/tensor", "int8", "int8_asym"),
    *("int3/32", "int3_asym/32", "int2/32", "int2_asym/32", "matmul4", "matmul8_asym"),
)


def network():
    """A matrix in whole words, one that is not, tied weights, and others."""
    torch.manual_seed(0)
    net = nn.Module()
    net.fc, net.head = nn.Linear(96, 32), nn.Linear(96, 32, bias=False)
    net.head.weight = net.fc.weight
    net.conv = nn.Conv2d(2, 3, 3)
    net.odd = nn.Linear(33, 5, bias=False)
    net.register_buffer("count", torch.tensor(5))
    return net


@pytest.fixture(scope="module")
def net():
    return network()


def exported(net, which, path, format, layers=("fc.weight",)):
    quantized = nq.BlockQuantizer(formats=(which,), search=False).fit(nq.select(net, layers=list(layers)))
    nq.export(quantized, path, net, format=format, metadata={"author": "me"}, progress=False)
    return quantized


def bits(part):
    """Bytes of a part of a weight."""
    return part.contiguous().reshape(-1).view(torch.uint8).numpy()


def with_short_scales(quantized):
    """The quantization with scales that float16 holds."""
    tensor = quantized.tensors["fc.weight"]
    scale, *others = tensor.scaling.parts
    short = replace(scale, values=scale.values.astype(np.float16).astype(np.float32))
    scaling = replace(tensor.scaling, parts=(short, *others))
    return replace(quantized, tensors={"fc.weight": replace(tensor, scaling=scaling)})


def same(path, quantized):
    """Our reader decodes the weights bit for bit, in any pieces."""
    by_name = {name: p for p in open_packed(path).tensors.values() for name in (p.name, *p.others)}
    for name, tensor in quantized.tensors.items():
        expected = tensor.dequantize().numpy()
        np.testing.assert_array_equal(by_name[name].values(0, by_name[name].rows), expected)
        np.testing.assert_array_equal(by_name[name].values(3, 7), expected[3:7])
    return by_name


@pytest.mark.parametrize("which", COMPRESSED)
def test_compressed_tensors_decompresses_the_weights_bit_for_bit(which, net, tmp_path):
    path = tmp_path / "m.safetensors"
    quantized = exported(net, which, path, "compressed-tensors")
    same(path, quantized)
    with np.load(GOLDEN) as golden, safe_open(path, "pt") as file:
        parts = [name for name in file.keys() if name.startswith("fc.weight")]  # noqa: SIM118
        assert len(parts) >= 2
        for name in parts:
            np.testing.assert_array_equal(bits(file.get_tensor(name)), golden[f"{which}/{name[3:]}"])
        np.testing.assert_array_equal(quantized.dequantize()["fc.weight"].numpy(), golden[f"{which}/decompressed"])


@pytest.mark.parametrize("which", GPTQ)
def test_gptq_is_read_back_bit_for_bit(which, net, tmp_path):
    path = tmp_path / "m.safetensors"
    found = same(path, exported(net, which, path, "gptq"))["fc.weight"]
    base, _, length = which.partition("/")
    bits = next(c for c in base if c.isdigit())
    assert found.kind == f"int{bits}_asym/{'channel' if length == 'tensor' else length or found.kind.split('/')[1]}"


def test_scales_of_gptq_are_float16_where_that_is_exact(net, tmp_path):
    path = tmp_path / "m.safetensors"
    quantized = exported(net, "int4/32", path, "gptq")
    with safe_open(path, "np") as file:
        assert file.get_slice("fc.scales").get_dtype() == "F32"
    quantized = with_short_scales(quantized)
    nq.export(quantized, path, net, format="gptq", progress=False)
    same(path, quantized)
    with safe_open(path, "np") as file:
        assert file.get_slice("fc.scales").get_dtype() == "F16"


def test_zero_points_of_0_need_the_second_version_of_gptq(net, tmp_path):
    path = tmp_path / "m.safetensors"
    positive = network()
    with torch.no_grad():
        positive.fc.weight.abs_()
    for model, version in ((net, "gptq"), (positive, "gptq_v2")):
        same(path, exported(model, "int4_asym/32", path, "gptq"))
        assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["checkpoint_format"] == version


def test_formats_by_layer_and_other_tensors(net, tmp_path):
    path = tmp_path / "m.safetensors"
    (tmp_path / "config.json").write_text('{"model_type": "llama", "quantization_config": {"bits": 3}}')
    one = nq.BlockQuantizer(formats=("int4/16",)).fit(nq.select(net, layers=["fc.weight", "odd.weight"]))
    other = nq.BlockQuantizer(formats=("fp8_e4m3",)).fit(nq.select(net, layers=["fc.weight", "odd.weight"]))
    odd = nq.BlockQuantizer(formats=("int4_asym/channel",)).fit(nq.select(net, layers=["fc.weight", "odd.weight"]))
    tensors = {"fc.weight": other.tensors["fc.weight"], "odd.weight": odd.tensors["odd.weight"]}
    quantized = replace(one, tensors=tensors)
    nq.export(quantized, path, net, format="compressed-tensors", progress=False)
    by_name = {name: p for p in open_packed(path).tensors.values() for name in (p.name, *p.others)}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(by_name[name].values(0, by_name[name].rows), tensor.dequantize())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llama"
    about = config["quantization_config"]
    assert about["format"] == "mixed-precision"
    assert [group["targets"] for group in about["config_groups"].values()] == [["fc"], ["odd"]]
    with safe_open(path, "pt") as file:
        assert file.metadata()["nbquant.tied.head.weight"] == "fc.weight"
        assert torch.equal(file.get_tensor("conv.weight"), net.conv.weight)
        assert torch.equal(file.get_tensor("count"), net.count)


@pytest.mark.parametrize(
    ("format", "which", "layers", "told"),
    [
        ("compressed-tensors", "nf4", ["fc"], r"holds the block formats .* but 'fc\.weight' is in nf4"),
        ("compressed-tensors", "fp8_e4m3/32", ["fc"], "FP8 with a scale for each channel or for the tensor"),
        ("compressed-tensors", "int4/16", ["odd"], "'odd.weight' has 33 in groups of 16"),
        (
            "compressed-tensors",
            "int8",
            ["conv"],
            r"whose name ends in 'weight', but 'conv\.weight' has the shape",
        ),
        ("gptq", "fp8_e4m3", ["fc"], "is in fp8_e4m3"),
        ("gptq", "int4/channel", ["odd"], "fill whole words of 32 bits, but 'odd.weight' has 5 × 33 of 4 bits"),
        (None, "int8", ["fc"], "pass format= as one of compressed-tensors, gptq"),
        ("gguf", "int8", ["fc"], r"must end in \.gguf"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(format, which, layers, told, net, tmp_path):
    with pytest.raises(ValueError, match=told):
        exported(net, which, tmp_path / "m.safetensors", format, [f"{layer}.weight" for layer in layers])
    assert not list(tmp_path.iterdir())


def test_codebooks_and_two_formats_of_gptq_are_refused(net, tmp_path):
    selection = nq.select(net, layers=["fc.weight"])
    with pytest.raises(ValueError, match=r"'fc\.weight' has a codebook"):
        nq.export(nq.KMeans(4).fit(selection), tmp_path / "m.safetensors", net, format="gptq", progress=False)
    two = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    one, other = (nq.BlockQuantizer(formats=(name,)).fit(nq.select(two)) for name in ("int4/32", "int8"))
    mixed = replace(one, tensors={"0.weight": one.tensors["0.weight"], "1.weight": other.tensors["1.weight"]})
    with pytest.raises(ValueError, match=r"'0\.weight' is in int4/32 and '1\.weight', with 32 columns, in int8"):
        nq.export(mixed, tmp_path / "m.safetensors", two, format="gptq", progress=False)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="must be a JSON object"):
        nq.export(one, tmp_path / "m.safetensors", two, format="gptq", progress=False)
    assert not (tmp_path / "m.safetensors").exists()


def test_rows_of_one_group_go_with_groups_of_that_length(tmp_path):
    """A layer of 64 columns in groups of 64, beside one of 128."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128, bias=False), torch.nn.Linear(128, 64, bias=False))
    quantized = nq.fit(nq.select(model), "int4/64", progress=False)
    nq.export(quantized, tmp_path / "m.safetensors", model, format="gptq", progress=False)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["group_size"] == 64
    rows = nq.inspect(tmp_path / "m.safetensors", original=model, progress=False)
    assert rows["relative_error"].max() < 0.02
    short = torch.nn.Sequential(torch.nn.Linear(96, 64, bias=False), torch.nn.Linear(64, 64, bias=False))
    mixed = nq.fit(nq.select(short), "int4/channel", layer_formats={"1": "int4/32"}, progress=False)
    with pytest.raises(ValueError, match="no longer than a row"):
        nq.export(mixed, tmp_path / "m.safetensors", short, format="gptq", progress=False)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"metadata": {1: "a"}}, TypeError, "a key of metadata must be text"),
        ({"metadata": "a"}, TypeError, "metadata must map keys"),
    ],
)
def test_metadata_that_are_none_are_refused(options, error, told, net, tmp_path):
    model, h = net if isinstance(net, tuple) else (net, None)
    quantized = nq.fit(nq.select(model, h, layers=["fc.weight"]), "int4/32", progress=False)
    with pytest.raises(error, match=told):
        nq.export(quantized, tmp_path / "m.safetensors", model, format="gptq", **options)
