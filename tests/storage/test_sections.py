"""Damage of any kind is found when a file is opened, or when it is read."""

import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nbquant as nq
from nbquant.storage.errors import CorruptFileError
from nbquant.storage.layout import MOST_HEADER
from tests.storage.cases import MAGIC, Tied, assembled, network, parts, quantize, same, section


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file with everything in it: pruned, several sections, raw tensors, tied names."""
    model = Tied()
    with torch.no_grad():
        model.embed.weight[torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.6] = 0
    path = tmp_path_factory.mktemp("small") / "m.nbq"
    nq.save(nq.KMeans(3).fit(nq.select(model, layers="embed")), path, model, progress=False)
    return path


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        nq.load(path)
    assert caught.value.section
    assert caught.value.reason
    return caught.value


def test_every_flipped_bit_is_found(tmp_path):
    weight = torch.tensor([0, 0, 1.5, 0, 0, -2, 0, 1.5, 1.5, 0, 0, 0])
    nq.save(nq.KMeans(2).fit(weight), tmp_path / "m.nbq", progress=False)
    whole = (tmp_path / "m.nbq").read_bytes()
    assert len(whole) < 512
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(tmp_path / "m.nbq", bytes(damaged))


def test_every_cut_and_whatever_is_added_is_found(tmp_path, small):
    whole = small.read_bytes()
    for length in range(len(whole)):
        refused(tmp_path / "m.nbq", whole[:length])
    for more in (b"\0", b"\n", whole[-16:], whole):
        refused(tmp_path / "m.nbq", whole + more)


def test_sections_are_named(tmp_path, small):
    whole = small.read_bytes()
    header, _ = parts(whole)
    at = 20 + int.from_bytes(whole[12:16], "little")
    damaged = bytearray(whole)
    damaged[at] ^= 1
    assert refused(tmp_path / "m.nbq", bytes(damaged)).section == f"codebook {header['codebooks']['name'][0]!r}"
    damaged = bytearray(whole)
    damaged[-17] ^= 1
    assert refused(tmp_path / "m.nbq", bytes(damaged)).section == "tensor 'head.bias'"
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    assert refused(tmp_path / "m.nbq", bytes(damaged)).section == "end"


def test_swapped_sections_are_found(tmp_path):
    """Each has a checksum that is right, but the digest knows their order."""
    header = {"raw": {"name": ["a", "b"], "shape": [[1], [1]], "dtype": "U8"}, "recipe": {}}
    whole = assembled(header, section(b"a") + section(b"b"))
    (tmp_path / "m.nbq").write_bytes(whole)
    assert nq.load(tmp_path / "m.nbq").tensor("a").tolist() == [97]
    swapped = whole[:-26] + whole[-21:-16] + whole[-26:-21] + whole[-16:]
    assert refused(tmp_path / "m.nbq", swapped).section == "end"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(40), "zip archive, as torch.save writes"),
        (pickle.dumps({"w": 1}), "pickle, which may run code"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (struct.pack("<Q", 4) + b"{}  " + bytes(40), "safetensors file, which nbquant.select"),
        (MAGIC.replace(b"\r\n", b"\n") + bytes(40), "as by a transfer as text"),
        (b"\x09" + MAGIC[1:] + bytes(40), "as by a transfer as text"),
        (b"hello, world, I am no such file at all", "another kind"),
    ],
)
def test_other_kinds_of_file_get_a_kind_word(tmp_path, data, message):
    error = refused(tmp_path / "m.nbq", data)
    assert error.section == "magic"
    assert message in str(error)


def test_a_real_checkpoint_is_told(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "m.safetensors")
    with pytest.raises(CorruptFileError, match="a safetensors file"):
        nq.load(tmp_path / "m.safetensors")
    torch.save({"w": torch.zeros(3)}, tmp_path / "m.pt")
    with pytest.raises(CorruptFileError, match=r"torch\.save"):
        nq.load(tmp_path / "m.pt")


def test_newer_versions(tmp_path, small):
    header, sections = parts(small.read_bytes())
    error = refused(tmp_path / "m.nbq", assembled(header, sections, major=4, minor=3))
    assert error.section == "version"
    assert "has 4.3: update nbquant" in error.reason
    header |= {"news": [1, 2], "recipe": header["recipe"] | {"mood": "good"}}
    header["raw"]["colour"] = "green"
    (tmp_path / "m.nbq").write_bytes(assembled(header, sections, minor=7))
    assert same(nq.load(tmp_path / "m.nbq").tensor("scale"), torch.tensor(0.5))


@pytest.mark.parametrize("length", [0, 1, MOST_HEADER + 1, 2**32 - 1])
def test_a_header_is_capped_before_it_is_read(tmp_path, length):
    data = MAGIC + struct.pack("<HHI", 1, 0, length) + bytes(100)
    assert "are announced" in refused(tmp_path / "m.nbq", data).reason


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        nq.load(tmp_path / "m.nbq")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        nq.load(tmp_path)


def test_an_error_is_a_value_error_that_can_be_sent():
    error = CorruptFileError("header", "it is late.")
    assert isinstance(error, ValueError)
    assert str(error) == "header: it is late."
    again = pickle.loads(pickle.dumps(error))
    assert (again.section, again.reason, str(again)) == ("header", "it is late.", str(error))


def test_a_file_changed_after_it_was_opened(tmp_path):
    model = network(0.3)
    model.register_buffer("other", torch.arange(1000))
    path = tmp_path / "m.nbq"
    nq.save(quantize(model), path, model, progress=False)
    whole = path.read_bytes()
    stored = nq.load(path)
    for name in stored.names:
        own = stored._layout.section(stored._layout.entries[name])
        others = {n: nq.load(path).tensor(n) for n in stored.names if n != name}
        for at in {own.offset, own.offset + own.size - 1, own.end - 1}:
            damaged = bytearray(whole)
            damaged[at] ^= 4
            path.write_bytes(damaged)
            with pytest.raises(CorruptFileError, match=f"tensor '{name}'"):
                stored.tensor(name)
            # One layer's read looks at no other.
            assert all(same(stored.tensor(n), others[n]) for n in others)
        path.write_bytes(whole)
    codebook = stored._layout.sections[0]
    damaged = bytearray(whole)
    damaged[codebook.offset] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError, match="codebook 'all'"):
        nq.load(path)


@pytest.mark.parametrize("length", [0, 10, 300, 500])
def test_a_file_cut_after_it_was_opened(tmp_path, length):
    model = network(0.3)
    path = tmp_path / "m.nbq"
    nq.save(quantize(model), path, model, progress=False)
    stored = nq.load(path)
    with path.open("rb+") as file:
        file.truncate(length)
    for read in (
        lambda: stored.state_dict(progress=False),
        lambda: list(stored.chunks("2.bias")),
        stored.quantized,
        lambda: stored.apply(model),
    ):
        with pytest.raises(CorruptFileError):
            read()
    stored.to_frame()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        stored.tensor("0.weight")


def test_large_raw_tensors_are_read_in_pieces(tmp_path):
    model = network()
    model.register_buffer("table", torch.from_numpy(np.arange(5_000_000, dtype=np.int32)))
    nq.save(quantize(model), tmp_path / "m.nbq", model, progress=False)
    pieces = list(nq.load(tmp_path / "m.nbq").chunks("table"))
    assert [len(piece) for piece in pieces] == [1 << 22, 5_000_000 - (1 << 22)]
    assert torch.equal(torch.cat(pieces), model.table)
