import gzip
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbquant.models.idx import normalise, read_idx, read_split
from tests.models.idx_files import idx, write_set


def test_normalise_by_hand():
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 0, 0] = 51
    out = normalise(image, mean=0.2860, std=0.3530)
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
    "cut in the head": (idx(2, 3)[:9], "ends inside its header, after 9 bytes"),
    "another width": (idx(2, 4), "must hold n×3 bytes .* declares 2×4"),
    "no samples": (idx(0, 3), "declares 0×3"),
    "cut in the content": (idx(2, 3)[:-1], "declares 6 bytes after its header, but holds only 5"),
    "too long": (idx(2, 3) + b"\0", "declares 6 bytes after its header, but holds more"),
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
    with pytest.raises(ValueError, match="declares 3 bytes after its header, but holds more"):
        read_idx(path, (None, 3))


def test_images_without_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 images and 2 labels of 'train'"):
        read_split(write_set(tmp_path, images=3, labels=2), "train", "")


def test_labels_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be 0 to 9, but 3 of 3 .* \(max 10\)"):
        read_split(write_set(tmp_path, label=10), "t10k", "")
