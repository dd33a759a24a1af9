import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from safetensors.torch import save_file

from nbquant.analysis import cache
from nbquant.models.select import select
from nbquant.quantization.histogram import Bins, Histogram
from nbquant.quantization.rate import tensor_gaps
from nbquant.tensorfile import write_tensors

SIZE = 30_000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NBQUANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST_WEIGHTS", 1)
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    monkeypatch.setattr(cache, "_warned", set())
    monkeypatch.setattr(cache, "_written", {})
    return tmp_path / "cache"


def weights(seed=0):
    w = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))
    w[w.abs() < 0.5] = 0
    return w.view(300, 100)


class Model:
    """A checkpoint of one tensor, and how often its statistics were computed and its bytes hashed."""

    def __init__(self, folder, monkeypatch, weight=None, sensitivity=None):
        self.path = folder / "m.safetensors"
        self.h_path = None if sensitivity is None else folder / "h.safetensors"
        write_tensors(self.path, {"w": weights() if weight is None else weight}, {})
        if sensitivity is not None:
            write_tensors(self.h_path, {"w": sensitivity}, {})
        self.computed = self.hashed = 0
        real = cache._digest_of_bytes

        def digest(values):
            self.hashed += 1
            return real(values)

        monkeypatch.setattr(cache, "_digest_of_bytes", digest)

    def tensor(self):
        return select(self.path, self.h_path).tensors[0]

    def statistics(self, tensor=None):
        tensor = tensor or self.tensor()

        def compute():
            self.computed += 1
            return Histogram.of(tensor.weight, tensor.sensitivity), tensor_gaps(tensor.weight)

        return cache.cached(tensor, compute)


@pytest.fixture
def model(tmp_path, monkeypatch, folder):
    return Model(tmp_path, monkeypatch)


def arrays(found):
    histogram, gaps = found
    return [
        *(histogram.marginal.key, histogram.marginal.sums, histogram.joint.key, histogram.joint.sums),
        *(gaps.gaps, gaps.counts),
    ]


def same(a, b):
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(arrays(a), arrays(b), strict=True))


def entries(folder, suffix="statistics"):
    return sorted(folder.glob(f"*.{suffix}"))


@pytest.mark.parametrize("sensitivity", [None, torch.rand(300, 100)])
def test_the_second_time_nothing_is_read(tmp_path, monkeypatch, folder, sensitivity):
    model = Model(tmp_path, monkeypatch, sensitivity=sensitivity)
    first = model.statistics()
    hashed = model.hashed
    assert (model.computed, hashed) == (1, 1 if sensitivity is None else 2)
    assert same(model.statistics(), first)
    assert (model.computed, model.hashed) == (1, hashed)
    assert len(entries(folder)) == 1
    assert len(entries(folder, "digest")) == hashed
    assert not [name for name in os.listdir(folder) if "partial" in name]


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(300, 100),
        torch.ones(300, 100),
        torch.linspace(1, 2, 30_000).view(300, 100).to(torch.bfloat16),
        torch.randn(300, 100, dtype=torch.float64) * 1e-30,
    ],
)
def test_any_weights_come_back_as_they_were(tmp_path, monkeypatch, folder, weight):
    model = Model(tmp_path, monkeypatch, weight, torch.zeros(300, 100))
    assert same(model.statistics(), model.statistics())
    assert model.computed == 1


def test_the_same_content_elsewhere_is_known(model, tmp_path):
    model.statistics()
    save_file({"a": torch.ones(7), "w": weights()}, tmp_path / "other.safetensors")
    model.path = tmp_path / "other.safetensors"
    tensor = next(t for t in select(model.path) if t.name == "w")
    model.statistics(tensor)
    assert (model.computed, model.hashed) == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": weights(1)},
        {"weight": weights().view(100, 300), "sensitivity": torch.ones(100, 300)},
        {"weight": weights().to(torch.bfloat16)},
        {"sensitivity": torch.full((300, 100), 2.0)},
        {"sensitivity": torch.ones(300, 100, dtype=torch.float64)},
        {"sensitivity": None},
    ],
)
def test_other_content_is_not(tmp_path, monkeypatch, folder, change):
    Model(tmp_path, monkeypatch, weights(), torch.ones(300, 100)).statistics()
    other = Model(tmp_path, monkeypatch, **{"weight": weights(), "sensitivity": torch.ones(300, 100)} | change)
    found = other.statistics()
    assert other.computed == 1
    tensor = other.tensor()
    assert same(found, (Histogram.of(tensor.weight, tensor.sensitivity), tensor_gaps(tensor.weight)))


def test_neither_is_the_same_content_to_other_code(model, monkeypatch):
    model.statistics()
    monkeypatch.setattr(cache, "_code", lambda: "another version")
    model.statistics()
    assert model.computed == 2


