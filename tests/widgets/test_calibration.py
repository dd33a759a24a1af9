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


def test_a_batch_of_several_tensors_stays_whole():
    """Only the model knows which of them count the samples: the mask here is as long as the batch by chance."""
    batch = ({"ids": torch.arange(8).view(4, 2), "mask": torch.ones(4, 4)}, torch.arange(4))
    assert list(first_samples([batch, batch], 3)) == [batch]
    assert len(list(first_samples([batch, batch], 5))) == 2


def test_batches_that_can_take_are_asked():
    batches = Batches(torch.randn(30, 2), torch.arange(30), 8)
    assert first_samples(batches, 10).samples == 10
    assert first_samples(batches, 50).samples == 30


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        first_samples([], -1)
