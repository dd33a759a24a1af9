"""ONNX models written by the onnx library and by ONNX Runtime, whole and damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import nbquant as nq
from nbquant import cli
from nbquant.formats import protobuf
from nbquant.formats.onnx_model import open_model
from nbquant.formats.packed_files import is_packed, open_packed

with np.load(Path(__file__).parent / "golden" / "onnx.npz") as _stored:
    GOLDEN = dict(_stored)
MODELS = sorted({key.split("/")[0] for key in GOLDEN} - {"network"})
LINEAR = [name for name in MODELS if not name.startswith(("runtime", "MatMul"))]


def write(which, path):
    path.write_bytes(GOLDEN[f"{which}/model"].tobytes())
    return path


def weights_of(which):
    return {key.split("/", 1)[1]: GOLDEN[key] for key in GOLDEN if key.startswith(f"{which}/") and key[-6:] != "/model"}


def named_output(packed, outputs):
    """The weight that ONNX Runtime made of a tensor."""
    fitting = [outputs[name] for name in packed.others if name in outputs]
    return fitting[0] if fitting else outputs["y_weight"]


def same(ours, theirs, packed):
    """Whether decoded weights are equal bit for bit, transposed or not."""
    theirs = theirs if tuple(theirs.shape) == packed.shape else theirs.T
    assert tuple(theirs.shape) == packed.shape
    expected = np.ascontiguousarray(theirs).reshape(packed.rows, packed.columns)
    bits = np.float32 if packed.kind.startswith("matmul") else np.int32  # a product with 1 adds zeros to −0.0
    np.testing.assert_array_equal(ours.view(bits), expected.view(bits))


@pytest.mark.parametrize("which", MODELS)
def test_weights_are_those_of_onnx_runtime_in_any_pieces(which, tmp_path):
    opened = open_packed(write(which, tmp_path / "m.onnx"))
    outputs = weights_of(which)
    quantized = [p for p in opened.tensors.values() if p.name.endswith(("_quantized", "_index", "_Q4", "_Q8"))]
    assert quantized
    for packed in quantized:
        whole = packed.values(0, packed.rows)
        same(whole, named_output(packed, outputs), packed)
        for first, last in ((0, 1), (packed.rows // 2, packed.rows)):
            np.testing.assert_array_equal(packed.values(first, last), whole[first:last])


@pytest.mark.parametrize("which", MODELS)
def test_codes_decode_to_the_weights_and_are_counted_once(which, tmp_path):
    for packed in open_packed(write(which, tmp_path / "m.onnx")).tensors.values():
        if packed.codes is None:
            continue
        whole = packed.codes(0, packed.rows)
        if packed.kind != "codebook":
            np.testing.assert_array_equal(packed.format.decode(whole), packed.values(0, packed.rows))
        pieces = [packed.codes(i, i + 1) for i in range(packed.rows)]
        np.testing.assert_array_equal(np.concatenate([piece.codes for piece in pieces]), whole.codes)
        for part in whole.parts:
            if part.values.size > 1:
                values = np.concatenate([piece.part(part.name) for piece in pieces])
                np.testing.assert_array_equal(values, part.values)


@pytest.mark.parametrize(
    ("which", "kind", "bits"),
    [
        ("INT8 tensor", "int8_asym/tensor", 8 * (6 * 35 + 4 + 1)),
        ("INT8 no zero point", "int8/channel", 8 * (6 * 35 + 4 * 6)),
        ("UINT8 no zero point", "int8_asym/channel", 8 * (6 * 35 + 4 * 6)),
        ("INT4 padded blocks", "int4_asym/16", 8 * (105 + 4 * 18 + 9)),
        ("UINT4 blocks of columns", "int4_asym/16", 8 * (80 + 4 * 10 + 5)),
        ("UINT2 columns", "int2_asym/channel", 8 * (53 + 4 * 35 + 9)),
        ("FLOAT8E4M3FN rows", "fp8_e4m3/channel", 8 * (210 + 24 + 6)),
        ("MatMulNBits 4", "matmul4_asym/32", 8 * (8 * 64 + 4 * 32 + 8 * 2)),
        ("MatMulNBits 8 symmetric", "matmul8/32", 8 * (8 * 128 + 4 * 32)),
        ("codebook UINT4", "codebook", 8 * (18 + 16)),
        ("INT4 blocks of channels", "I4", 8 * (48 + 4 * 32 + 16)),
    ],
)
def test_formats_and_stored_bits(which, kind, bits, tmp_path):
    packed = next(iter(p for p in open_packed(write(which, tmp_path / "m.onnx")).tensors.values() if "w" in p.name))
    packed = packed if "Mat" not in which else open_packed(tmp_path / "m.onnx").tensors["fc.weight_Q" + which[12]]
    assert (packed.kind, packed.bits) == (kind, bits)


def test_symmetric_zero_points_of_the_runtime_are_told(tmp_path):
    opened = open_packed(write("runtime QInt8 per channel", tmp_path / "m.onnx"))
    assert opened.tensors["conv.weight_quantized"].kind == "int8/channel"
    assert opened.tensors["fc.weight_quantized"].shape == (8, 100)
    assert opened.tensors["conv.bias_quantized"].kind == "I32"
    assert {name: opened.tensors[name].kind for name in ("shape", "x_scale")} == {"shape": "I64", "x_scale": "F32"}
    np.testing.assert_array_equal(opened.tensors["x_scale"].values(0, 1).shape, (1, 1))


def test_padding_of_blocks_is_not_counted(tmp_path):
    packed = open_packed(write("MatMulNBits 4 symmetric", tmp_path / "m.onnx")).tensors["fc.weight_Q4"]
    codes = packed.codes(0, 8)
    assert codes.codes.shape == (8, 100)
    assert codes.padding.tolist() == [0] * (8 * 28)


def test_model_is_inspected_against_the_original(tmp_path):
    path = write("runtime QInt8 per channel", tmp_path / "m.onnx")
    outputs = weights_of("runtime QInt8 per channel")
    net = torch.nn.Module()
    net.conv, net.fc = torch.nn.Conv2d(4, 6, 3), torch.nn.Linear(100, 8, bias=False)
    with torch.no_grad():
        net.conv.weight.copy_(torch.from_numpy(outputs["conv.weight_DequantizeLinear_Output"]))
        net.fc.weight.copy_(torch.from_numpy(outputs["fc.weight_DequantizeLinear_Output"].T))
    frame = nq.inspect(path, net, progress=False).set_index("original")
    assert frame.loc["conv.weight", "relative_error"] == 0
    assert frame.loc["fc.weight", "relative_error"] == 0
    assert is_packed(path)
    result = CliRunner().invoke(cli.commands, ["inspect", str(path)])
    assert result.exit_code == 0
    assert "conv.weight_quantized" in result.output
    other = shutil.copy(path, tmp_path / "model")
    assert is_packed(other)


def external(tmp_path, **places):
    """A model of one constant whose bytes are beside it."""
    pairs = {"location": "m.data", "offset": "8", "length": "24"} | places
    entries = b"".join(
        protobuf.bytes_field(13, protobuf.bytes_field(1, key) + protobuf.bytes_field(2, value))
        for key, value in pairs.items()
        if value is not None
    )
    dims = protobuf.number_field(1, 2) + protobuf.number_field(1, 3)
    constant = (
        dims + protobuf.number_field(2, 1) + protobuf.bytes_field(8, "w") + entries + protobuf.number_field(14, 1)
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(protobuf.number_field(1, 10) + protobuf.bytes_field(7, protobuf.bytes_field(5, constant)))
    (tmp_path / "m.data").write_bytes(bytes(8) + np.arange(6, dtype="<f4").tobytes())
    return path


def test_external_data_are_mapped(tmp_path):
    packed = open_packed(external(tmp_path)).tensors["w"]
    np.testing.assert_array_equal(packed.values(0, 2), [[0, 1, 2], [3, 4, 5]])
    (tmp_path / "m.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"'m\.data', which holds tensor 'w', is not beside it"):
        open_packed(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("places", "told"),
    [
        *[
            ({"location": place}, r"external data of '.*m\.onnx' must be files in its folder, but tensor 'w' names")
            for place in ("../m.data", "/etc/hosts", "a/../../x", "C:\\x", "\\\\server\\x", "", None, "a\0b")
        ],
        ({"offset": "9"}, r"m\.onnx.*tensor 'w' ends at byte 33 of 'm\.data', which has 32: it is cut"),
        ({"offset": "-8"}, "must have 24 bytes"),
        ({"offset": "9" * 30}, "must have 24 bytes"),
        ({"length": "20"}, "must have 24 bytes in 'm.data', but has '20'"),
    ],
)
def test_external_data_that_do_not_fit_are_refused(places, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        open_packed(external(tmp_path, **places))


def edited(which, path, old, new, count=1):
    """A model with some bytes replaced by as many others."""
    raw = GOLDEN[f"{which}/model"].tobytes()
    assert raw.count(old) >= count
    assert len(old) == len(new)
    path.write_bytes(raw.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("which", "old", "new", "told"),
    [
        ("INT8 rows", b"B\x07w_scale", b"B\x07x_scale", "'w_scale' is required as a constant, but is none"),
        ("INT8 rows", b"B\x0cw_zero_point", b"B\x0cx_zero_point", "'w_zero_point' is required as a constant"),
        ("INT8 rows", b"axis\x18\x00", b"axis\x18\x01", r"'w_scale' must have scales for axis 1 of 'w_quantized'"),
        ("INT8 rows", b"axis\x18\x00", b"axis\x18\x07", r"'w_scale' must have scales for axis 7"),
        ("INT8 blocks", b"block_size\x18\x10", b"block_size\x18\x19", "in blocks of 25, but has the shape"),
        ("INT8 rows", b"\x08\x06\x10\x03", b"\x08\x06\x10\x02", "'w_zero_point' must be I8 with 6 entries, but is U8"),
        ("INT8 rows", b"\x08\x06\x10\x03", b"\x08\x07\x10\x03", "tensor 'w_zero_point' of I8 .* has 6 bytes of 7"),
        ("INT8 rows", b"\x08\x06\x10\x03", b"\x08\x06\x10\x3f", "'w_zero_point' has the unknown type 63"),
        ("FLOAT8E4M3FN rows", b"J\x06" + bytes(6), b"J\x06" + bytes(5) + b"\x01", "must be 0 for codes of F8_E4M3"),
        ("MatMulNBits 4", b"K\x18d", b"K\x18\x7f", r"'fc\.weight_Q4' has the"),
        ("MatMulNBits 4", b"K\x18d", b"K\x18\x07", r"'fc\.weight_Q4' must be U8 with 128 entries"),
        ("MatMulNBits 4", b"bits\x18\x04", b"bits\x18\x05", "in blocks of 32 of 5 bits"),
        ("INT8 rows", b"B\x07w_scale", b"Bww_scale", "is damaged, or is cut"),
    ],
)
def test_damage_is_told_with_tensor_and_file(which, old, new, told, tmp_path):
    path = edited(which, tmp_path / "m.onnx", old, new)
    if told.endswith("has the"):
        assert open_packed(path).tensors["fc.weight_Q4"].columns == 127  # as many blocks
        return
    with pytest.raises(ValueError, match=told) as error:
        open_packed(path)
    assert "m.onnx" in str(error.value)


def test_index_beyond_the_codebook_is_told(tmp_path):
    path = edited("codebook INT32", tmp_path / "m.onnx", (3).to_bytes(4, "little"), (4).to_bytes(4, "little"))
    packed = open_packed(path).tensors["w_index"]
    with pytest.raises(ValueError, match=r"m\.onnx.*'w_index' must have indices from 0 to 3, but has 0 to 4"):
        packed.values(0, 5)


def test_scales_that_are_not_finite_are_counted(tmp_path):
    path = write("INT8 rows", tmp_path / "m.onnx")
    model = open_model(path, ())
    raw = bytearray(path.read_bytes())
    scale = model.tensors["w_scale"]
    raw[scale.offset : scale.offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    assert nq.inspect(path, progress=False).set_index("name").loc["w_quantized", "not_finite"] == 35


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    for raw, told in ((b"", "it is empty"), (b"hello world", "is damaged|0 graphs"), (b"\x08\x0a", "it has 0 graphs")):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=told):
            open_packed(path)
    with pytest.raises(FileNotFoundError):
        open_packed(tmp_path / "none.onnx")


def test_lists_of_numbers_are_decoded():
    values = [0, 1, 127, 128, 300, 1 << 40, (1 << 64) - 1]
    raw = b"".join(map(protobuf.varint, values))
    assert protobuf.unpack_varints(np.frombuffer(raw, np.uint8)).tolist() == values
    for bad in (b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x01"):
        with pytest.raises(ValueError, match="is damaged"):
            protobuf.unpack_varints(np.frombuffer(bad, np.uint8))
    assert protobuf.varint(-1) == b"\xff" * 9 + b"\x01"


MUTATED = ("INT4 blocks", "runtime QInt8 per channel", "MatMulNBits 4", "codebook UINT4", "INT8 list")


def test_any_damage_is_an_error_or_another_valid_model(tmp_path):
    rng = np.random.default_rng(0)
    path, read, told = tmp_path / "m.onnx", 0, []
    whole = {which: GOLDEN[f"{which}/model"] for which in MUTATED}
    for turn in range(2000):
        raw = whole[MUTATED[turn % len(MUTATED)]].copy()
        for at in rng.integers(0, len(raw), rng.integers(1, 4)):
            raw[at] = rng.choice([0, 1, 255, rng.integers(256)])
        path.write_bytes(raw[: rng.integers(len(raw))] if rng.random() < 0.1 else raw)
        try:
            opened = open_packed(path)
        except (ValueError, FileNotFoundError) as error:
            told.append("m.onnx" in str(error))
            continue
        for packed in opened.tensors.values():
            rows = min(packed.rows, 2)
            try:
                if packed.values is not None:
                    assert packed.values(0, rows).shape == (rows, packed.columns)
                    read += 1
                if packed.codes is not None:
                    assert packed.codes(0, rows).codes.size
            except ValueError as error:
                told.append("m.onnx" in str(error))
    assert all(told)
    assert len(told) > 100
    assert read > 100
