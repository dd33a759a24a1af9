import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nbquant as nq
from nbquant.coding.ledger import Ledger
from nbquant.models.select import select
from nbquant.quantization.rate import code_ledger, lengths_for


@cache
def fitted(dtype=torch.float32, zeros=0.0, **options):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(20, 9), nn.Linear(9, 4)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(parameter.shape) >= zeros)
    return nq.KMeans(**{"levels": 6, "weighted": False, **options}).fit(select(model))


def is_consistent(q):
    """What must hold of any quantized selection."""
    coded = Ledger()
    for book in q.codebooks.values():
        counts, length = book.counts.numpy(), book.codeword_length.numpy()
        coded += code_ledger(counts, length, q.quantizer.coding, torch.finfo(book.value.dtype).bits)
    assert all(q.ledger[part] == bits for part, bits in coded.items())
    for group, book in q.codebooks.items():
        assert (book.value[1:] > book.value[:-1]).all()
        assert book.codeword_length.tolist() == list(lengths_for(book.counts.numpy(), q.quantizer.coding))
        index = torch.cat([t.assignment for name, t in q.tensors.items() if q.group_of(name) == group]).long()
        assert torch.equal(torch.bincount(index[index >= 0], minlength=len(book.value)), book.counts)
    for name, t in q.tensors.items():
        assert torch.equal(t.codebook, q.codebooks[q.group_of(name)].value.to(t.codebook.dtype))


@pytest.mark.parametrize("zeros", [0.0, 0.7])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("before", ["huffman", "context"])
@pytest.mark.parametrize("after", ["huffman", "fixed", "arithmetic", "context"])
def test_the_same_clusters_in_another_code(before, after, per_layer, zeros):
    """The clusters of k-means do not depend on the code, so a fit with the other code is the oracle."""
    q, expected = (fitted(zeros=zeros, per_layer=per_layer, coding=coding) for coding in (before, after))
    new = q.with_coding(after)
    assert new.quantizer == expected.quantizer
    assert new.ledger == expected.ledger
    assert new.distortion == q.distortion
    assert new.pruned == expected.pruned
    for group, book in expected.codebooks.items():
        assert torch.equal(new.codebooks[group].codeword_length, book.codeword_length)
    for name, tensor in expected.tensors.items():
        assert torch.equal(new.tensors[name].dequantize(), tensor.dequantize())
        assert new.tensors[name].streams == tensor.streams


def test_code_that_the_quantizer_does_not_know():
    with pytest.raises(ValueError, match="coding"):
        fitted().with_coding("morse")


@pytest.mark.parametrize("coding", ["huffman", "fixed"])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("zeros", [0.0, 0.7])
@settings(max_examples=20)
@given(data=st.data())
def test_each_weight_takes_its_clusters_new_value(zeros, per_layer, coding, data):
    q = fitted(zeros=zeros, per_layer=per_layer, coding=coding)
    few = st.sampled_from([-1.0, -0.25, 0.0, 0.25, 0.5, 3.0])  # so that some meet
    values = {
        group: torch.tensor(data.draw(st.lists(few, min_size=len(b.value), max_size=len(b.value))))
        for group, b in q.codebooks.items()
    }
    new = q.with_values(values, {"lr": 0.1})
    for name, tensor in q.tensors.items():
        old = torch.where(q.codebooks[q.group_of(name)].value == 0, 0.0, values[q.group_of(name)])
        expected = torch.cat([torch.zeros(1), old])[tensor.assignment.long() + 1].reshape(tensor.shape)
        assert torch.equal(new.tensors[name].dequantize(), expected)
    is_consistent(new)
    positions = ("position_payload", "position_table")
    assert [new.ledger.get(p) for p in positions] == [q.ledger.get(p) for p in positions]
    assert math.isnan(new.distortion)
    assert new.finetuned == {"lr": 0.1}
    assert (new.source_bits, new.record, new.quantizer) == (q.source_bits, q.record, q.quantizer)
    is_consistent(q)


def test_the_same_values_change_nothing():
    q = fitted()
    new = q.with_values({"all": q.codebook})
    assert torch.equal(new.codebook, q.codebook)
    assert new.ledger == q.ledger
    assert all(torch.equal(new.tensors[name].assignment, t.assignment) for name, t in q.tensors.items())


def test_values_are_rounded_to_the_stored_dtype_and_may_meet_there():
    q = fitted(torch.bfloat16)
    value = q.codebook.float()
    value[1] = value[0] * (1 + 1e-4)
    new = q.with_values({"all": value})
    assert new.codebook.dtype == torch.bfloat16
    assert new.levels == q.levels - 1
    assert int(new.counts[0]) == int(q.counts[:2].sum())
    is_consistent(new)


def test_zero_stays_zero():
    q = fitted(zeros=0.2, pinned_zero=True)
    assert (q.codebook == 0).any()
    new = q.with_values({"all": q.codebook + 0.01})
    assert int(new.counts[new.codebook == 0]) == int(q.counts[q.codebook == 0])


def test_all_weights_pruned():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    q = nq.KMeans(levels=2, weighted=False).fit(select(model))
    assert q.levels == 0
    assert q.with_values({"all": torch.zeros(0)}).ledger == q.ledger
    assert not q.parametrize(model)(torch.ones(1, 3)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: {}, "values must be given for the groups 'all', but are for none"),
        (lambda q: {"all": q.codebook[1:]}, r"group 'all' must have 6 values, but has the shape \(5,\)"),
        (lambda q: {"all": q.codebook * np.inf}, "must be finite in float32, but 6 of the 6 of group 'all' are not"),
    ],
)
def test_values_that_do_not_fit(change, message):
    q = fitted()
    with pytest.raises(ValueError, match=message):
        q.with_values(change(q))


def test_group_of():
    assert fitted().group_of("1.weight") == "all"
    assert fitted(per_layer=True).group_of("1.weight") == "1"
    plain = nq.KMeans(levels=2, weighted=False, per_layer=True).fit(torch.randn(10))
    assert plain.group_of("weight") in plain.codebooks


def test_repr_says_that_it_is_fine_tuned():
    q = fitted()
    assert "predicted loss increase" in repr(q)
    assert repr(q.with_values({"all": q.codebook}, {"lr": 1.0})).endswith("fine-tuned)")
