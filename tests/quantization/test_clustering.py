"""What all quantizers share: pruned weights, groups, dtypes, and bits that are really written."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.coding.huffman import HuffmanCode
from nbquant.coding.positions import gap_code, group_tables
from nbquant.quantization.codebook import PRUNED, QuantizedTensor
from nbquant.quantization.histogram import EXACT_UP_TO
from tests.coding.position_stream import encode_positions, gap_histogram

QUANTIZERS = [nq.KMeans(5), nq.Uniform(0.02), nq.ECSQ(1e-4)]
BY_METHOD = pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: q.method)


def changed(quantizer, **options):
    return type(quantizer)(getattr(quantizer, quantizer.parameter.name), **options)


def network(keep=1.0, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape) >= keep] = 0
    return model


def sensitivities(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator).exp() for n, p in model.named_parameters()}


def selection(keep=1.0, **options):
    model = network(keep, **options)
    return model, nq.select(model, sensitivities(model))


def joined(q):
    return torch.cat([t.assignment for t in q.tensors.values()]).numpy()


@BY_METHOD
@pytest.mark.parametrize("keep", [0.5, 0.1])
@pytest.mark.parametrize("per_layer", [False, True])
def test_pruned_weights_stay_exactly_zero(quantizer, keep, per_layer):
    model, sel = selection(keep - 0.05)
    q = changed(quantizer, per_layer=per_layer).fit(sel)
    values = q.dequantize()
    for name, p in model.named_parameters():
        zero = (p == 0).reshape(-1)
        found = q.tensors[name].assignment
        assert bool((found[zero] == PRUNED).all())
        assert bool((found[~zero] >= 0).all())
        assert bool((values[name].reshape(-1)[zero] == 0).all())
    assert sum(int(b.counts.sum()) for b in q.codebooks.values()) == int((sel.weight != 0).sum())
    assert q.ledger["position_payload"] > 0


@BY_METHOD
def test_few_zeros_are_weights_like_any_other(quantizer):
    _, sel = selection(0.6)
    q = quantizer.fit(sel)
    assert (joined(q) >= 0).all()
    assert int(q.counts.sum()) == len(sel)
    assert "position_payload" not in q.ledger


def test_half_of_them_is_where_zeros_are_left_out():
    assert nq.KMeans(2).fit(torch.tensor([0.0, 0.0, 1.0, 2.0])).tensors["weight"].assignment.tolist() == [-1, -1, 0, 1]
    assert nq.KMeans(3).fit(torch.tensor([0.0, -1.0, 1.0])).tensors["weight"].assignment.tolist() == [1, 0, 2]


@BY_METHOD
def test_nothing_but_zeros(quantizer):
    q = quantizer.fit(torch.zeros(3, 4))
    assert q.dequantize()["weight"].tolist() == torch.zeros(3, 4).tolist()
    assert (q.levels, q.distortion, q.rate, q.compression_ratio, q.ledger.total) == (0, 0, 0, float("inf"), 0)
    assert "inf" in repr(q)


@BY_METHOD
@pytest.mark.parametrize("per_layer", [False, True])
def test_layer_of_nothing_but_zeros(quantizer, per_layer):
    model = network(0.6)
    with torch.no_grad():
        for p in model[2].parameters():
            p.zero_()
    q = changed(quantizer, per_layer=per_layer).fit(nq.select(model, sensitivities(model)))
    assert not q.dequantize()["2.weight"].any()
    assert q.dequantize()["0.weight"].any()


def written_bits(code, symbols):
    """Bits that the encoder really writes, to within the padding of the last byte."""
    return 8 * len(code.encode(symbols))


@BY_METHOD
@pytest.mark.parametrize("keep", [1.0, 0.2])
@pytest.mark.parametrize("per_layer", [False, True])
def test_ledger_is_what_is_written(quantizer, keep, per_layer):
    model, sel = selection(keep)
    q = changed(quantizer, per_layer=per_layer).fit(sel)
    payload = table = codebook = 0
    for group, book in q.codebooks.items():
        names = [t.name for t in sel if not per_layer or t.layer == group]
        symbols = torch.cat([q.tensors[n].assignment for n in names]).numpy()
        symbols = symbols[symbols != PRUNED]
        code = HuffmanCode.from_counts(book.counts)
        assert code.lengths.tolist() == book.codeword_length.tolist()
        bits = int(book.codeword_length.numpy()[symbols].sum())
        assert 0 <= written_bits(code, symbols) - bits < 8
        assert code.decode(code.encode(symbols), len(symbols)).tolist() == symbols.tolist()
        payload += bits
        table += code.table_bits
        codebook += 32 * len(book.value)
    assert (q.ledger["payload"], q.ledger["code_table"], q.ledger["codebook"]) == (payload, table, codebook)
    if keep < 1:
        masks = [p.detach() != 0 for p in model.parameters()]
        gaps = [gap_histogram(m) for m in masks]
        written = tables = 0
        for group in group_tables(gaps, progress=False):
            code = gap_code(sum((gaps[i] for i in group[1:]), gaps[group[0]]))
            written += 8 * sum(len(encode_positions(masks[i], code=code).data) for i in group)
            tables += code.table_bits
        assert 0 <= written - q.ledger["position_payload"] < 8 * len(masks)
        assert q.ledger["position_table"] == tables
        shared = gap_code(sum(gaps[1:], gaps[0]))
        assert written + tables <= shared.payload_bits(sum(gaps[1:], gaps[0])) + shared.table_bits + 8 * len(masks)
    assert q.ledger.total == sum(q.ledger.values()) == round(q.rate * len(sel))
    assert q.rate * len(sel) == pytest.approx(q.ledger.total, rel=1e-15)
    assert q.compression_ratio == 32 * len(sel) / q.ledger.total


@BY_METHOD
def test_fixed_length_code_by_hand(quantizer):
    _, sel = selection()
    q = changed(quantizer, coding="fixed").fit(sel)
    bits = int(np.ceil(np.log2(q.levels)))
    assert q.codeword_length.tolist() == [bits] * q.levels
    assert dict(q.ledger) == {
        "payload": len(sel) * bits, "code_table": 0, "codebook": 32 * q.levels, **{k: 0 for k in q.ledger if "pos" in k}
    }  # fmt: skip


def test_one_level_takes_no_fixed_length_bits_and_one_of_huffmans():
    weight = torch.rand(100)
    assert dict(nq.KMeans(1, coding="fixed").fit(weight).ledger) == {"payload": 0, "code_table": 0, "codebook": 32}
    assert dict(nq.KMeans(1).fit(weight).ledger) == {"payload": 100, "code_table": 2, "codebook": 32}


@BY_METHOD
def test_per_layer_is_each_layer_alone(quantizer):
    _model, sel = selection()
    q = changed(quantizer, per_layer=True).fit(sel)
    assert list(q.codebooks) == ["0", "2"]
    total, loss = 0, 0.0
    for layer, members in sel.by_layer().items():
        alone = changed(quantizer).fit(members)
        assert torch.equal(alone.codebook, q.codebooks[layer].value)
        assert torch.equal(alone.counts, q.codebooks[layer].counts)
        for t in members:
            assert torch.equal(alone.tensors[t.name].assignment, q.tensors[t.name].assignment)
        total += alone.ledger.total
        loss += alone.predicted_loss_increase
    assert q.ledger.total == total
    assert q.predicted_loss_increase == pytest.approx(loss)
    assert q.levels == sum(len(b.value) for b in q.codebooks.values())
    for attribute in ("codebook", "counts", "codeword_length"):
        with pytest.raises(
            ValueError, match=r"one codebook is required here, .* own \('0', '2'\): use \.codebooks\['0'\]"
        ):
            getattr(q, attribute)


@BY_METHOD
@pytest.mark.parametrize("keep", [1.0, 0.2])
def test_distortion_is_of_what_apply_gives(quantizer, keep):
    model, sel = selection(keep)
    q, h = quantizer.fit(sel), sensitivities(model)
    changed_model = q.apply(model)
    loss = sum(
        float(0.5 * (h[n].double() * (p - changed_model.get_parameter(n)).detach().double() ** 2).sum())
        for n, p in model.named_parameters()
    )
    assert q.predicted_loss_increase == pytest.approx(loss, rel=1e-6)
    assert q.distortion == pytest.approx(loss / len(sel), rel=1e-6)


def test_apply_leaves_the_original_untouched():
    model, sel = selection()
    before = copy.deepcopy(model.state_dict())
    quantized = nq.KMeans(3).fit(sel).apply(model)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert quantized[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert len(torch.cat([p.reshape(-1) for p in quantized.parameters()]).unique()) == 3
    assert all(p.requires_grad for p in quantized.parameters())


def test_apply_to_part_of_a_model():
    model = network()
    quantized = nq.KMeans(2).fit(nq.select(model, layers="2")).apply(model)
    assert torch.equal(quantized[0].weight, model[0].weight)
    assert len(torch.cat([p.reshape(-1) for p in quantized[2].parameters()]).unique()) == 2


def test_apply_keeps_tied_parameters_tied():
    model = nn.ModuleDict({"a": nn.Embedding(6, 4), "b": nn.Linear(4, 6, bias=False)})
    model["b"].weight = model["a"].weight
    sel = nq.select(model, layers="b")
    quantized = nq.KMeans(2).fit(sel).apply(model)
    assert quantized["a"].weight is quantized["b"].weight
    assert len(quantized["b"].weight.unique()) == 2


def test_apply_to_another_architecture():
    _, sel = selection()
    q = nq.KMeans(2).fit(sel)
    with pytest.raises(ValueError, match=r"must have the parameter '0\.weight', .* nearest are 'weight': apply to"):
        q.apply(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'0\.weight' must have the shape \(30, 40\), but has \(40, 30\)"):
        q.apply(nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20)))


@BY_METHOD
def test_many_weights_go_by_the_histogram_and_few_one_by_one_alike(quantizer):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(EXACT_UP_TO, generator=generator) * 0.1
    h = torch.randn(EXACT_UP_TO, generator=generator).exp()
    exact, binned = quantizer.fit(weight, h), quantizer.fit(weight.repeat(2), h.repeat(2))
    assert binned.distortion == pytest.approx(exact.distortion, rel=0.06)


@BY_METHOD
def test_layers_of_several_dtypes(quantizer):
    model = network()
    model[2].to(torch.bfloat16)
    sel = nq.select(model, sensitivities(model))
    q = changed(quantizer, per_layer=True).fit(sel)
    assert q.dequantize()["0.weight"].dtype == torch.float32
    assert q.codebooks["2"].value.dtype == q.dequantize()["2.weight"].dtype == torch.bfloat16
    assert q.source_bits == 32 * 1230 + 16 * 620


def test_whole_model_ratio_counts_what_is_left_as_it_is():
    model = network()
    q = nq.KMeans(2).fit(nq.select(model, layers="0"))
    assert q.model_compression_ratio == 32 * 1850 / (q.ledger.total + 32 * 620)
    assert nq.KMeans(2).fit(nq.select(model)).model_compression_ratio == pytest.approx(
        nq.KMeans(2).fit(nq.select(model)).compression_ratio
    )


def test_quantized_tensor_by_hand():
    found = torch.tensor([0, PRUNED, 1, 1], dtype=torch.int16)
    t = QuantizedTensor(torch.tensor([-1.0, 2.0]), found, torch.Size([2, 2]))
    assert t.dequantize().tolist() == [[-1, 0], [2, 2]]


def test_sensitivity_beside_a_selection_is_refused():
    _, sel = selection()
    with pytest.raises(TypeError, match=r"comes with the selection: pass it to select\(\)"):
        nq.KMeans(2).fit(sel, torch.ones(3))
