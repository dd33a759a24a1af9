"""The breakdown against weights added up one layer and one codeword at a time, and against the ledger."""

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis import breakdown as module
from nbquant.analysis.breakdown import breakdown, codeword_strings
from nbquant.coding.huffman import HuffmanCode
from nbquant.progress import Cancelled
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor


def selection_of(keep, sensitive=True, dtypes=(torch.float32, torch.float32)):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(40, 30, dtype=dtypes[0]), nn.ReLU(), nn.Linear(30, 60, dtype=dtypes[1]))
    h = {n: torch.randn(p.shape).exp() for n, p in model.named_parameters()} if sensitive else None
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape) >= keep] = 0
    return nq.select(model, h)


SELECTIONS = {
    "dense": selection_of(1.0),
    "pruned": selection_of(0.3),
    "insensitive": selection_of(1.0, sensitive=False),
    "mixed": selection_of(1.0, dtypes=(torch.bfloat16, torch.float32)),
}
QUANTIZERS = [
    quantizer(value, coding=coding, per_layer=per_layer)
    for quantizer, value in ((nq.KMeans, 9), (nq.Uniform, 0.05), (nq.ECSQ, 1e-4))
    for coding in ("huffman", "fixed")
    for per_layer in (False, True)
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_every_row_is_what_the_weights_add_up_to(selection, quantizer):
    quantized = quantizer.fit(selection)
    found = breakdown(quantized, selection)
    restored = quantized.dequantize()
    loss = {}
    for t in selection:
        h = torch.ones_like(t.weight) if t.sensitivity is None else t.sensitivity
        loss[t.name] = 0.5 * h.double() * (t.weight.double() - restored[t.name].double()) ** 2
    total = float(sum(x.sum() for x in loss.values()))
    assert total == pytest.approx(quantized.predicted_loss_increase, rel=1e-6)

    layers = found.layers.set_index("layer")
    assert tuple(layers.index) == selection.layers
    for layer, members in selection.by_layer().items():
        row = layers.loc[layer]
        assert row["weights"] == len(members)
        assert row["pruned"] == sum(int((quantized.tensors[t.name].assignment == -1).sum()) for t in members)
        assert row["predicted_loss"] == pytest.approx(float(sum(loss[t.name].sum() for t in members)), rel=1e-9)
        h = members.sensitivity
        assert row["mean_sensitivity"] == pytest.approx(1.0 if h is None else float(h.double().mean()), rel=1e-9)
    assert layers["share_of_loss"].sum() == pytest.approx(1)
    np.testing.assert_allclose(layers["share_of_loss"], layers["predicted_loss"] / total)
    np.testing.assert_allclose(layers["share_of_rate"], layers["bits"] / quantized.ledger.total)

    assert found.codewords.keys() == quantized.codebooks.keys()
    for group, book in quantized.codebooks.items():
        table = found.codewords[group]
        names = [n for n in quantized.tensors if group in ("all", n.rpartition(".")[0])]
        np.testing.assert_array_equal(table["centre"], book.value.double())
        np.testing.assert_array_equal(table["count"], book.counts)
        np.testing.assert_array_equal(table["codeword_length"], book.codeword_length)
        np.testing.assert_array_equal(table["bits"], book.counts * book.codeword_length)
        for j in range(len(table)):
            of_j = sum(loss[n].reshape(-1)[quantized.tensors[n].assignment == j].sum() for n in names)
            assert table["predicted_loss"][j] == pytest.approx(float(of_j), rel=1e-9, abs=1e-300)
        assert table["share"].sum() == pytest.approx(1)
        np.testing.assert_allclose(table["share_of_rate"], table["bits"] / quantized.ledger.total)
        np.testing.assert_allclose(table["share_of_loss"], table["predicted_loss"] / total)
        words = list(table["codeword"])
        assert [len(w) for w in words] == list(table["codeword_length"])
        assert len(set(words)) == len(words)
        assert not any(a != b and b.startswith(a) for a in words for b in words)
    tables = found.codewords.values()
    assert sum(t["bits"].sum() for t in tables) == quantized.ledger["payload"]
    assert sum(t["predicted_loss"].sum() for t in tables) == pytest.approx(total)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_bits_add_up_to_the_ledger(selection, quantizer):
    quantized = quantizer.fit(selection)
    ledger, bits = quantized.ledger, breakdown(quantized, selection).layers["bits"].sum()
    shared = 0 if quantizer.per_layer else ledger["code_table"] + ledger["codebook"]
    positions = ledger.get("position_table", 0)
    assert ledger.total - shared - positions <= bits <= ledger.total - shared
    if "position_table" not in ledger:
        assert bits == ledger.total - shared


def test_a_single_layer_has_all_bits():
    for selection in SELECTIONS["pruned"].by_layer().values():
        for quantizer in QUANTIZERS:
            quantized = quantizer.fit(selection)
            assert breakdown(quantized, selection).layers["bits"].tolist() == [quantized.ledger.total]


@pytest.mark.parametrize("format", ["q8_0", "nf4", "int4"])
def test_scales_of_a_block_format_are_their_layers_own(format):
    selection = Selection(
        tuple(SelectedTensor(f"l{i}.weight", f"l{i}", torch.randn(8 + i, 96), None) for i in range(2))
    )
    quantized = nq.fit(selection, format, progress=False)
    assert quantized.ledger["scale"] > 0
    assert breakdown(quantized, selection).layers["bits"].sum() == quantized.ledger.total


def test_a_shared_table_of_positions_is_no_layers_own(monkeypatch):
    selection = SELECTIONS["pruned"]
    quantized = nq.KMeans(4, per_layer=True).fit(selection)
    assert (
        breakdown(quantized, selection).layers["bits"].sum()
        == quantized.ledger.total - quantized.ledger["position_table"]
    )
    monkeypatch.setattr(module, "group_tables", lambda gaps, progress: [(i,) for i in range(len(gaps))])
    assert breakdown(quantized, selection).layers["bits"].sum() > quantized.ledger.total


def test_a_layer_of_zeros_has_no_codewords():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 10))
    with torch.no_grad():
        model[0].weight[torch.rand(30, 30) < 0.8] = 0
        for p in model[1].parameters():
            p.zero_()
    selection = nq.select(model)
    quantized = nq.KMeans(4, per_layer=True).fit(selection)
    found = breakdown(quantized, selection)
    assert len(found.codewords["1"]) == 0
    assert found.layers["bits"].tolist() == [quantized.ledger.total, 0]
    assert found.layers["pruned"].tolist()[1] == 310


