"""What comes back is what went in, bit for bit, whatever that was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.coding import positions
from nbquant.coding.ledger import Ledger
from tests.storage.cases import Tied, all_same, expected_state, network, quantize, same

BLOCKS = pytest.mark.parametrize("block", [None, 37], ids=["one block", "blocks of 37"])
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
QUANTIZERS = st.one_of(
    st.builds(nq.KMeans, st.integers(1, 40), pinned_zero=st.booleans()),
    st.builds(nq.Uniform, st.floats(0.01, 1)),
    st.builds(nq.ECSQ, st.floats(1e-6, 1e-2)),
    st.builds(nq.Trellis, st.floats(1e-5, 1e-2)),
)


def check(quantized, path, model):
    """A file of it restores it, and its ledger is the selection's and the file's."""
    ledger = nq.save(quantized, path, model, progress=False)
    stored = nq.load(path)
    assert ledger == stored.ledger
    assert ledger.total == 8 * path.stat().st_size == 8 * stored.size
    assert {part: ledger[part] for part in quantized.ledger} == dict(quantized.ledger)
    expected = quantized.dequantize() if model is None else expected_state(model, quantized)
    state = stored.state_dict(progress=False)
    assert all_same({name: state[name] for name in expected}, expected)
    assert set(state) == set(expected) == set(stored.names)
    for name, tensor in expected.items():
        pieces = list(stored.chunks(name))
        assert all(len(piece) <= positions.BLOCK_ENTRIES for piece in pieces)
        assert same(torch.cat([tensor.new_empty(0), *pieces]), tensor.reshape(-1))
    again = stored.quantized()
    same_quantized(again, quantized)
    before = path.read_bytes()
    nq.save(again, path, model, progress=False)
    assert path.read_bytes() == before
    return stored


def same_quantized(a, b):
    assert a.ledger == b.ledger
    assert (a.quantizer, a.source_bits, a.unselected_bits) == (b.quantizer, b.source_bits, b.unselected_bits)
    assert (a.record, dict(a.finetuned)) == (b.record, dict(b.finetuned))
    assert a.distortion == b.distortion or (np.isnan(a.distortion) and np.isnan(b.distortion))
    assert list(a.codebooks) == list(b.codebooks)
    for group, book in a.codebooks.items():
        other = b.codebooks[group]
        assert same(book.value, other.value)
        assert book.counts.tolist() == other.counts.tolist()
        assert book.codeword_length.tolist() == other.codeword_length.tolist()
    assert list(a.tensors) == list(b.tensors)
    for name, tensor in a.tensors.items():
        assert tensor.shape == b.tensors[name].shape
        assert same(tensor.assignment, b.tensors[name].assignment)
        assert same(tensor.codebook, b.tensors[name].codebook)


@BLOCKS
@given(
    QUANTIZERS,
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.sampled_from(["huffman", "fixed", "arithmetic", "context"]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40)
def test_every_method_type_density_and_code(tmp_path_factory, block, quantizer, dtype, keep, coding, per_layer, h):
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(positions, "BLOCK_ENTRIES", block)
        model = network(keep, dtype)
        sensitivity = {n: torch.rand(p.shape) + 0.1 for n, p in model.named_parameters()} if h else None
        steps = {"steps": "equal slope" if per_layer else "joint"} if hasattr(quantizer, "steps") else {}
        quantizer = replace(quantizer, coding=coding, per_layer=per_layer, **steps)
        quantized = quantizer.fit(nq.select(model, sensitivity))
        check(quantized, tmp_path_factory.mktemp("round") / "m.nbq", model)


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=3).filter(lambda s: any(map(np.prod, s))),
    st.floats(0, 1),
    st.integers(0, 9),
)
@settings(max_examples=40)
def test_every_shape(tmp_path_factory, shapes, keep, seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Module()
    for i, shape in enumerate(shapes):
        values = torch.randn(shape, generator=generator)
        model.register_parameter(f"w{i}", nn.Parameter(values * (torch.rand(shape, generator=generator) < keep)))
    check(nq.KMeans(4).fit(nq.select(model)), tmp_path_factory.mktemp("shape") / "m.nbq", model)


@pytest.mark.parametrize("name", ["lenet5-fashion", "lenet5-fashion-pruned", "resnet8-fashion"])
def test_bundled_networks(tmp_path, name):
    model, _ = nq.zoo.load(name)
    layers = ["*conv*", "fc"] if name.startswith("resnet") else None
    selection = nq.select(model, layers=layers)
    ratio = 50 if name.endswith("pruned") else 10
    stored = check(nq.fit(selection, "ecsq", ratio=ratio, progress=False), tmp_path / "m.nbq", model)
    overhead = stored.ledger["header"] + stored.ledger["container"] + stored.ledger["padding"]
    assert overhead <= 8 * (900 if name.startswith("lenet") else 2400)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_weights_buffers_and_other_types(tmp_path, dtype):
    model = Tied(dtype)
    selection = nq.select(model, layers="embed")
    assert [t.name for t in selection] == ["embed.weight"]
    stored = check(nq.KMeans(5).fit(selection), tmp_path / "m.nbq", model)
    state = stored.state_dict(progress=False)
    assert state["head.weight"] is state["embed.weight"]
    assert state["again"] is state["scale"]
    assert state["mask_again"] is state["mask"]
    assert "cache" not in state
    assert stored.source_bits == 8 * sum(
        t.numel() * t.element_size() for name, t in state.items() if name not in ("head.weight", "again", "mask_again")
    )
    model.load_state_dict(state, strict=True)
    restored = stored.apply(Tied(dtype))
    assert all_same(restored.state_dict(), state)
    assert restored.head.weight is restored.embed.weight


def test_a_plain_tensor_needs_no_model(tmp_path):
    weight = torch.randn(50, 4)
    stored = check(nq.Uniform(0.3).fit(weight, torch.rand(50, 4)), tmp_path / "m.nbq", None)
    assert stored.names == ("weight",)


def test_layers_of_different_types_keep_their_own(tmp_path):
    model = network()
    model[2].to(torch.bfloat16)
    quantized = nq.KMeans(7).fit(nq.select(model))
    stored = check(quantized, tmp_path / "m.nbq", model)
    assert quantized.codebook.dtype == torch.float32
    assert stored.tensor("2.weight").dtype == torch.bfloat16


def test_tensors_that_are_not_contiguous(tmp_path):
    model = network(0.2)
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    model.register_buffer("stripes", torch.arange(12).reshape(3, 4).t())
    model.register_buffer("conjugate", torch.tensor([1 + 2j, 3j]).conj())
    check(nq.KMeans(7).fit(nq.select(model)), tmp_path / "m.nbq", model)


def test_all_types_of_safetensors_as_they_were(tmp_path):
    from nbquant.storage.dtypes import DTYPES as ALL

    model = network()
    for name, dtype in ALL.items():
        values = torch.arange(5).to(torch.float32).to(dtype) if name not in ("U16", "U32", "U64") else None
        if values is None:
            values = torch.tensor([0, 1, 2**15], dtype=torch.int64).to(dtype)
        model.register_buffer(name.lower(), values)
        model.register_buffer(f"scalar_{name.lower()}", values[:1].reshape(()))
        model.register_buffer(f"none_{name.lower()}", values[:0].reshape(3, 0))
    stored = check(nq.KMeans(3).fit(nq.select(model)), tmp_path / "m.nbq", model)
    assert stored.tensor("none_f32").shape == (3, 0)


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_fine_tuned_values_need_not_ascend_and_nan_distortion_stays(tmp_path, keep):
    model = network(keep)
    quantized = quantize(model)
    book = quantized.codebooks["all"]
    value = book.value.flip(0).contiguous()
    finetuned = replace(
        quantized,
        codebooks={"all": replace(book, value=value)},
        tensors={name: replace(t, codebook=value) for name, t in quantized.tensors.items()},
        distortion=float("nan"),
        finetuned={"epochs": 3, "lr": 1e-4, "optimizer": "Adam", "keep_best": True, "best": float("nan")},
    )
    path = tmp_path / "m.nbq"
    nq.save(finetuned, path, model, progress=False)
    again = nq.load(path).quantized()
    assert np.isnan(again.distortion)
    assert np.isnan(again.finetuned["best"])
    assert {k: v for k, v in again.finetuned.items() if k != "best"} == {
        "epochs": 3, "lr": 1e-4, "optimizer": "Adam", "keep_best": True
    }  # fmt: skip
    assert all_same(nq.load(path).state_dict(progress=False), finetuned.dequantize())


def test_record_of_the_sensitivities(tmp_path):
    model, data = network(), (torch.randn(40, 12), torch.randint(5, (40,)))
    h = nq.sensitivity(model, [data], method="gauss_newton", progress=False).damped(0.1)
    quantized = nq.fit(nq.select(model, h), "kmeans", levels=5, progress=False)
    stored = check(quantized, tmp_path / "m.nbq", model)
    assert stored.quantized().record == h.record
    assert stored.recipe["sensitivity"] == {"method": h.method, "samples": 40, "damping": h.damping, "offset": 0.0}


def test_from_a_checkpoint_without_the_model(tmp_path):
    from safetensors.torch import save_file

    model = network(0.3)
    state = model.state_dict() | {"running": torch.arange(3), "odd": torch.tensor([1, 2]).to(torch.float8_e5m2)}
    save_file(state, tmp_path / "m.safetensors")
    selection = nq.select(tmp_path / "m.safetensors", layers="*.weight")
    quantized = nq.KMeans(6).fit(selection)
    stored = check_state(quantized, tmp_path / "m.nbq", tmp_path / "m.safetensors", state)
    assert stored.ledger["unquantized"] == quantized.unselected_bits


def check_state(quantized, path, source, state):
    ledger = nq.save(quantized, path, source, progress=False)
    stored = nq.load(path)
    assert ledger.total == 8 * path.stat().st_size
    assert all_same(stored.state_dict(progress=False), state | quantized.dequantize())
    return stored


@pytest.mark.parametrize("keep", [1.0, 0.01])
def test_more_entries_than_a_block(tmp_path, keep):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-3, 4, (positions.BLOCK_ENTRIES + 5000,), generator=generator).float()
    if keep < 1:
        weight *= torch.rand(len(weight), generator=generator) < keep
    check(nq.KMeans(7).fit(weight), tmp_path / "m.nbq", None)


def test_a_block_of_zeros_and_one_without(tmp_path, monkeypatch):
    monkeypatch.setattr(positions, "BLOCK_ENTRIES", 100)
    weight = torch.cat([torch.zeros(250), laplace_nonzero(100), torch.zeros(50), laplace_nonzero(30), torch.zeros(9)])
    quantized = nq.KMeans(4).fit(weight)
    assert "position_payload" in quantized.ledger
    check(quantized, tmp_path / "m.nbq", None)


def laplace_nonzero(n):
    return torch.linspace(1, 2, n)


@pytest.mark.parametrize("coding", ["huffman", "fixed"])
def test_one_level_and_nothing_but_zeros(tmp_path, coding):
    for weight in (torch.full((2000,), 0.5), torch.zeros(2000), torch.tensor(3.0), torch.tensor([0.0, 1.0])):
        check(nq.KMeans(1, coding=coding).fit(weight), tmp_path / "m.nbq", None)


def test_ledger_names_every_part(tmp_path):
    ledger = nq.save(quantize(network(0.3)), tmp_path / "m.nbq", network(0.3), progress=False)
    assert list(ledger) == [
        "payload", "code_table", "codebook", "position_payload", "position_table",
        "unquantized", "header", "container", "padding",
    ]  # fmt: skip
    assert isinstance(ledger, Ledger)
