"""Gaps against ``reference`` and those of positions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.kernels import dispatch, reference
from nbquant.kernels.cpu import histogram as cpu_histogram
from nbquant.quantization.rate import tensor_gaps
from tests.coding.position_stream import gap_histogram
from tests.kernels.samples import DTYPES


def same(weight):
    gaps, counts = dispatch.gap_counts(weight)
    assert [gaps.tolist(), counts.tolist()] == [x.tolist() for x in reference.gap_counts(weight)]
    of_tensor, of_mask = tensor_gaps(weight), gap_histogram(weight != 0)
    assert of_tensor.gaps.tolist() == of_mask.gaps.tolist()
    assert of_tensor.counts.tolist() == of_mask.counts.tolist()


@given(st.lists(st.booleans(), max_size=80))
def test_every_pattern(mask):
    same(torch.tensor(mask).float() * -0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 1.0])
def test_pieces_and_long_gaps(keep, dtype, monkeypatch):
    monkeypatch.setattr(cpu_histogram, "CACHE_BLOCK", 501)
    monkeypatch.setattr(dispatch, "SHORT_GAPS", 9)
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(5000, generator=generator) < keep
    same(weight.to(dtype))