def test_no_loss_and_no_bits_are_shared_by_none():
    selection = nq.select(nn.Linear(4, 1))
    found = breakdown(nq.KMeans(5).fit(selection), selection)
    assert found.layers["predicted_loss"].tolist() == found.layers["share_of_loss"].tolist() == [0.0]


def test_finetuned_values_are_compared_with_the_weights():
    selection = SELECTIONS["dense"]
    quantized = nq.KMeans(6).fit(selection)
    changed = quantized.with_values({"all": quantized.codebook + 0.01})
    found = breakdown(changed, selection)
    weight, h = selection.weight.double(), selection.sensitivity.double()
    values = torch.cat([v.reshape(-1) for v in changed.dequantize().values()]).double()
    right = float((0.5 * h * (weight - values) ** 2).sum())
    assert found.layers["predicted_loss"].sum() == pytest.approx(right)
    assert right > quantized.predicted_loss_increase


def test_large_tensors_are_taken_in_blocks_and_cancelled_between_them(monkeypatch):
    selection = SELECTIONS["pruned"]
    quantized = nq.ECSQ(1e-4).fit(selection)
    whole = breakdown(quantized, selection)
    monkeypatch.setattr(module, "SWEEP_BLOCK", 100)
    told = []
    parts = breakdown(quantized, selection, lambda done, total: told.append((done, total)))
    blocks = sum(-(-t.weight.numel() // 100) for t in selection)
    assert told == [(i, blocks) for i in range(blocks + 1)]
    for a, b in ((whole.layers, parts.layers), (whole.codewords["all"], parts.codewords["all"])):
        for column in a:
            if a[column].dtype.kind in "if":
                np.testing.assert_allclose(a[column], b[column], rtol=1e-12)

    def cancel(done, total):
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        breakdown(quantized, selection, cancel)


def test_the_selection_must_be_what_was_quantized():
    quantized = nq.KMeans(4).fit(SELECTIONS["dense"])
    with pytest.raises(ValueError, match=r"the 4 quantized tensors, but 2 differ, such as '2\.bias'"):
        breakdown(quantized, SELECTIONS["dense"].by_layer()["0"])
    other = nq.select(nn.Sequential(nn.Linear(41, 30), nn.ReLU(), nn.Linear(30, 60)))
    with pytest.raises(ValueError, match=r"but 1 differ, such as '0\.weight'"):
        breakdown(quantized, Selection(other.tensors))


def test_codewords_are_those_that_are_written():
    lengths = np.array([2, 1, 3, 3])
    words = codeword_strings(lengths, "huffman")
    assert words == HuffmanCode.from_lengths(lengths).codewords == ("10", "0", "110", "111")
    data = HuffmanCode.from_lengths(lengths).encode(np.array([3, 0, 1]))
    assert f"{data[0]:08b}".startswith("111" + "10" + "0")
    assert codeword_strings(np.full(5, 3), "fixed") == ("000", "001", "010", "011", "100")
    assert codeword_strings(np.array([0]), "fixed") == ("",)
    assert codeword_strings(np.array([1]), "huffman") == ("0",)
    assert codeword_strings(np.zeros(0, np.int64), "huffman") == ()
