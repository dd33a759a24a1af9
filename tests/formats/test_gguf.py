"""GGUF files written by the gguf library itself, whole and damaged."""

import struct

import gguf
import numpy as np
import pytest
import torch

import nbquant as nq
from nbquant.formats import gguf as ours
from nbquant.formats.packed_files import PACKED_FORMATS, open_packed
from nbquant.quantization.blocks import formats as blocks

QUANTIZED = [kind for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0") if kind.lower() in blocks.names()]
RNG = np.random.default_rng(0)


def write(path, tensors, architecture="llama", **numbers):
    """Write name -> (array, type's name)."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(300)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 300)
    for name, value in numbers.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    for name, (array, kind) in tensors.items():
        dtype = gguf.GGMLQuantizationType[kind]
        plain = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
        data = array.astype(plain[kind]) if kind in plain else gguf.quantize(array.astype(np.float32), dtype)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights(*shape):
    return (0.1 * RNG.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of every kind that the library writes, and what it holds."""
    held = {kind: weights(6, 64) for kind in QUANTIZED}
    tensors = {f"blk.{i}.ffn_up.weight": (held[kind], kind) for i, kind in enumerate(QUANTIZED)}
    tensors |= {f"{kind}.weight": (weights(3, 8), kind) for kind in ("F32", "F16", "F64", "BF16")}
    tensors |= {"norm.weight": (weights(40), "F32"), "experts.weight": (weights(2, 4, 32), "Q8_0")}
    path = write(tmp_path_factory.mktemp("gguf") / "small.gguf", tensors, block_count=3)
    return path, tensors


def test_everything_is_read_as_the_library_reads_it(small):
    path, tensors = small
    opened = open_packed(path)
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert list(opened.tensors) == list(tensors) == list(theirs)
    assert opened.metadata["general.architecture"] == "llama"
    assert opened.metadata["tokenizer.ggml.tokens"] == "array of 300"
    for name, packed in opened.tensors.items():
        array, kind = tensors[name]
        assert packed.shape == array.shape
        assert packed.kind.lower() == kind.lower()
        assert packed.bits == 8 * theirs[name].n_bytes
        data = theirs[name].data
        expected = (data if kind == "F64" else gguf.dequantize(data, theirs[name].tensor_type)).astype(np.float32)
        decoded = packed.values(0, packed.rows)
        np.testing.assert_array_equal(
            decoded.view(np.int32), expected.reshape(packed.rows, packed.columns).view(np.int32), err_msg=name
        )
        if packed.codes is not None:
            codes = packed.codes(1, 2)
            np.testing.assert_array_equal(packed.format.decode(codes), decoded[1:2])


def test_large_tensors_are_read_in_pieces(small, monkeypatch):
    monkeypatch.setattr("nbquant.formats.packed_tensor.PIECE", 100)
    packed = open_packed(small[0]).tensors["blk.0.ffn_up.weight"]
    assert list(packed.pieces()) == [(i, i + 1) for i in range(6)]
    assert list(open_packed(small[0]).tensors["norm.weight"].pieces()) == [(0, 1)]


def test_split_file_is_opened_as_one(tmp_path):
    first = write(tmp_path / "net-00001-of-00002.gguf", {"a.weight": (weights(2, 32), "Q8_0")})
    with pytest.raises(FileNotFoundError, match=r"all 2 files of 'net' are required, but 1 are missing"):
        open_packed(first)
    second = write(tmp_path / "net-00002-of-00002.gguf", {"b.weight": (weights(2, 32), "Q8_0")})
    assert list(open_packed(second).tensors) == ["a.weight", "b.weight"]
    write(second, {"a.weight": (weights(2, 32), "Q8_0")})
    with pytest.raises(ValueError, match=r"'a\.weight' is in two files"):
        open_packed(first)


def test_types_that_are_not_decoded_are_told(tmp_path):
    path = write(tmp_path / "m.gguf", {"a.weight": (weights(2, 256), "F32")})
    raw = bytearray(path.read_bytes())
    at = raw.index(b"a.weight") + 8 + 4 + 16
    raw[at : at + 4] = struct.pack("<I", 17)  # IQ2_XS, 74 bytes a block
    path.write_bytes(raw)
    packed = open_packed(path).tensors["a.weight"]
    assert (packed.kind, packed.format, packed.values, packed.bits) == ("iq2_xs", None, None, 8 * 2 * 74)
    assert nq.inspect(path, progress=False)["rate"].tolist() == [74 / 32]


class Damage:
    """Damages to the bytes of a file, with what is said of each."""

    @staticmethod
    def magic(raw):
        raw[:4] = b"GGML"
        return "starts with b'GGML'"

    @staticmethod
    def version(raw):
        raw[4:8] = struct.pack("<I", 77)
        return "has version 77, while 2 and 3 are known"

    @staticmethod
    def many_tensors(raw):
        raw[8:16] = struct.pack("<Q", 1 << 60)
        return "announces 1,152,921,504,606,846,976 tensors, more than fit"

    @staticmethod
    def many_texts(raw):
        at = raw.index(b"tokenizer.ggml.tokens") + 21 + 8
        raw[at : at + 8] = struct.pack("<Q", 1 << 50)
        return "announces 1,125,899,906,842,624 texts, more than fit"

    @staticmethod
    def long_text(raw):
        at = raw.index(b"token 7") - 8
        raw[at : at + 8] = struct.pack("<Q", 1 << 62)
        return "bytes of text, more than fit"

    @staticmethod
    def axes(raw):
        at = raw.index(b"norm.weight") + 11
        raw[at : at + 4] = struct.pack("<I", 9)
        return "'norm.weight' has 9 axes, not 1 to 4"

    @staticmethod
    def shape(raw):
        at = raw.index(b"norm.weight") + 15
        raw[at : at + 8] = struct.pack("<Q", 1 << 61)
        return "'norm.weight' ends at byte .*, beyond the file's .*: it is cut"

    @staticmethod
    def empty(raw):
        at = raw.index(b"norm.weight") + 15
        raw[at : at + 8] = struct.pack("<Q", 0)
        return "'norm.weight' has the shape .0,., without a weight"

    @staticmethod
    def row(raw):
        at = raw.index(b"experts.weight") + 18
        raw[at : at + 8] = struct.pack("<Q", 31)
        return "rows of 'experts.weight' have 31 weights, no multiple of q8_0's 32"

    @staticmethod
    def kind(raw):
        at = raw.index(b"norm.weight") + 11 + 4 + 8
        raw[at : at + 4] = struct.pack("<I", 1000)
        return "'norm.weight' has the unknown type 1000"

    @staticmethod
    def overlap(raw):
        at = raw.index(b"norm.weight") + 11 + 4 + 8 + 4
        raw[at : at + 8] = struct.pack("<Q", 0)
        return "tensors .* and .* overlap"

    @staticmethod
    def cut(raw):
        del raw[-200:]
        return "it is cut"

    @staticmethod
    def header(raw):
        del raw[100:]
        return "announces|header ends"


@pytest.mark.parametrize("how", [name for name in vars(Damage) if not name.startswith("_")])
def test_damage_is_told_with_file_and_tensor(small, tmp_path, how):
    raw = bytearray(small[0].read_bytes())
    told = getattr(Damage, how)(raw)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=told) as error:
        open_packed(path)
    assert "damaged.gguf" in str(error.value)


