"""Second moments in blocks."""

import pytest
import torch

from nbquant.sensitivity import gram
from nbquant.sensitivity.gram import Gram, block_widths, some_places


def test_narrow_inputs_are_whole():
    assert block_widths({"a": (1, 500, 800), "b": (64, 1, 9)}) == {"a": 800, "b": 9}


def test_wide_inputs_with_few_rows_are_split_so_that_time_goes_by_weights():
    widths = block_widths({"a": (1, 4, 65536), "b": (1, 2000, 2000)})
    cost = 65536 * widths["a"] ** 2 + 2000 * widths["b"] ** 2
    assert widths["a"] < 1000 < widths["b"]
    assert cost <= gram.FACTOR_COST * (4 * 65536 + 2000 * 2000)


def test_all_blocks_stay_within_memory(monkeypatch):
    monkeypatch.setattr(gram, "MOST_BYTES", 1 << 22)
    widths = block_widths({str(i): (1, 3000, 1000) for i in range(4)})
    assert 4 * sum(1000 * width for width in widths.values()) <= 1 << 22


@pytest.mark.parametrize("width", [3, 4, 7, 100])
def test_blocks_are_those_of_the_whole(width):
    x = torch.randn(2, 60, 7, generator=torch.Generator().manual_seed(0))
    summed = Gram(2, width)
    for part in x.split(30, 1):
        summed.add(lambda index, part=part: part[:, index], torch.arange(30), slice(0, 2), whole=True)
    found = summed.moments(torch.ones(4), bias=True)
    whole = (x.mT @ x / 60).double()
    assert found.held_back.shape == (2, 6, 7)
    assert sum(block.shape[1] for block in found.blocks) == found.width == 7
    inside = torch.block_diag(*(torch.ones(b.shape[1:]) for b in found.blocks)).bool()
    assert torch.allclose(found.inputs[:, :7, :7], whole * inside, atol=1e-5)
    assert torch.allclose(found.inputs[:, 7, :7], x.mean(1).double(), atol=1e-6)
    known = torch.cat([part[:, torch.arange(30) % 10 != 9] for part in x.split(30, 1)], 1)
    assert found.places == known.shape[1] == 54
    assert torch.allclose(
        found.blocks[0],
        (known.mT @ known / 54)[:, : len(found.blocks[0][0])][..., : len(found.blocks[0][0])],
        atol=1e-5,
    )


def test_the_same_places_of_the_same_number():
    device = torch.device("cpu")
    assert torch.equal(some_places(5, 9, device), torch.arange(5))
    assert torch.equal(some_places(1000, 9, device), some_places(1000, 9, device))
    assert len(some_places(1000, 9, device).unique()) == 9