def test_sensitivities_in_memory_count_too(model):
    for value in (1.0, 2.0, 1.0):
        model.statistics(select(model.path, {"w": torch.full((300, 100), value)}).tensors[0])
    assert model.computed == 2


@pytest.mark.parametrize("how", ["in place", "replaced", "in place, times set back"])
def test_a_changed_file_is_read_again(model, how):
    model.statistics()
    status = model.path.stat()
    if how == "replaced":
        write_tensors(model.path, {"w": weights(1)}, {})
    else:
        with model.path.open("rb+") as file:
            file.seek(-4, os.SEEK_END)
            file.write(struct.pack("<f", 9.0))
    if "back" in how:
        os.utime(model.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = model.statistics()
    assert (model.computed, model.hashed) == (2, 2)
    tensor = model.tensor()
    assert same(found, (Histogram.of(tensor.weight), tensor_gaps(tensor.weight)))


def test_a_file_replaced_after_it_was_opened_is_not_taken_for_the_new_one(model):
    old = model.tensor()
    write_tensors(model.path, {"w": weights(1)}, {})
    stale = model.statistics(old)
    assert same(stale, (Histogram.of(weights()), tensor_gaps(weights())))
    assert same(model.statistics(), (Histogram.of(weights(1)), tensor_gaps(weights(1))))


def test_a_file_changed_after_it_was_opened_is_seen_as_it_is(model):
    model.statistics()
    tensor = model.tensor()
    with model.path.open("rb+") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<f", 9.0))
    assert tensor.weight[-1, -1] == 9
    assert same(model.statistics(tensor), (Histogram.of(tensor.weight), tensor_gaps(tensor.weight)))
    assert model.computed == 2


def test_a_file_changed_while_it_is_read_is_not_kept(model, folder):
    tensor = model.tensor()

    def compute():
        os.utime(model.path)
        return Histogram.of(tensor.weight), tensor_gaps(tensor.weight)

    cache.cached(tensor, compute)
    assert entries(folder) == []


def test_weights_changed_in_memory_are_not_taken_for_those_on_disk(model):
    model.statistics()
    tensor = model.tensor()
    tensor.weight.mul_(2)
    assert same(model.statistics(tensor), (Histogram.of(2 * weights()), tensor_gaps(weights())))
    assert same(model.statistics(), (Histogram.of(weights()), tensor_gaps(weights())))


def test_files_changed_just_now_get_no_note(model, folder, monkeypatch):
    monkeypatch.setattr(cache, "_SETTLED_NS", 2_000_000_000)
    for _ in range(2):
        model.statistics()
    assert (model.computed, model.hashed) == (1, 2)
    assert entries(folder, "digest") == []
    now = time.time_ns()
    monkeypatch.setattr(cache.time, "time_ns", lambda: now + 3_000_000_000)
    for _ in range(2):
        model.statistics()
    assert (model.computed, model.hashed) == (1, 3)


@pytest.mark.parametrize("suffix", ["statistics", "digest"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other", "long", "no text"])
def test_damaged_entries_are_replaced(model, folder, suffix, damage):
    first = model.statistics()
    path = entries(folder, suffix)[0]
    sound = path.read_bytes()
    other = folder / f"{'0' * 64}.{suffix}"
    content = {
        "flip": sound[:-40] + bytes([sound[-40] ^ 1]) + sound[-39:],
        "cut": sound[:-9],
        "empty": b"",
        "other": sound,
        "long": sound + b"x",
        "no text": b"\xff" * 65,
    }[damage]
    if damage == "other":  # a sound one under the name of another
        model.path.unlink()
        write_tensors(model.path, {"w": weights(1)}, {})
        model.statistics()
        other = next(p for p in entries(folder, suffix) if p != path)
        other.write_bytes(content)
        model.computed = 0
        assert same(model.statistics(), (Histogram.of(weights(1)), tensor_gaps(weights(1))))
    else:
        path.write_bytes(content)
        model.computed = 0
        assert same(model.statistics(), first)
        assert path.read_bytes() == sound
    assert model.computed == (suffix == "statistics")


@given(st.data())
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "flips"
    folder.mkdir(exist_ok=True)
    w = weights()
    found = Histogram.of(w), tensor_gaps(w)
    content = bytearray(cache._packed("ab", *found))
    path = folder / "ab.statistics"
    path.write_bytes(content)
    assert same(cache._read(path, "ab", SIZE), found)
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)
    assert cache._read(path, "ab", SIZE) is None
    assert not path.exists()


def changed(name, change):
    def make(parts):
        parts[name] = change(parts[name].copy())

    return make


def set_first(value):
    def change(array):
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("marginal_key", lambda a: a[::-1]),
        changed("marginal_key", lambda a: a.astype(np.int32)),
        changed("marginal_key", lambda a: a.astype(np.float64)),
        changed("marginal_key", lambda a: a[:-1]),
        changed("marginal_key", lambda a: a[:, None]),
        changed("marginal_key", set_first(-1)),
        changed("joint_key", lambda a: a + (1 << 62)),
        changed("marginal_sums", lambda a: a.astype(np.float32)),
        changed("marginal_sums", lambda a: a[:, :3]),
        changed("marginal_sums", set_first(float("nan"))),
        changed("marginal_sums", set_first(0.0)),
        changed("joint_sums", set_first(SIZE)),
        changed("joint_sums", lambda a: np.where(np.arange(4) == 1, 0.0, a)),
        changed("gaps", lambda a: a[::-1]),
        changed("gap_counts", set_first(0)),
        changed("gap_counts", set_first(10**6)),
        changed("gap_counts", lambda a: a[:-1]),
        lambda parts: parts.pop("gaps"),
        lambda parts: parts.update(marginal_key=np.zeros((0,), np.int64), marginal_sums=np.zeros((0, 4))),
    ],
)
def test_entries_that_cannot_be_right_are_computed_again(tmp_path, change):
    """Even with a right checksum."""
    w = weights()
    content = cache._packed("ab", Histogram.of(w, torch.rand_like(w)), tensor_gaps(w))
    parts = load(content[32:])
    path = tmp_path / "ab.statistics"
    path.write_bytes(cache._checksum("ab", save(parts)) + save(parts))
    assert cache._read(path, "ab", SIZE) is not None
    change(parts)
    parts = {name: np.ascontiguousarray(part) for name, part in parts.items()}
    path.write_bytes(cache._checksum("ab", save(parts)) + save(parts))
    assert cache._read(path, "ab", SIZE) is None
    assert not path.exists()


