"""Formats against what bitsandbytes, compressed-tensors, onnxruntime and torchao wrote into golden files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.dynamic_map import dynamic_map
from tests.quantization.blocks.samples import padded_weights, weights

GOLDEN = Path(__file__).parent / "golden"
BITSANDBYTES = np.load(GOLDEN / "bitsandbytes.npz")
COMPRESSED_TENSORS = np.load(GOLDEN / "compressed_tensors.npz")
ONNXRUNTIME = np.load(GOLDEN / "onnxruntime.npz")
TORCHAO = np.load(GOLDEN / "torchao.npz")


def bits_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).view(np.int32)


@pytest.mark.parametrize("name", ["nf4", "nf4_double", "fp4", "fp4_double"])
@pytest.mark.parametrize("odd", [False, True])
def test_bitsandbytes_bit_for_bit(name: str, odd: bool) -> None:
    weight = np.ascontiguousarray(padded_weights()[:23, :99]) if odd else weights()
    block_format = formats.named(name)
    golden = {key: BITSANDBYTES[f"{'odd_' * odd}{name}.{key}"] for key in ("codes", "scale", "decoded")}
    parts = {"scale": golden["scale"]}
    if "double" in name:
        parts |= {key: BITSANDBYTES[f"{'odd_' * odd}{name}.{key}"] for key in ("nested_scale", "offset")}
    codes = block_format.encode(weight)
    assert np.array_equal(block_format.pack(codes), golden["codes"])
    assert all(np.array_equal(codes.part(key), value) for key, value in parts.items())
    assert np.array_equal(bits_of(block_format.decode(codes)), bits_of(golden["decoded"]))
    assert np.array_equal(
        bits_of(block_format.decode_bytes(golden["codes"], weight.shape, parts)), bits_of(golden["decoded"])
    )
    assert np.array_equal(block_format.unpack(golden["codes"], weight.shape, parts).codes, codes.codes)


def test_dynamic_map_is_bitsandbytes_own() -> None:
    assert np.array_equal(dynamic_map(), BITSANDBYTES["map"])


@pytest.mark.parametrize(
    "name",
    [
        *("int2", "int3", "int4", "int2_asym", "int3_asym", "int4_asym", "int8_asym"),
        *("mxfp4", "mxfp6", "mxfp8", "nvfp4", "fp8_e4m3/channel"),
    ],
)
def test_compressed_tensors(name: str) -> None:
    block_format = formats.named(name)
    weight = weights()
    codes = block_format.encode(weight)
    golden = {
        key.removeprefix(f"{name}."): COMPRESSED_TENSORS[key]
        for key in COMPRESSED_TENSORS.files
        if key.startswith(f"{name}.")
    }
    level = golden["level_table"][golden["level_index"]].reshape(weight.shape)
    found = block_format.levels[codes.codes]
    assert np.array_equal(found, level)
    if name.startswith(("mx", "nv", "fp8")):
        assert np.array_equal(np.signbit(found), np.signbit(level))
    scales = block_format.scales({part.name: part.values for part in codes.parts})
    scale = golden["scale"].reshape(-1)
    if name == "nvfp4":
        assert np.array_equal(codes.part("global_scale"), golden["global_scale"])
        scale = scale / golden["global_scale"]
    assert np.array_equal(scales.scale, scale)
    if "zero_point" in golden:
        assert np.array_equal(codes.part("zero_point"), golden["zero_point"].reshape(-1))


@pytest.mark.parametrize("name", ["matmul4", "matmul4_asym", "matmul8", "matmul8_asym"])
def test_matmul_n_bits_bit_for_bit(name: str) -> None:
    block_format = formats.named(name)
    codes = block_format.encode(padded_weights())
    assert np.array_equal(block_format.pack(codes), ONNXRUNTIME[f"{name}.bytes"])
    assert np.array_equal(codes.part("scale"), ONNXRUNTIME[f"{name}.scale"])
    if "asym" in name:
        zero = ONNXRUNTIME[f"{name}.zero_point"]
        if "4" in name:
            zero = np.stack([zero & 15, zero >> 4], axis=-1).reshape(len(zero), -1)
        assert np.array_equal(codes.part("zero_point"), zero.reshape(-1))


def test_int8_is_onnxruntime_s() -> None:
    codes = formats.named("int8").encode(weights())
    assert np.array_equal(codes.codes.view(np.int8), ONNXRUNTIME["int8.codes"])
    assert np.array_equal(codes.part("scale"), ONNXRUNTIME["int8.scale"])


def test_int8_torchao_bit_for_bit() -> None:
    block_format = formats.named("int8_torchao")
    codes = block_format.encode(weights())
    assert np.array_equal(codes.codes.view(np.int8), TORCHAO["codes"])
    assert np.array_equal(codes.part("scale"), TORCHAO["scale"])
    assert np.array_equal(block_format.decode(codes), TORCHAO["decoded"])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)),
        *(("mxfp8", torch.float8_e4m3fn), ("mxfp8_e5m2", torch.float8_e5m2)),
    ],
)
def test_codes_of_eight_bits_are_torch_s(name: str, dtype: torch.dtype) -> None:
    block_format = formats.named(name)
    weight = weights() + np.float32(0)  # torch keeps −0.0, compressed-tensors does not
    codes = block_format.encode(weight)
    scale = block_format.scales({part.name: part.values for part in codes.parts}).scale
    most = torch.finfo(dtype).max
    scaled = torch.from_numpy(weight.reshape(len(scale), -1) / scale[:, None]).clamp(-most, most)
    assert np.array_equal(codes.codes.reshape(-1), scaled.to(dtype).view(torch.uint8).numpy().reshape(-1))
    levels = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    finite = np.isfinite(levels)
    assert np.array_equal(block_format.levels[finite], levels[finite])
    assert not np.isfinite(block_format.levels[~finite]).any()
