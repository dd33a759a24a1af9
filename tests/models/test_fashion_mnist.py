import pytest
import torch

from nbquant.models import fashion_mnist
from nbquant.models.fashion_mnist import BLACK, bundled, load
from tests.models.idx_files import write_set


def test_bundled_slice_is_whole_and_split_as_promised():
    data = bundled()
    assert (data.calibration.samples, data.train.samples, data.test.samples) == (1000, 4000, 10_000)
    assert data.test.inputs.shape == (10_000, 1, 28, 28)
    assert torch.equal(data.calibration.inputs, data.train.inputs[:1000])
    assert data.test.targets.bincount().tolist() == [1000] * 10  # as its makers say
    assert data.test.targets.dtype == torch.int64
    assert bundled() is data


def test_bundled_pixels_are_normalised():
    pixels = bundled().train.inputs
    assert float(pixels.min()) == pytest.approx(BLACK)
    assert float(pixels.max()) == pytest.approx((1 - 0.2860) / 0.3530)
    assert abs(float(pixels.mean())) < 0.02
    assert abs(float(pixels.std()) - 1) < 0.02


def test_bundled_files_say_no_time_and_have_their_licence():
    files = sorted(fashion_mnist.BUNDLED_FOLDER.glob("*.gz"))
    assert len([path for path in files if path.name.endswith("-ubyte.gz")]) == 4
    assert all(path.read_bytes()[4:8] == bytes(4) for path in files)
    assert "Zalando" in (fashion_mnist.BUNDLED_FOLDER / "LICENSE").read_text(encoding="utf-8")


def test_load_takes_a_folder_then_the_variable_then_debians(tmp_path, monkeypatch):
    for name, images in (("given", 1), ("variable", 2), ("debian", 3)):
        (tmp_path / name).mkdir()
        write_set(tmp_path / name, images)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("NBQUANT_FASHION_MNIST", str(tmp_path / "variable"))
    assert load(str(tmp_path / "given")).train.samples == 1
    assert load().train.samples == 2
    monkeypatch.delenv("NBQUANT_FASHION_MNIST")
    assert load().train.samples == 3
    assert load().calibration.samples == 3


def test_missing_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.delenv("NBQUANT_FASHION_MNIST", raising=False)
    with pytest.raises(FileNotFoundError, match=r"is no folder: .*apt install dataset-fashion-mnist"):
        load()
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz .* does not have it"):
        load(tmp_path)
