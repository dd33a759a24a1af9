import errno
import json
import os
import resource
import struct
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nbquant.replacing import replacing
from nbquant.tensorfile import TensorFile, stream_tensors, write_tensors

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = struct.pack("<2f", 1.5, -2.0)


def raw_file(path, header, data=DATA, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_tensors_are_those_that_were_written(tmp_path, dtype):
    tensors = {"b": torch.randn(3, 4).to(dtype), "a": torch.tensor(2.5, dtype=dtype), "none": torch.empty(0, 3)}
    save_file(tensors | {"bits": torch.arange(5)}, tmp_path / "m.safetensors", metadata={"note": "ours"})
    file = TensorFile.open(tmp_path / "m.safetensors")
    assert file.metadata == {"note": "ours"}
    for name, tensor in tensors.items():
        assert torch.equal(file.tensor(name), tensor)
        assert file.tensor(name).dtype == tensor.dtype
        assert file.tensors[name].shape == tensor.shape
        source = file.tensors[name].source
        written = (tmp_path / "m.safetensors").read_bytes()[source.offset : source.offset + source.size]
        assert written == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_order_is_the_headers(tmp_path):
    file = TensorFile.open(raw_file(tmp_path / "m.safetensors", {"z": entry(4, 8, [1]), "a": entry(0, 4, [])}))
    assert list(file.tensors) == ["z", "a"]
    assert (file.tensor("z").tolist(), file.tensor("a").item()) == ([-2.0], 1.5)


def test_tensors_need_not_be_aligned(tmp_path):
    header = json.dumps({"one": entry(0, 1, [1], "U8"), "w": entry(1, 9, [2])}).encode()
    for padding in range(4):
        file = TensorFile.open(raw_file(tmp_path / f"{padding}.safetensors", header + b" " * padding, b"x" + DATA))
        assert (file.tensor("w") * 2).tolist() == [3.0, -4.0]


def test_writing_to_a_tensor_changes_no_file(tmp_path):
    path = raw_file(tmp_path / "m.safetensors", {"w": ENTRY})
    before = path.read_bytes()
    tensor = TensorFile.open(path).tensor("w")
    tensor.zero_()
    assert tensor.tolist() == [0, 0]
    assert path.read_bytes() == before
    assert TensorFile.open(path).tensor("w").tolist() == [1.5, -2.0]


def test_a_tensor_outlives_its_file(tmp_path):
    path = raw_file(tmp_path / "m.safetensors", {"w": ENTRY})
    tensor = TensorFile.open(path).tensor("w")
    path.unlink()
    assert tensor.tolist() == [1.5, -2.0]


@pytest.mark.parametrize("change", ["append", "replace", "touch", "remove"])
def test_slice_knows_when_its_file_has_changed(tmp_path, change):
    path = raw_file(tmp_path / "m.safetensors", {"w": ENTRY})
    source = TensorFile.open(path).tensors["w"].source
    assert source.is_current()
    if change == "append":
        with path.open("ab") as file:
            file.write(b"more")
    elif change == "replace":
        os.replace(raw_file(tmp_path / "other", {"w": ENTRY}), path)
    elif change == "touch":
        os.utime(path, ns=(0, 0))
    else:
        path.unlink()
    assert not source.is_current()


TWICE = b'{"w":%s,"w":%s}' % ((json.dumps(ENTRY).encode(),) * 2)


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        ({"w": ENTRY}, DATA[:5], None, r"must have \d+ bytes by its header, but has \d+: it is truncated"),
        ({"w": ENTRY}, DATA + b"more", None, "must be a valid safetensors file, but is not"),
        ({"w": ENTRY}, DATA, 2**40, "a header of 1099511627776 bytes in a file of"),
        ({"w": ENTRY}, DATA, 2**64 - 1, "at most 100000000 bytes and within the file"),
        ({"w": ENTRY}, DATA, 300, "a header of 300 bytes in a file of"),
        ({"w": ENTRY}, DATA, 20, "must be JSON, but is not"),
        (TWICE, DATA, None, "'w' comes twice"),
        (b'{"__metadata__":{"a":"1","a":"2"}}', b"", None, "'a' comes twice"),
        (b"", b"", None, "must be JSON"),
        (b"[]", b"", None, "must be a JSON object, but is a list"),
        (b'{"a":' * 50_000, b"", None, "must be JSON"),
        ("{}".encode("utf-16"), b"", None, "must be JSON"),
        (b'{"\\ud800":%s}' % json.dumps(ENTRY).encode(), DATA, None, "valid safetensors"),
        ({"w": 3}, DATA, None, "valid safetensors"),
        ({"w": {**ENTRY, "data_offsets": 8}}, DATA, None, "valid safetensors"),
        ({"w": {**ENTRY, "data_offsets": [True, 8]}}, DATA, None, "valid safetensors"),
        ({"w": {**ENTRY, "dtype": "Q4"}}, DATA, None, "valid safetensors"),
        ({"w": entry(0, 8, [3])}, DATA, None, "valid safetensors"),
        ({"w": entry(0, 8, [-2])}, DATA, None, "valid safetensors"),
        ({"w": entry(0, 8, [2**40, 2**40])}, DATA, None, "valid safetensors"),
        ({"w": entry(0, 2**62, [2**60])}, DATA, None, "it is truncated"),
        ({"w": entry(8, 0, [2])}, DATA, None, "valid safetensors"),
        ({"w": entry(-8, 0, [2])}, DATA, None, "valid safetensors"),
        ({"v": entry(0, 8, [2]), "w": entry(4, 12, [2])}, DATA + DATA[:4], None, "valid safetensors"),
        ({"v": entry(0, 4, [1]), "w": entry(8, 12, [1])}, DATA + DATA[:4], None, "valid safetensors"),
        ({"__metadata__": {"a": 1}, "w": ENTRY}, DATA, None, "valid safetensors"),
    ],
)
def test_damaged_files(tmp_path, header, data, length, message):
    path = raw_file(tmp_path / "m.safetensors", header, data, length)
    with pytest.raises(ValueError, match=message) as caught:
        TensorFile.open(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_files_without_a_header(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"but .* has its {len(content)} bytes: it is truncated"):
        TensorFile.open(tmp_path / "m.safetensors")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), os.mkfifo])