def test_any_damage_of_the_header_is_an_error_or_another_valid_file(small, tmp_path):
    """Whatever a byte becomes, no other error than ValueError comes, and nothing is read beyond the file."""
    whole = small[0].read_bytes()
    end = whole.index(b"experts.weight") + 60
    path = tmp_path / "m.gguf"
    for _ in range(2000):
        raw = bytearray(whole)
        for at in RNG.integers(0, end, RNG.integers(1, 4)):
            raw[at] = RNG.choice([0, 1, 255, RNG.integers(256)])
        path.write_bytes(raw[: RNG.integers(len(raw))] if RNG.random() < 0.1 else raw)
        try:
            opened = open_packed(path)
        except (ValueError, FileNotFoundError):
            continue
        for packed in opened.tensors.values():
            if packed.values is not None:
                assert packed.values(0, min(packed.rows, 2)).shape[1] == packed.columns


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ValueError, match=f"one of the formats {PACKED_FORMATS[0].name}.* is required, but .*notes.txt"):
        open_packed(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_packed(tmp_path / "none.gguf")
    with pytest.raises(ValueError, match="is a pickle"):
        open_packed(tmp_path / "model.bin")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ValueError, match="but is empty"):
        open_packed(tmp_path / "empty.gguf")


def test_block_sizes_are_the_library_s():
    for number, (name, length, size) in ours.BLOCKS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name.lower() == name
        assert gguf.GGML_QUANT_SIZES[kind] == (length, size)


def test_names_are_those_of_the_library():
    """For every architecture of ours, the library maps each of our original names to the same name in GGUF."""
    mapping = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    for name, other in (
        ("blk.2.attn_q.weight", "model.layers.2.self_attn.q_proj.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"),
    ):
        assert mapping.get_name(other, try_suffixes=(".weight",)) == name
        assert other in ours.original_names(name)


def test_float16_too_large_is_told_by_inspection(tmp_path):
    huge = weights(1, 64) * 1e9
    with np.errstate(over="ignore"):
        path = write(tmp_path / "m.gguf", {"a.weight": (huge, "Q8_0")})
    row = nq.inspect(path, progress=False).iloc[0]
    assert row["not_finite"] > 0
    assert torch.isfinite(torch.from_numpy(huge)).all()
