import pytest
import torch

from tests.benchmarks import mnist
from tests.models.idx_files import write_set


def test_pixels_are_normalised_by_mnists_own_mean(tmp_path):
    data = mnist.load(write_set(tmp_path, images=1200))
    assert (data.name, data.calibration.samples, data.train.samples, data.test.samples) == ("MNIST", 1000, 1200, 1200)
    assert torch.allclose(data.test.inputs, torch.tensor(-0.1307 / 0.3081))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz .* put train-images-idx3-ubyte, .* into"):
        mnist.load(tmp_path)
