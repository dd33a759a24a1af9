import pickle

import pytest
import torch

from tests.benchmarks.cifar10 import MEAN, STD, TEST_FILES, TRAIN_FILES, load, normalise, read_batch

FILES = (*TRAIN_FILES, *TEST_FILES)


def record(label, red=0, green=0, blue=0):
    """One image of a single colour."""
    return bytes([label]) + bytes([red]) * 1024 + bytes([green]) * 1024 + bytes([blue]) * 1024


def write_set(folder):
    for i, name in enumerate(FILES):
        (folder / name).write_bytes(record(i, red=i) + record(9))
    return folder


def test_record_by_hand(tmp_path):
    pixels = bytes(range(256)) * 12
    (tmp_path / "batch.bin").write_bytes(bytes([7]) + pixels + record(2, green=5))
    images, labels = read_batch(tmp_path / "batch.bin")
    assert labels.tolist() == [7, 2]
    # The format: 1,024 red, then green, then blue, row by row of 32.
    assert int(images[0, 0, 3, 5]) == pixels[3 * 32 + 5]
    assert int(images[0, 2, 31, 31]) == pixels[3071] == 255
    assert images[1].flatten(1).unique(dim=1).tolist() == [[0], [5], [0]]


def test_channels_are_normalised_by_hand():
    image = torch.tensor([51, 102, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    expected = [(x - m) / s for x, m, s in zip((0.2, 0.4, 1.0), MEAN, STD, strict=True)]
    assert normalise(image)[0, :, 7, 9].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_set_is_put_together_in_the_order_of_its_files(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    write_set(tmp_path / inner)
    data = load(tmp_path)
    assert data.train.targets.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test.targets.tolist() == [5, 9]
    assert data.calibration.samples == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is 0 bytes long"),
        (record(1)[:-1], "must hold 1 to 100,000 records of 3,073 bytes, but is 3,072 bytes"),
        (record(1) + b"\0", "is 3,074 bytes long"),
        (record(10) + record(3) + record(99), r"must be 0 to 9, but 2 of 3 .* \(max 99\)"),
    ],
)
def test_damaged_file_is_refused(tmp_path, content, message):
    (tmp_path / "batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_batch(tmp_path / "batch.bin")


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1"])
def test_pickled_version_is_refused_unread(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps({}))
    (tmp_path / name).chmod(0)
    with pytest.raises(ValueError, match=r"holds the Python version, whose files are pickles: .* cifar-10-binary"):
        load(tmp_path)


def test_missing_file_is_named(tmp_path):
    write_set(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_4\.bin is required, but .* does not have it"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load(tmp_path / "none")
