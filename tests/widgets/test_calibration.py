import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from nbquant.models.batches import Batches
from nbquant.widgets.calibration import first_samples


def count(batches):
    return [len(target) for _, target in batches]


def test_whole_batches_and_the_last_is_cut():
    batches = [(torch.randn(16, 3), torch.zeros(16)) for _ in range(4)]
    assert first_samples(batches, 0) is batches
    for samples, sizes in ((1, [1]), (16, [16]), (20, [16, 4]), (64, [16] * 4), (99, [16] * 4)):
        found = first_samples(batches, samples)
        assert count(found) == count(found) == sizes
    loader = DataLoader(TensorDataset(torch.randn(20, 3), torch.arange(20)), batch_size=8)
    assert torch.equal(torch.cat([t for _, t in first_samples(loader, 11)]), torch.arange(11))


def test_nested_inputs_are_cut_alike():
    mask = torch.ones(2, 2)
    batch = (
        {"ids": torch.arange(8).view(4, 2), "more": (torch.arange(4), [torch.arange(4)]), "mask": mask},
        torch.arange(4),
    )
    ((inputs, target),) = first_samples([batch], 3)
    assert target.tolist() == [0, 1, 2]
    assert inputs["ids"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert inputs["more"][0].tolist() == inputs["more"][1][0].tolist() == [0, 1, 2]
    assert inputs["mask"] is mask


def test_batches_that_can_take_are_asked():
    batches = Batches(torch.randn(30, 2), torch.arange(30), 8)
    assert first_samples(batches, 10).samples == 10
    assert first_samples(batches, 50).samples == 30


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        first_samples([], -1)
