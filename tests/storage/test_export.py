"""Exported GGUF files, read back by the gguf library and by nq.inspect."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.formats.gguf_writer import HELD
from nbquant.formats.packed_files import open_packed


class Net(nn.Module):
    """Two layers to quantize, tied weights, and others in every type that GGUF has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(512, 6)
        self.b = nn.Linear(256, 10, bias=False)
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight = self.b.weight
        self.c = nn.Parameter(torch.randn(2, 3, 5, dtype=torch.bfloat16))
        self.short = nn.Parameter(torch.randn(7, dtype=torch.float16))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("exact", torch.randn(3, dtype=torch.float64))


@pytest.fixture(scope="module")
def net():
    return Net()


def quantized_in(net, *formats):
    selection = nq.select(net, layers=["a.weight", "b.weight"])
    return nq.BlockQuantizer(formats=formats).fit(selection)


@pytest.mark.parametrize("name", HELD)
def test_library_reads_the_blocks_bit_for_bit(name, net, tmp_path):
    quantized = quantized_in(net, name)
    path = tmp_path / "m.gguf"
    about = {
        "general.architecture": "llama",
        "llama.block_count": 3,
        "x.f": 0.5,
        "x.b": True,
        "x.n": -2,
        "x.l": ["a", "é"],
    }
    nq.export(quantized, path, net, metadata={**about, "x.big": 1 << 40, "x.i": [1, 2]}, progress=False)
    read = gguf.GGUFReader(path)
    for key, value in about.items():
        assert read.fields[key].contents() == value
    assert read.fields["x.big"].contents() == 1 << 40
    assert read.fields["x.i"].contents() == [1, 2]
    assert read.fields["nbquant.tied.head.weight"].contents() == "b.weight"
    theirs = {tensor.name: tensor for tensor in read.tensors}
    assert set(theirs) == set(net.state_dict()) - {"head.weight"}
    for key, tensor in quantized.tensors.items():
        found = theirs[key]
        assert found.tensor_type.name.lower() == name.removesuffix("_gguf")
        assert tuple(found.shape[::-1]) == tuple(tensor.shape)
        decoded = gguf.dequantize(found.data, found.tensor_type)
        np.testing.assert_array_equal(decoded.view(np.int32), tensor.dequantize().numpy().view(np.int32))
    for key, kind in {"a.bias": "F32", "c": "BF16", "short": "F16", "count": "I64", "exact": "F64"}.items():
        assert theirs[key].tensor_type.name == kind
        stored = net.state_dict()[key].contiguous().reshape(-1).view(torch.uint8).numpy()
        np.testing.assert_array_equal(theirs[key].data.reshape(-1).view(np.uint8), stored)
    ours = open_packed(path)
    assert list(ours.tensors) == [tensor.name for tensor in read.tensors]


def test_layers_in_several_formats(net, tmp_path):
    one, other = quantized_in(net, "q8_0"), quantized_in(net, "q4_k")
    tensors = {"a.weight": one.tensors["a.weight"], "b.weight": other.tensors["b.weight"]}
    quantized = replace(one, tensors=tensors, codebooks={"a": one.codebooks["a"], "b": other.codebooks["b"]})
    nq.export(quantized, tmp_path / "m.gguf", net, progress=False)
    frame = nq.inspect(tmp_path / "m.gguf", net, progress=False).set_index("name")
    assert frame.loc[["a.weight", "b.weight"], "format"].tolist() == ["q8_0", "q4_k"]
    assert frame.loc["a.bias", "format"] == "F32"
    assert 0 < frame.loc["a.weight", "relative_error"] < 1e-4 < frame.loc["b.weight", "relative_error"] < 0.01


def test_what_gguf_cannot_hold_is_refused(net, tmp_path):
    path = tmp_path / "m.gguf"
    whole = quantized_in(net, "q8_0")
    for quantized, told in (
        (nq.Uniform(0.1).fit(nq.select(net, layers=["a"])), r"'a\.weight' has a codebook"),
        (quantized_in(net, "nf4"), r"'a\.weight' is in nf4"),
    ):
        with pytest.raises(ValueError, match=told):
            nq.export(quantized, path, net, progress=False)
    odd = nn.Sequential(nn.Conv2d(4, 8, 3))
    with pytest.raises(ValueError, match=r"multiple of 32 weights, but '0\.weight' has the shape \(8, 4, 3, 3\)"):
        nq.export(
            nq.BlockQuantizer(formats=("q8_0",)).fit(nq.select(odd, layers=["0.weight"])), path, odd, progress=False
        )
    for value, told in ((torch.ones(1, 1, 1, 1, 2), "at most 4 axes"), (torch.ones(2, dtype=torch.bool), "is BOOL")):
        other = Net()
        other.register_buffer("extra", value)
        with pytest.raises(ValueError, match=told):
            nq.export(quantized_in(other, "q8_0"), path, other, progress=False)
    for options, told in (
        ({"metadata": {"x": [1, "a"]}}, "'x' is"),
        ({"metadata": {"x": 1 << 80}}, "'x' is"),
        ({"metadata": {"general.alignment": 64}}, "leave 'general.alignment' out"),
        ({"format": "zip"}, "format of gguf, onnx.* is required, but 'zip' came"),
    ):
        with pytest.raises(ValueError, match=told):
            nq.export(whole, path, net, progress=False, **options)
    with pytest.raises(ValueError, match=r"must end in one of \.gguf, \.onnx"):
        nq.export(whole, tmp_path / "m.nbq", net, progress=False)
    assert not list(tmp_path.iterdir())
