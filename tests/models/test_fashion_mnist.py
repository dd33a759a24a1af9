import gzip
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.models import fashion_mnist
from nbquant.models.fashion_mnist import BLACK, bundled, load, normalise, read_idx, read_split


def idx(*sizes, content=None, magic=None):
    head = magic if magic is not None else bytes((0, 0, 8, len(sizes)))
    count = 1
    for size in sizes:
        count *= size
    return head + struct.pack(f">{len(sizes)}I", *sizes) + (bytes(count) if content is None else content)


def write_set(folder, images=3, labels=None, label=0):
    labels = images if labels is None else labels
    for split in ("train", "t10k"):
        with gzip.open(folder / f"{split}-images-idx3-ubyte.gz", "wb") as file:
            file.write(idx(images, 28, 28))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels, content=bytes([label]) * labels))
    return folder


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
    assert len(files) == 4
    assert all(path.read_bytes()[4:8] == bytes(4) for path in files)
    assert "Zalando" in (fashion_mnist.BUNDLED_FOLDER / "LICENSE").read_text(encoding="utf-8")


def test_normalise_by_hand():
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 0, 0] = 51
    out = normalise(image)
    assert out.shape == (1, 1, 28, 28)
    assert float(out[0, 0, 0, 0]) == pytest.approx((0.2 - 0.2860) / 0.3530)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans(), st.data())
def test_round_trip(tmp_path_factory, sizes, packed, data):
    content = data.draw(st.binary(min_size=torch.Size(sizes).numel(), max_size=torch.Size(sizes).numel()))
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if packed else "file")
    raw = idx(*sizes, content=content)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    read = read_idx(path, tuple(sizes))
    assert read.shape == tuple(sizes)
    assert bytes(read.flatten().tolist()) == content


BROKEN = {
    "another magic": (idx(2, 3, magic=b"\x00\x00\x0d\x02"), "must begin with 00 00 08 02 .* begins with 00 00 0d 02"),
    "empty": (b"", "begins with nothing"),
    "cut in the head": (idx(2, 3)[:9], "ends inside its head, after 9 bytes"),
    "another width": (idx(2, 4), "must hold n×3 bytes .* declares 2×4"),
    "no samples": (idx(0, 3), "declares 0×3"),
    "cut in the content": (idx(2, 3)[:-1], "declares 6 bytes after its head, but holds only 5"),
    "too long": (idx(2, 3) + b"\0", "declares 6 bytes after its head, but holds more"),
    "absurd": (idx(1)[:0] + b"\0\0\x08\x02" + struct.pack(">II", 2**32 - 1, 3), "at most 1,073,741,824 bytes, but"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_refused(tmp_path, case, packed):
    raw, message = BROKEN[case]
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(ValueError, match=message):
        read_idx(path, (None, 3))


@pytest.mark.parametrize("damage", [lambda b: b[:-12], lambda b: b"PK" + b[2:], lambda b: b[:10] + b"\xff" + b[11:]])
def test_damaged_gzip_is_refused(tmp_path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(damage(gzip.compress(idx(50, 3, content=bytes(range(150))))))
    with pytest.raises(ValueError, match=r"must be a whole gzip file, but: .*again"):
        read_idx(path, (None, 3))


def test_every_flipped_bit_of_a_packed_file_is_refused_or_harmless(tmp_path):
    path = tmp_path / "file.gz"
    packed = gzip.compress(idx(4, 3, content=bytes(range(12))), mtime=0)
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read_idx(path, (None, 3)).flatten().tolist() == list(range(12))
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  (either outcome is right)


def test_a_small_file_that_unpacks_to_much_is_not_unpacked(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx(1, 3, content=bytes(50_000_000)), compresslevel=1))
    with pytest.raises(ValueError, match="declares 3 bytes after its head, but holds more"):
        read_idx(path, (None, 3))


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


def test_images_without_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 images and 2 labels of 'train'"):
        read_split(write_set(tmp_path, images=3, labels=2), "train")


def test_labels_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be 0 to 9, but 3 of 3 .* \(max 10\)"):
        read_split(write_set(tmp_path, label=10), "t10k")