def read_only(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")


def full(folder, monkeypatch):
    real = Path.write_bytes

    def write_bytes(path, content):
        real(path, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize("trouble", ["no folder", "full disk"])
def test_a_cache_that_cannot_be_written_is_told_once(model, folder, monkeypatch, trouble):
    if trouble == "no folder":
        read_only(folder)
    else:
        full(folder, monkeypatch)
    with pytest.warns(RuntimeWarning, match="histograms cannot be cached in .*so they are recomputed") as told:
        first = model.statistics()
    assert len(told) == 1
    assert same(model.statistics(), first)
    assert model.computed == 2
    assert not folder.is_dir() or os.listdir(folder) == []


def test_what_fails_or_is_cancelled_is_not_kept(model, folder):
    def compute():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached(model.tensor(), compute)
    assert entries(folder) == []


def test_the_least_recently_used_go_first(tmp_path, model, folder, monkeypatch):
    seeds = range(5)
    paths = [tmp_path / f"{seed}.safetensors" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        write_tensors(path, {"w": weights(seed)}, {})
        model.path = path
        model.statistics()
    (folder / "mine.txt").write_text("not the cache's")
    for path in folder.iterdir():
        os.utime(path, (1000, 1000))
    model.path = paths[0]
    model.statistics()  # used just now
    assert model.computed == 5
    size = max(path.stat().st_size for path in entries(folder))
    monkeypatch.setattr(cache, "MOST_BYTES", int(2.9 * size))
    write_tensors(tmp_path / "new.safetensors", {"w": weights(9)}, {})
    model.path = tmp_path / "new.safetensors"
    model.statistics()
    assert len(entries(folder)) == 2
    assert sum(path.stat().st_size for path in folder.iterdir()) <= cache.MOST_BYTES
    for path in (paths[0], tmp_path / "new.safetensors"):
        model.path = path
        model.statistics()
    assert model.computed == 6
    assert (folder / "mine.txt").exists()


def test_where_it_is(monkeypatch):
    monkeypatch.delenv("NBQUANT_CACHE", raising=False)
    assert cache.folder().name == "nbquant"
    monkeypatch.setenv("NBQUANT_CACHE", "~/somewhere")
    assert cache.folder() == Path.home() / "somewhere"
    monkeypatch.setenv("NBQUANT_CACHE", "")
    assert cache.folder() is None


@pytest.mark.parametrize("case", ["off", "module", "small"])
def test_without_a_cache(model, folder, monkeypatch, case):
    tensor = model.tensor()
    if case == "off":
        monkeypatch.setenv("NBQUANT_CACHE", "")
    elif case == "module":
        tensor = select(torch.nn.Linear(100, 300)).tensors[0]
    else:
        monkeypatch.setattr(cache, "LEAST_WEIGHTS", SIZE + 1)
    for _ in range(2):
        model.statistics(tensor)
    assert (model.computed, model.hashed) == (2, 0)
    assert not folder.exists()


def test_bins_are_as_the_cache_takes_them_to_be():
    """A column more, or another order, and the checks of the cache must change."""
    w = weights()
    found = Histogram.of(w, torch.rand_like(w))
    assert isinstance(found.marginal, Bins)
    assert found.marginal.sums.shape[1] == found.joint.sums.shape[1] == 4
