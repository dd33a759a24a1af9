"""Block formats as a method: distortion, bits, choice of formats and files, on layers of any shape."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.target import OutOfReachError
from nbquant.quantization.block_quantizer import BlockQuantizer, choices_of, corners
from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.scaling import part_shapes
from nbquant.storage.parts import StoredPart, decode_part, encode_part, parts_of


@pytest.fixture(scope="module")
def model():
    """Layers whose rows are longer and shorter than blocks, of several axes and types, with exact zeros."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.Linear(300, 24), nn.Linear(33, 7, dtype=torch.bfloat16), nn.Linear(1, 1))
    with torch.no_grad():
        net[1].weight[:, ::5] = 0
    return net


@pytest.fixture(scope="module")
def selection(model):
    h = {n: torch.rand_like(p, dtype=torch.float32) for n, p in model.named_parameters()}
    return nq.select(model, h)


def loss_of(selection, restored):
    return sum(
        0.5 * float((t.sensitivity.double() * (t.weight.double() - restored[t.name].double()) ** 2).sum())
        for t in selection
    )


@pytest.mark.parametrize("name", formats.names())
def test_every_format_is_what_its_codes_restore(name, model, selection, tmp_path):
    found = nq.fit(selection, name)
    restored = found.dequantize()
    assert found.predicted_loss_increase == pytest.approx(loss_of(selection, restored), rel=1e-9)
    form = formats.named(name)
    for t in selection:
        assert restored[t.name].dtype == t.weight.dtype
        assert restored[t.name].shape == t.weight.shape
    weight = model[1].weight.detach().numpy()
    h = selection.tensors[2].sensitivity.numpy()
    np.testing.assert_array_equal(restored["1.weight"], form.decode(form.encode(weight, h, search=True)))
    applied = found.apply(model)
    assert torch.equal(applied[1].weight, restored["1.weight"])
    path = tmp_path / "m.nbq"
    ledger = nq.save(found, path, model, progress=False)
    assert ledger.total == 8 * path.stat().st_size
    stored = nq.load(path)
    state = stored.state_dict(progress=False)
    for name_of, value in restored.items():
        assert torch.equal(state[name_of].view(torch.uint8), value.contiguous().view(torch.uint8))
        assert torch.equal(torch.cat(list(stored.chunks(name_of))).reshape(value.shape), value)
    again = stored.quantized()
    assert again.quantizer == found.quantizer
    assert again.ledger == found.ledger
    nq.save(again, tmp_path / "again.nbq", model, progress=False)
    assert (tmp_path / "again.nbq").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("coding", ["fixed", "huffman", "arithmetic", "context"])
@pytest.mark.parametrize("name", ["q4_k", "nf4_double", "fp4", "int4_asym/16"])
def test_any_code_restores_the_same_and_counts_its_bits(name, coding, model, selection, tmp_path):
    found = nq.fit(selection, name, coding=coding)
    plain = nq.fit(selection, name)
    for key, value in plain.dequantize().items():
        assert torch.equal(found.dequantize()[key], value)
    path = tmp_path / "m.nbq"
    assert nq.save(found, path, model, progress=False).total == 8 * path.stat().st_size
    state = nq.load(path).state_dict(progress=False)
    assert all(torch.equal(state[key], value) for key, value in found.dequantize().items())
    if coding in ("huffman", "arithmetic"):
        assert found.ledger["payload"] <= plain.ledger["payload"]
    again = nq.load(path).quantized()
    nq.save(again, tmp_path / "again.nbq", model, progress=False)
    assert (tmp_path / "again.nbq").read_bytes() == path.read_bytes()


def test_search_loses_no_more_than_the_library_s_rounding(selection):
    for name in formats.names():
        searched, plain = (nq.fit(selection, name, search=search) for search in (True, False))
        assert searched.predicted_loss_increase <= plain.predicted_loss_increase * (1 + 1e-6), name
        assert searched.ledger.total - searched.ledger["payload"] == plain.ledger.total - plain.ledger["payload"]


CHOSEN = ("int2", "q4_0", "int8")


def test_formats_are_chosen_with_equal_slopes(selection):
    """For every λ no other choice has less loss + λ · bits, and each corner is the least loss within its bits."""
    quantizer = BlockQuantizer(formats=CHOSEN)
    choices = choices_of(quantizer, selection)
    every = [
        (sum(c[n].loss for c, n in zip(choices.values(), pick, strict=True)),
         sum(c[n].bits for c, n in zip(choices.values(), pick, strict=True)))
        for pick in itertools.product(CHOSEN, repeat=len(choices))
    ]  # fmt: skip
    lmbdas = corners(quantizer, selection)
    seen = set()
    for lmbda in lmbdas:
        found = nq.fit(selection, CHOSEN, lmbda=lmbda)
        loss, bits = found.predicted_loss_increase, found.ledger.total
        assert loss + lmbda * bits == pytest.approx(min(a + lmbda * b for a, b in every), rel=1e-9)
        assert loss <= min(a for a, b in every if b <= bits) * (1 + 1e-9)
        seen.add(bits)
    assert len(seen) == len(lmbdas)
    assert min(seen) == min(b for _, b in every)


