"""Core ML packages that coremltools wrote, whole and damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch

import nbquant as nq
from nbquant.formats.packed_files import is_packed, open_packed

with np.load(Path(__file__).parent / "golden" / "coreml.npz") as _stored:
    GOLDEN = dict(_stored)
SAMPLES = sorted({key.split("/")[0] for key in GOLDEN})
INSIDE = Path("Data") / "com.apple.CoreML"


def write(which, folder):
    """A package."""
    path = folder / "m.mlpackage"
    for file in ("model.mlmodel", "weights/weight.bin"):
        (path / INSIDE / file).parent.mkdir(parents=True, exist_ok=True)
        (path / INSIDE / file).write_bytes(GOLDEN[f"{which}/{file}"].tobytes())
    return path


def weight_in(path):
    (packed,) = [p for p in open_packed(path).tensors.values() if p.name.endswith(("palettized", "quantized"))]
    return packed


@pytest.mark.parametrize("which", SAMPLES)
def test_weights_are_those_of_coremltools_in_any_pieces(which, tmp_path):
    packed = weight_in(write(which, tmp_path))
    expected = GOLDEN[f"{which}/weight"]
    assert packed.shape == expected.shape
    whole = packed.values(0, packed.rows)
    np.testing.assert_array_equal(whole.astype(expected.dtype), expected.reshape(whole.shape))
    for first, last in ((0, 1), (3, 7), (packed.rows - 1, packed.rows)):
        np.testing.assert_array_equal(packed.values(first, last), whole[first:last])


@pytest.mark.parametrize("which", SAMPLES)
def test_codes_are_counted_once_in_any_pieces(which, tmp_path):
    packed = weight_in(write(which, tmp_path))
    if packed.codes is None:
        assert "filters" in which or "channels" in which
        return
    whole = packed.codes(0, packed.rows)
    pieces = [packed.codes(i, i + 1) for i in range(packed.rows)]
    np.testing.assert_array_equal(np.concatenate([piece.codes for piece in pieces]), whole.codes)
    if packed.kind == "codebook":
        assert sum(piece.part("codebook").size for piece in pieces) == whole.part("codebook").size


@pytest.mark.parametrize(
    ("which", "kind", "bits"),
    [
        ("palettized 4", "codebook", 8 * (192 + 64)),
        ("palettized 6 old", "codebook", 8 * (288 + 256)),
        ("palettized 3", "codebook", 8 * (144 + 32)),
        ("palettized by channels", "codebooks", 8 * (96 + 4 * 16)),
        ("symmetric old", "int8/channel", 8 * (384 + 64 + 16)),
        ("symmetric", "int8/channel", 8 * (384 + 64)),
        ("uint4 blocks", "int4_asym/8", 8 * (192 + 48 * 4 + 24)),
        ("int4 blocks float16", "int4/8", 8 * (192 + 48 * 2)),
    ],
)
def test_formats_and_stored_bits(which, kind, bits, tmp_path):
    packed = weight_in(write(which, tmp_path))
    assert (packed.kind, packed.bits) == (kind, bits)


def test_package_is_inspected_against_the_original(tmp_path):
    path = write("palettized 4", tmp_path)
    net = torch.nn.Module()
    net.fc = torch.nn.Linear(24, 16)
    with torch.no_grad():
        net.fc.weight.copy_(torch.from_numpy(GOLDEN["palettized 4/weight"]))
    assert is_packed(path)
    row = nq.inspect(path, net, progress=False).set_index("original").loc["fc.weight"]
    assert (row["relative_error"], row["levels"]) == (0, 16)
    inside = nq.inspect(path / INSIDE / "model.mlmodel", progress=False)
    assert inside["format"].tolist() == ["codebook", "F32"]


def edited(which, folder, old, new, file="model.mlmodel"):
    path = write(which, folder)
    raw = (path / INSIDE / file).read_bytes()
    assert old in raw
    assert len(old) == len(new)
    (path / INSIDE / file).write_bytes(raw.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("which", "old", "new", "file", "told"),
    [
        (
            "palettized 4",
            b"@model_path/weights/weight.bin",
            b"@model_path/../../../weight.bi",
            None,
            "must be in its pack",
        ),
        ("palettized 4", b"\x0a\x03lut", b"\x0a\x03lux", None, "'.*palettized' requires 'lut' of .* is not there"),
        ("palettized 4", b"\xef\xbe\xad\xde", b"\xef\xbe\xad\xdd", "weights/weight.bin", "but its header there tells"),
        ("uint4 blocks", b"\x0a\x05scale", b"\x0a\x05scalx", None, "requires 'scale' of"),
        ("uint4 blocks", b"\x0a\x04data", b"\x0a\x04datx", None, "requires 'data' of"),
        ("asymmetric old", b"\x0a\x0azero_point", b"\x0a\x0azero_poinx", None, "requires 'zero_point' of"),
    ],
)
def test_damage_is_told_with_tensor_and_file(which, old, new, file, told, tmp_path):
    path = edited(which, tmp_path, old, new, file or "model.mlmodel")
    with pytest.raises(ValueError, match=told) as error:
        open_packed(path)
    assert "model.mlmodel" in str(error.value)
    assert "weight" in str(error.value)


def test_missing_files_are_told(tmp_path):
    path = write("palettized 4", tmp_path)
    (path / INSIDE / "weights" / "weight.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"weight\.bin', which holds tensor '.*', is not beside it"):
        open_packed(path)
    (path / INSIDE / "model.mlmodel").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.mlmodel' .* it is empty"):
        open_packed(path)
    (path / INSIDE / "model.mlmodel").unlink()
    with pytest.raises(ValueError, match=r"a package with one \*\.mlmodel .* but has 0"):
        open_packed(path)


@pytest.mark.parametrize("which", ["palettized 6 old", "palettized 3", "uint4 blocks", "asymmetric old"])
def test_any_damage_is_an_error_or_another_valid_model(which, tmp_path):
    rng = np.random.default_rng(0)
    path = write(which, tmp_path)
    files = {name: GOLDEN[f"{which}/{name}"] for name in ("model.mlmodel", "weights/weight.bin")}
    read, told = 0, []
    for _ in range(500):
        name = "model.mlmodel" if rng.random() < 0.8 else "weights/weight.bin"
        raw = files[name].copy()
        for at in rng.integers(0, len(raw), rng.integers(1, 4)):
            raw[at] = rng.choice([0, 1, 255, rng.integers(256)])
        raw = raw[: rng.integers(len(raw))] if rng.random() < 0.1 else raw
        (path / INSIDE / name).write_bytes(raw.tobytes())
        try:
            for packed in open_packed(path).tensors.values():
                if packed.values is not None:
                    assert packed.values(0, min(packed.rows, 2)).shape[1] == packed.columns
                    read += 1
                if packed.codes is not None:
                    assert packed.codes(0, min(packed.rows, 2)).codes.size
        except FileNotFoundError as error:
            told.append("model.mlmodel" in str(error))
        except ValueError as error:
            told.append("model.mlmodel" in str(error))
        (path / INSIDE / name).write_bytes(files[name].tobytes())
    assert all(told)
    assert len(told) > 50
    assert read > 50