def test_what_is_no_file(tmp_path, make):
    make(tmp_path / "m.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*m\.safetensors"):
        TensorFile.open(tmp_path / "m.safetensors")


SEED = {
    "__metadata__": {"format": "pt"},
    "fc.weight": entry(0, 24, [2, 3]),
    "fc.bias": entry(24, 28, [2], "F16"),
    "n": entry(28, 36, [], "I64"),
}


@given(st.data())
def test_mutated_files_are_refused_with_reasons_or_read_within_bounds(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    raw_file(path, SEED, bytes(36))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "digit", "cut", "insert", "header"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "digit":
            digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()] or [at]
            content[digits[at % len(digits)]] = ord(data.draw(st.sampled_from('0123456789-,."')))
        elif kind == "cut":
            del content[max(at, 1) :]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(max_size=9))
        else:
            content[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    path.write_bytes(content)
    refused = None
    try:
        file = TensorFile.open(path)
    except ValueError as error:
        refused = error
    if refused is not None:
        assert "mutated.safetensors" in str(refused)
        return
    for name, stored in file.tensors.items():
        assert stored.source.offset + stored.source.size <= len(content)
        if stored.dtype in ("F64", "F32", "F16", "BF16"):
            assert file.tensor(name).shape == stored.shape
            assert file.tensor(name).untyped_storage().nbytes() == stored.source.size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other rules for mappings")
def test_file_larger_than_memory_and_swap(tmp_path):
    size = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    path = raw_file(tmp_path / "m.safetensors", {"w": entry(0, size, [size // 4])}, b"")
    try:
        os.truncate(path, path.stat().st_size + size)
    except OSError as error:
        pytest.skip(f"no file of {size} bytes can be made here: {error}")
    file = TensorFile.open(path)
    assert file.tensor("w")[-1] == 0


def test_written_files_are_whole_and_alone(tmp_path):
    path = tmp_path / "h.safetensors"
    shared = torch.arange(12.0)
    tensors = {"a": shared[:6].view(2, 3), "b": shared.view(3, 4).T, "c": shared, "d": shared}
    for round_ in ("1", "2"):
        write_tensors(path, tensors, {"round": round_})
        file = TensorFile.open(path)
        assert file.metadata == {"round": round_}
        assert all(torch.equal(file.tensor(name), t) for name, t in tensors.items())
        assert os.listdir(tmp_path) == ["h.safetensors"]


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "h.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(OSError, match=r"h\.safetensors' could not be written: .*File too large"):
            write_tensors(path, {"a": torch.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["h.safetensors"]
    assert TensorFile.open(path).tensor("a").tolist() == [1, 1, 1]


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        (tmp_path / os.path.basename(arguments[1])).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("nbquant.tensorfile.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "h.safetensors", {"a": torch.ones(3)}, {})
    assert os.listdir(tmp_path) == []


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a folder that exists is required, .*none"):
        write_tensors(tmp_path / "none" / "h.safetensors", {"a": torch.ones(3)}, {})


STREAMED = {
    "bits": torch.tensor([True, False, True]),
    "b": torch.randn(3, 4).bfloat16(),
    "number": torch.tensor(7),
    "none": torch.empty(0, 3),
    "wide": torch.randn(5, dtype=torch.float64),
    "α": torch.randn(100, 3),
}
SPELLED = {torch.bool: "BOOL", torch.bfloat16: "BF16", torch.int64: "I64", torch.float32: "F32", torch.float64: "F64"}


def test_a_stream_of_pieces_is_what_the_library_reads(tmp_path):
    entries = {n: (SPELLED[t.dtype], tuple(t.shape), t.numel() * t.element_size()) for n, t in STREAMED.items()}
    path = tmp_path / "m.safetensors"
    stream_tensors(path, entries, lambda name: STREAMED[name].reshape(-1).split(7), {"note": "ours"})
    found = load_file(path)
    assert found.keys() == STREAMED.keys()
    assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in STREAMED.items())
    assert TensorFile.open(path).metadata == {"note": "ours"}
    offsets = {n: TensorFile.open(path).tensors[n].source.offset for n in STREAMED}
    assert all(offsets[n] % t.element_size() == 0 for n, t in STREAMED.items() if t.numel())


def test_a_stream_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def pieces(name):
        yield torch.zeros(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream_tensors(path, {"w": ("F32", (2,), 8)}, pieces, {})
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["m.safetensors"])


def test_what_cannot_be_written_says_so_and_stays(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"old")

    def write_too_much():
        with replacing(path) as partial:
            partial.write_bytes(b"new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"m\.bin' could not be written \(No space left on device\): the existing file"):
        write_too_much()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["m.bin"])
    with pytest.raises(FileNotFoundError, match=r"no .*missing': make it"), replacing(tmp_path / "missing" / "m.bin"):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), replacing(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="other"), replacing(path):
        open(tmp_path / "other").close()
