"""A weight is traced to the bits that hold it in a file that was written."""

import struct

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.trace import bits_of, layout_of, trace


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 20), nn.Linear(20, 5))


def written(quantized, model, tmp_path):
    path = tmp_path / "m.nbq"
    nq.save(quantized, path, model, progress=False)
    return np.unpackbits(np.frombuffer(path.read_bytes(), np.uint8))


@pytest.mark.parametrize("options", [{}, {"coding": "fixed"}, {"per_layer": True}])
def test_codeword_stands_in_the_file_where_it_is_told(model, tmp_path, options):
    quantized = nq.fit(nq.select(model), "kmeans", levels=11, progress=False, **options)
    layout, file = layout_of(quantized, model), written(quantized, model, tmp_path)
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        for index in {0, 1, len(flat) // 2, len(flat) - 1}:
            found = trace(quantized, parameter, name, index, layout)
            assert found.weight == float(flat[index])
            assert found.value == float(quantized.dequantize()[name].reshape(-1)[index])
            assert parameter[found.place] == flat[index]
            assert found.codeword
            bits = file[found.first_bit : found.first_bit + len(found.codeword)]
            assert "".join(map(str, bits)) == found.codeword
            assert found.byte == found.first_bit // 8
            assert found.stream[0] <= found.byte < found.stream[1]


def test_pruned_weights_are_left_out_and_the_others_follow_the_gaps(model, tmp_path):
    pruned = nq.prune(model, 0.3).model
    quantized = nq.fit(nq.select(pruned), "kmeans", levels=5, progress=False)
    assert quantized.pruned
    layout, file = layout_of(quantized, pruned), written(quantized, pruned, tmp_path)
    weight = pruned[2].weight
    traces = [trace(quantized, weight, "2.weight", i, layout) for i in range(weight.numel())]
    gone = [t for t in traces if t.index is None]
    assert len(gone) == int((weight == 0).sum()) > 0
    assert all((t.value, t.codeword, t.byte) == (0.0, "", None) for t in gone)
    for found in (t for t in traces if t.index is not None):
        bits = file[found.first_bit : found.first_bit + len(found.codeword)]
        assert "".join(map(str, bits)) == found.codeword


@pytest.mark.parametrize("options", [{"coding": "arithmetic"}, {"coding": "context"}])
def test_without_codewords_of_its_own_it_is_in_its_block(model, tmp_path, options):
    quantized = nq.fit(nq.select(model), "ecsq", ratio=8, progress=False, **options)
    found = trace(quantized, model[2].weight, "2.weight", 7, layout_of(quantized, model))
    assert (found.codeword, found.first_bit) == ("", None)
    first, end = found.stream
    assert end - first == layout_of(quantized, model).entries["2.weight"].size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_bits_are_those_of_ieee_754(dtype):
    number = torch.tensor(-0.15625, dtype=dtype)
    bits = bits_of(number)
    assert len(bits) == 8 * number.element_size()
    assert bits[0] == "1"
    if dtype == torch.float32:
        assert int(bits, 2) == struct.unpack("<I", struct.pack("<f", -0.15625))[0]
        assert (bits[1:9], bits[9:12]) == (f"{124:08b}", "010")


def test_what_is_not_there_is_refused(model):
    quantized = nq.fit(nq.select(model, layers=["2"]), "kmeans", levels=4, progress=False)
    layout = layout_of(quantized, model)
    with pytest.raises(ValueError, match=r"is not among 2\.weight, 2\.bias"):
        trace(quantized, model[3].weight, "3.weight", 0, layout)
    with pytest.raises(ValueError, match="from 0 to 319, but is 320"):
        trace(quantized, model[2].weight, "2.weight", 320, layout)
