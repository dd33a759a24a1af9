"""Containers keep their types."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch

from nbquant.nested import map_tensors, tensors_in

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Frozen:
    values: torch.Tensor
    name: str = "x"


NESTS = [
    torch.ones(2),
    [torch.ones(2), (torch.ones(1), "text"), None],
    Pair(torch.ones(2), 3),
    OrderedDict(b=torch.ones(1), a=[torch.ones(2)]),
    Frozen(torch.ones(3), "kept"),
    {"out": Frozen(torch.ones(1)), "n": 2},
]


@pytest.mark.parametrize("nest", NESTS)
def test_types_and_everything_that_is_no_tensor_stay(nest):
    before = [t.clone() for t in tensors_in(nest)]
    found = map_tensors(lambda t: t + 1, nest)
    assert type(found) is type(nest)
    assert [t.tolist() for t in tensors_in(found)] == [(t + 1).tolist() for t in before]
    assert [t.tolist() for t in tensors_in(nest)] == [t.tolist() for t in before]
    if isinstance(nest, Frozen):
        assert found.name == "kept"
    if isinstance(nest, OrderedDict):
        assert list(found) == ["b", "a"]


def test_a_mapping_that_cannot_be_written_to_becomes_a_dict():
    assert map_tensors(lambda t: t + 1, MappingProxyType({"a": torch.zeros(1)})) == {"a": torch.ones(1)}


def test_outputs_of_transformers_keep_their_type():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    given = outputs.CausalLMOutput(loss=None, logits=torch.ones(2, 3))
    found = map_tensors(lambda t: t * 2, given)
    assert type(found) is outputs.CausalLMOutput
    assert found.logits.tolist() == found["logits"].tolist() == [[2] * 3] * 2
    assert found.loss is None
