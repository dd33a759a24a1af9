import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.sensitivity import Sensitivity


def example():
    return Sensitivity({"a": torch.tensor([[1.0, 3.0]]), "b": torch.tensor([8.0, 0.0])}, "exact", 5, {"b": 1})


def test_is_a_mapping():
    h = example()
    assert list(h) == ["a", "b"]
    assert len(h) == 2
    assert dict(h)["a"] is h["a"]
    assert "c" not in h
    assert h.mean == 3.0
    assert h.count == 4


def test_damping_adds_a_part_of_the_mean_over_all_entries():
    h = example().damped(0.5)
    assert h["a"].tolist() == [[2.5, 4.5]]
    assert h["b"].tolist() == [9.5, 1.5]
    assert h.damping == 0.5
    assert (h.method, h.samples, h.clamped) == ("exact", 5, {"b": 1})


@given(st.floats(0, 10), st.floats(0, 10))
def test_damping_attribute_says_what_was_added_in_all(first, second):
    twice, once = example().damped(first).damped(second), example()
    once = once.damped(twice.damping)
    for name in once:
        assert torch.allclose(twice[name], once[name])
    assert once.damping == pytest.approx(twice.damping)


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_damping_is_checked(epsilon):
    with pytest.raises(ValueError, match="damping must be finite and at least 0"):
        example().damped(epsilon)


def test_says_what_it_is():
    text = repr(example().damped(0.5))
    assert text == (
        "Sensitivity(exact: 2 parameters, 4 weights; 5 samples; mean 4.5; 1 negative entries set to 0; damping 0.5)"
    )


def test_can_be_copied_and_pickled():
    for twin in (copy.deepcopy(example()), pickle.loads(pickle.dumps(example()))):
        assert torch.equal(twin["a"], example()["a"])
        assert twin.clamped == {"b": 1}