def test_layers_keep_their_own_formats_and_the_rest_is_the_best_choice(model, selection, tmp_path):
    """Against all choices for the other layers: none with as few bits loses less."""
    own = {"1": "q5_0"}
    found = nq.fit(selection, CHOSEN, ratio=4.5, layer_formats=own)
    names = {group: book.levels.format for group, book in found.codebooks.items()}
    assert names["1"] == "q5_0"
    choices = choices_of(found.quantizer, selection)
    assert list(choices["1"]) == ["q5_0"]
    bits = sum(choices[g][n].bits for g, n in names.items())
    for pick in itertools.product(*([*c] for c in choices.values())):
        lost = sum(c[n].loss for c, n in zip(choices.values(), pick, strict=True))
        if sum(c[n].bits for c, n in zip(choices.values(), pick, strict=True)) <= bits:
            assert lost >= found.predicted_loss_increase * (1 - 1e-9)
    assert found.compression_ratio >= 4.5
    assert BlockQuantizer(layer_formats="1=q5_0") == BlockQuantizer(layer_formats=[("1", "q5_0")])
    nq.save(found, tmp_path / "m.nbq", model, progress=False)
    assert nq.load(tmp_path / "m.nbq").quantized().quantizer == found.quantizer


@pytest.mark.parametrize(
    ("own", "error", "told"),
    [
        ({"no": "q5_0"}, ValueError, "selected layers"),
        ({"1": "q8_00"}, ValueError, "q5_0"),
        ("1", TypeError, "map layers"),
        ([("1", "q5_0"), ("1", "q4_k")], ValueError, "once"),
    ],
)
def test_formats_of_layers_that_cannot_be_are_refused(selection, own, error, told):
    with pytest.raises(error, match=told):
        nq.fit(selection, CHOSEN, ratio=4.5, layer_formats=own)


def test_a_target_is_met_by_the_finest_choice(selection):
    quantizer = BlockQuantizer(formats=CHOSEN)
    results = [nq.fit(selection, CHOSEN, lmbda=lmbda) for lmbda in corners(quantizer, selection)]
    for ratio in np.linspace(results[-1].compression_ratio, results[0].compression_ratio, 7) * (1 - 1e-9):
        found = nq.fit(selection, list(CHOSEN), ratio=ratio)
        assert found.compression_ratio >= ratio
        assert found.distortion == min(r.distortion for r in results if r.compression_ratio >= ratio)
    with pytest.raises(OutOfReachError, match=r"ratio 99 is out of reach: the coarsest block formats have ratio"):
        nq.fit(selection, CHOSEN, ratio=99)


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda s: nq.fit(s, "nf5"), ValueError, r"or a block format such as nf4 or q4_k, but got 'nf5'.*did you mean"),
        (lambda s: nq.fit(s, ["q4_k", "q9"], ratio=4), ValueError, "block format must be one of"),
        (lambda s: nq.fit(s, [], ratio=4), ValueError, "at least one block format is required"),
        (lambda s: nq.fit(s, []), ValueError, "at least one block format is required"),
        (lambda s: nq.fit(s, "Q4_K_S"), ValueError, "did you mean .*'q4_k'"),
        (lambda s: nq.fit(s, "nf4", step=0.1), ValueError, "step|exactly one"),
        (lambda s: nq.fit(s, ("q4_0", "q8_0"), rate=1), OutOfReachError, "ask for more, or allow coarser formats"),
        (lambda s: nq.fit(s, "q4_0/16"), ValueError, "q4_0 has blocks of 32 weights: leave the length out"),
        (lambda s: nq.fit(s, "int4/0"), ValueError, "at least one weight, but got 0"),
        (lambda s: nq.fit(s, "nf4", formats=("q4_0",)), ValueError, "formats are the method here"),
        (lambda s: nq.fit(s, "nf4", serch=False), TypeError, "did you mean 'search'"),
        (lambda s: nq.fit(s, ("q4_0", "q8_0")), ValueError, "exactly one of ratio, rate.* is required, but got none"),
        (lambda s: nq.fit(s, ("q4_0", "q8_0"), levels=9), ValueError, "the target must be|levels"),
        (lambda s: BlockQuantizer(search=1), TypeError, "search must be True or False"),
        (lambda s: BlockQuantizer(lmbda=-1.0), ValueError, "lmbda must be finite and at least 0"),
    ],
)
def test_errors_say_what_was_required(selection, call, error, told):
    with pytest.raises(error, match=told):
        call(selection)


