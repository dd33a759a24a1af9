"""Exported ONNX models, run by ONNX Runtime and read back by nq.inspect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.formats.onnx_model import open_model
from nbquant.formats.onnx_weights import LINEAR
from nbquant.formats.onnx_writer import Part, write_onnx
from nbquant.formats.packed_files import open_packed
from nbquant.formats.protobuf import bytes_field, number_field

WEIGHTS = ["fc.weight", "conv.weight", "odd.weight", "head.weight"]


class Net(nn.Module):
    """Layers with and without whole blocks, tied weights, and others of several types."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(64, 6)
        self.conv = nn.Conv2d(5, 4, 3)
        self.odd = nn.Linear(37, 3, bias=False)
        self.head = nn.Linear(10, 1, bias=False)
        self.tied = nn.Linear(37, 3, bias=False)
        self.tied.weight = self.odd.weight
        self.small = nn.Parameter(torch.randn(7, dtype=torch.float16))
        self.short = nn.Parameter(torch.randn(2, 3, dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("none", torch.ones(0, 3))


@pytest.fixture(scope="module")
def net():
    return Net()


def run(path, names=None, inputs=None):
    """Outputs of a model by ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs the model: pip install nbquant[test]")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = names or [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs or {}), strict=True))


def quantizers():
    """Each block format that ONNX holds, and methods with a codebook."""
    lengths = {"int4": "int4/32", "int4_asym": "int4_asym/16", "int3": "int3/9", "int2": "int2/8"}
    lengths["fp8_e4m3"] = "fp8_e4m3/32"
    found = {name: nq.BlockQuantizer(formats=(lengths.get(name, name),)) for name in LINEAR}
    for name in ("int4_asym", "fp8_e5m2"):
        found[f"{name} per channel"] = nq.BlockQuantizer(formats=(f"{name}/channel",))
    found |= {"int8 per tensor": nq.BlockQuantizer(formats=("int8_asym/tensor",))}
    found |= {"kmeans": nq.KMeans(7), "many values": nq.Uniform(0.001), "some values": nq.KMeans(30)}
    return found


QUANTIZERS = quantizers()


def exact(tensor):
    """Bits of a tensor."""
    tensor = torch.as_tensor(tensor).contiguous().reshape(-1)
    return tensor.view(torch.uint8).numpy()


@pytest.mark.parametrize("which", QUANTIZERS)
def test_weights_are_read_back_bit_for_bit(which, net, tmp_path):
    quantized = QUANTIZERS[which].fit(nq.select(net, layers=WEIGHTS))
    nq.export(quantized, tmp_path / "m.onnx", net, metadata={"author": "me"}, progress=False)
    opened = open_packed(tmp_path / "m.onnx")
    by_name = {other: packed for packed in opened.tensors.values() for other in (packed.name, *packed.others)}
    for name, tensor in quantized.tensors.items():
        found = by_name[name]
        np.testing.assert_array_equal(found.values(0, found.rows).ravel(), tensor.dequantize().numpy().ravel())
    assert by_name["count"].kind == "I64"
    assert by_name["mask"].kind == "BOOL"
    if tensor.scaling is not None and "matmul" not in which and "int3" not in which:
        assert by_name["fc.weight"].kind.split("/")[0] == tensor.scaling.format.split("/")[0].removesuffix("_torchao")


@pytest.mark.parametrize("which", QUANTIZERS)
def test_runtime_computes_the_weights_bit_for_bit(which, net, tmp_path):
    quantized = QUANTIZERS[which].fit(nq.select(net, layers=WEIGHTS))
    path = tmp_path / "m.onnx"
    nq.export(quantized, path, net, progress=False)
    outputs = run(path, [n for n in net.state_dict() if n != "short"])  # numpy has no bfloat16
    for name, value in outputs.items():
        key = "odd.weight" if name == "tied.weight" else name
        expected = quantized.tensors[key].dequantize() if key in quantized.tensors else net.state_dict()[name]
        assert value.shape == tuple(expected.shape)
        np.testing.assert_array_equal(exact(value), exact(expected), err_msg=name)


def test_library_finds_the_model_valid(net, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the onnx library checks the model: pip install nbquant[test]")
    for name in ("int2", "int8", "matmul4_asym", "fp8_e4m3", "kmeans"):
        quantized = QUANTIZERS[name].fit(nq.select(net, layers=WEIGHTS))
        nq.export(quantized, tmp_path / "m.onnx", net, metadata={"author": "me"}, progress=False)
        onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
        assert onnx.load(tmp_path / "m.onnx").metadata_props[0].value == "me"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("which", ["int8", "kmeans"])
def test_weights_keep_their_type(dtype, which, tmp_path):
    torch.manual_seed(1)
    net = nn.Linear(40, 7, bias=False).to(dtype)
    quantized = QUANTIZERS[which].fit(nq.select(net))
    nq.export(quantized, tmp_path / "m.onnx", progress=False)
    expected = quantized.tensors["weight"].dequantize()
    if dtype != torch.bfloat16:
        np.testing.assert_array_equal(exact(run(tmp_path / "m.onnx")["weight"]), exact(expected))


def test_pruned_weights_are_exactly_zero(net, tmp_path):
    quantized = nq.KMeans(5).fit(nq.select(net, layers=["fc.weight"]))
    tensor = quantized.tensors["fc.weight"]
    pruned = replace(tensor, assignment=torch.where(torch.arange(6 * 64) % 3 > 0, tensor.assignment, -1))
    nq.export(replace(quantized, tensors={"fc.weight": pruned}, unselected_bits=0), tmp_path / "m.onnx", progress=False)
    packed = open_packed(tmp_path / "m.onnx").tensors["fc.weight_quantized"]
    np.testing.assert_array_equal(packed.values(0, 6), pruned.dequantize())
    assert (packed.values(0, 6).ravel()[::3] == 0).all()
    np.testing.assert_array_equal(run(tmp_path / "m.onnx")["fc.weight"], pruned.dequantize())


@pytest.fixture
def network(tmp_path):
    """A network of the onnx library, and a module with its weights."""
    with np.load(Path(__file__).parents[1] / "formats" / "golden" / "onnx.npz") as stored:
        (tmp_path / "net.onnx").write_bytes(stored["network/model"].tobytes())
    constants = open_model(tmp_path / "net.onnx", ()).tensors
    module = nn.Module()
    module.conv = nn.Conv2d(4, 6, 3)
    module.fc = nn.Module()
    module.fc.weight = nn.Parameter(torch.empty(100, 8))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(constants[name].read().copy()).reshape(parameter.shape))
    return tmp_path / "net.onnx", module


@pytest.mark.parametrize("which", ["int8", "int4_asym", "int8_torchao", "kmeans"])
def test_network_computes_with_quantized_weights(which, network, tmp_path):
    path, module = network
    quantized = QUANTIZERS[which].fit(nq.select(module, layers=["conv.weight", "fc.weight"]))
    nq.export(quantized, tmp_path / "q.onnx", network=path, progress=False)
    by_name = {name: packed for packed in open_packed(tmp_path / "q.onnx").tensors.values() for name in packed.others}
    for name, tensor in quantized.tensors.items():
        found = by_name[name].values(0, by_name[name].rows).ravel()
        expected = tensor.dequantize()
        np.testing.assert_array_equal(np.sort(found), np.sort(expected.numpy().ravel()))
    kept = {n: t.read().tolist() for n, t in open_model(path, ()).tensors.items() if n not in quantized.tensors}
    written = open_model(tmp_path / "q.onnx", ()).tensors
    assert {name: written[name].read().tolist() for name in kept} == kept
    assert not set(quantized.tensors) & set(written)
    x = torch.randn(1, 4, 12, 7)
    weight = quantized.dequantize()
    hidden = nn.functional.conv2d(x, weight["conv.weight"], module.conv.bias).reshape(-1, 100)
    expected = (hidden @ weight["fc.weight"]).detach().numpy()
    (ours,) = run(tmp_path / "q.onnx", inputs={"x": x.numpy()}).values()
    (plain,) = run(path, inputs={"x": x.numpy()}).values()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(plain - expected).max() > 1e-3


def test_networks_that_do_not_fit_are_refused(network, net, tmp_path):
    path, module = network
    quantized = QUANTIZERS["int8"].fit(nq.select(module, layers=["fc.weight"]))
    other = QUANTIZERS["int8"].fit(nq.select(net, layers=["odd.weight"]))
    shape = nn.Module()
    shape.fc = nn.Linear(8, 50)
    raw = path.read_bytes()
    old = bytes_field(8, bytes_field(1, "") + number_field(2, 21))
    assert raw.count(old) == 1
    (tmp_path / "old.onnx").write_bytes(raw.replace(old, bytes_field(8, bytes_field(1, "") + number_field(2, 17))))
    four = QUANTIZERS["int4"].fit(nq.select(module, layers=["fc.weight"]))
    for what, options, told in (
        (other, {"network": path}, r"net\.onnx' must have a constant .* 'odd\.weight' is none of"),
        (QUANTIZERS["int8"].fit(nq.select(shape, layers=["fc.weight"])), {"network": path}, r"but has \(100, 8\)"),
        (four, {"network": tmp_path / "old.onnx"}, "must use version 21 of ONNX's operators .* but uses 17"),
        (quantized, {"network": path, "model": module}, "leave model out"),
    ):
        with pytest.raises(ValueError, match=told):
            nq.export(what, tmp_path / "q.onnx", progress=False, **options)
    nq.export(quantized, tmp_path / "q.onnx", network=tmp_path / "old.onnx", progress=False)


def test_what_onnx_cannot_hold_is_refused(net, tmp_path):
    quantized = nq.BlockQuantizer(formats=("nf4",)).fit(nq.select(net, layers=["fc.weight"]))
    with pytest.raises(ValueError, match=r"DequantizeLinear of ONNX computes .* but 'fc\.weight' is in nf4"):
        nq.export(quantized, tmp_path / "m.onnx", net, progress=False)
    assert not list(tmp_path.iterdir())


def test_large_models_are_refused_before_writing(tmp_path):
    part = Part(1 << 31, list)
    with pytest.raises(ValueError, match=r"at most 2,147,483,647 bytes, but this would have 2,147,483,652"):
        write_onnx(tmp_path / "m.onnx", b"head", [part])
    assert not list(tmp_path.iterdir())
