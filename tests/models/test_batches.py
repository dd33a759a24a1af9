import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbquant.models.batches import Batches, device_of, to_device
from nbquant.nested import call


@given(st.integers(1, 30), st.integers(1, 12))
def test_batches_join_to_all_samples_every_time(samples, batch_size):
    batches = Batches(torch.arange(samples), torch.arange(samples) + 100, batch_size)
    for _ in range(2):
        parts = list(batches)
        assert len(parts) == len(batches)
        assert all(len(inputs) == batch_size for inputs, _ in parts[:-1])
        assert torch.equal(torch.cat([inputs for inputs, _ in parts]), batches.inputs)
        assert torch.equal(torch.cat([targets for _, targets in parts]), batches.targets)


def test_batches_are_views_and_indexed():
    batches = Batches(torch.arange(10), torch.arange(10), 4)
    assert batches[-1][0].tolist() == [8, 9]
    assert batches[1][0].data_ptr() == batches.inputs[4:].data_ptr()
    with pytest.raises(IndexError, match="index must be below the number of batches, 3, but is 3"):
        batches[3]


def test_take_keeps_the_first():
    batches = Batches(torch.arange(10), torch.arange(10), 4).take(5)
    assert batches.samples == 5
    assert [len(inputs) for inputs, _ in batches] == [4, 1]


@pytest.mark.parametrize("n_samples", [0, -1, 11])
def test_take_refuses_what_is_not_there(n_samples):
    with pytest.raises(ValueError, match=rf"from 1 to 10 .* is {n_samples}"):
        Batches(torch.arange(10), torch.arange(10)).take(n_samples)


def test_to_moves_both_and_converts_floats_only():
    moved = Batches(torch.rand(4, 2), torch.arange(4)).to("meta", dtype=torch.bfloat16)
    assert moved.inputs.device.type == moved.targets.device.type == "meta"
    assert moved.inputs.dtype == torch.bfloat16
    assert moved.targets.dtype == torch.int64
    assert Batches(torch.arange(4), torch.arange(4)).to(dtype=torch.float16).inputs.dtype == torch.int64


def test_repr_says_how_many():
    assert repr(Batches(torch.rand(1200, 3, 2), torch.zeros(1200))) == (
        "Batches(1,200 samples of 3×2, batch_size=100, cpu)"
    )


@pytest.mark.parametrize(("inputs", "targets"), [(3, 2), (0, 0)])
def test_samples_without_targets_are_refused(inputs, targets):
    with pytest.raises(ValueError, match=f"{inputs} inputs and {targets} targets"):
        Batches(torch.zeros(inputs), torch.zeros(targets))


def test_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        Batches(torch.zeros(1), torch.zeros(1), 0)


class Difference(nn.Module):
    def forward(self, a, b):
        return a - b


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.tensor(3), torch.tensor(1)),
        [torch.tensor(3), torch.tensor(1)],
        {"b": torch.tensor(1), "a": torch.tensor(3)},
    ],
)
def test_call_by_position_and_by_name(inputs):
    assert call(Difference(), inputs) == 2


def test_to_device_goes_into_nested_batches():
    batch = {"ids": torch.zeros(2), "rest": [torch.zeros(1), "text"]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["ids"].device.type == moved["rest"][0].device.type == "meta"
    assert moved["rest"][1] == "text"
    assert to_device(batch, None) is batch


def test_device_of_parameters_buffers_or_neither():
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(1, affine=False)) == torch.device("cpu")
    assert device_of(nn.ReLU()) is None