def test_weights_too_large_for_the_scales_are_refused():
    layer = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        layer.weight.mul_(8e7)
    selection = nq.select(layer)
    with pytest.raises(ValueError, match=r"small enough for the scales of q4_0, but those up to .* are not restored"):
        nq.fit(selection, "q4_0", search=False)
    rows = nq.compare_formats(selection, ["q4_0", "int8"], progress=False).set_index(["format", "search"])
    assert np.isnan(rows.loc[("q4_0", False), "rate"])
    assert rows.loc[("int8", False), "relative_error"] < 1e-3


def test_one_format_takes_a_target_of_accuracy_or_a_file(model, selection):
    with pytest.raises(ValueError, match="accuracy_loss requires evaluate"):
        nq.fit(selection, "nf4", accuracy_loss=1.0)
    with pytest.raises(ValueError, match="exactly one of ratio, rate"):
        nq.fit(selection, "nf4", file_of=model)


def test_formats_may_be_text():
    assert BlockQuantizer(formats="q4_k,int4/64").formats == ("q4_k", "int4/64")
    assert BlockQuantizer(formats="nf4").formats == ("nf4",)
    assert BlockQuantizer(formats=" q4_0, q8_0,").formats == ("q4_0", "q8_0")
    assert BlockQuantizer(layer_formats="fc1 = q8_0, fc2=q4_k").layer_formats == (("fc1", "q8_0"), ("fc2", "q4_k"))
    with pytest.raises(TypeError, match="must be names of block formats"):
        BlockQuantizer(formats=5)


def test_what_trains_codebooks_is_refused(model, selection):
    found = nq.fit(selection, "q4_0")
    for act in (found.parametrize, lambda m: nq.finetune(found, m, [], progress=False)):
        with pytest.raises(ValueError, match="requires weights that are values of a codebook, but blocks scales them"):
            act(model)


@pytest.mark.parametrize("name", formats.names())
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (40, 700), (2, 3, 5, 5), (600, 64)])
def test_shapes_of_parts_are_known_before(name, shape):
    form = formats.named(name)
    rows = shape[0] if len(shape) > 1 else 1
    encoded = form.encode(np.ones((rows, math.prod(shape) // rows), np.float32))
    assert part_shapes(form, shape) == {p.name: (p.values.dtype, p.values.shape) for p in encoded.parts}
    for part, stored in zip(encoded.parts, parts_of(name, shape), strict=True):
        data = encode_part(part)
        assert len(data) == stored.size
        np.testing.assert_array_equal(decode_part(data, stored).values, part.values)


def test_signed_parts_of_few_bits_come_back():
    stored = StoredPart("zero_point", np.dtype("i1"), (5,), 4)
    part = type(decode_part(bytes(3), stored))("zero_point", np.array([-8, -1, 0, 3, 7], np.int8), 4)
    np.testing.assert_array_equal(decode_part(encode_part(part), stored).values, part.values)
    with pytest.raises(ValueError, match="the padding of its zero_point must be zeros"):
        decode_part(b"\x00\x00\x01", stored)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "int4/32"])
def test_centres_are_typical_weights_of_each_code(name):
    """On the histogram a code stands where its weights are, whatever the signs of the scales."""
    torch.manual_seed(3)
    weight = torch.randn(64, 256)
    found = nq.fit(nq.select(nn.ModuleDict({"a": _linear(weight)})), name, search=False)
    book = found.codebook_of("a")
    assert (book.value.diff() > 0).all()
    assert int(book.counts.sum()) == weight.numel()
    assert 1.5 < float(book.value.abs().max()) < 4
    near = (found.tensors["a.weight"].dequantize().reshape(-1, 1) - book.value).abs().min(1).values
    assert float(near.mean()) < 0.2


def _linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def test_error_map_breakdown_and_prediction_see_restored_weights(model, selection):
    from nbquant.analysis.breakdown import breakdown
    from nbquant.views.heatmap import error_data

    found = nq.fit(selection, "q4_0")
    restored = found.dequantize()
    rows = breakdown(found, selection, progress=False).layers.set_index("layer")
    for layer in selection.layers:
        part = [t for t in selection if t.layer == layer]
        assert rows.loc[layer, "predicted_loss"] == pytest.approx(loss_of(part, restored), rel=1e-6)
    t = selection.tensors[2]
    data = error_data(t.weight, found.tensors[t.name], None, name=t.name, weighted=False)
    largest = float((t.weight - restored[t.name]).abs().max())
    assert 10 ** np.nanmax(data.log_value) == pytest.approx(largest, rel=1e-5)
