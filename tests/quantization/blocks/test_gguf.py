"""GGUF formats against gguf's Python, and against bytes that ggml's reference encoders wrote."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_format import BlockFormat
from tests.quantization.blocks.samples import weights

gguf = pytest.importorskip("gguf")

GGML = np.load(Path(__file__).parent / "golden" / "ggml.npz")
ENCODED_BY_GGUF = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "tq1_0", "tq2_0", "mxfp4_gguf")
ENCODED_BY_GGML = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "nvfp4_gguf")
ALL = (*ENCODED_BY_GGUF, *ENCODED_BY_GGML)


def type_of(name: str) -> "gguf.GGMLQuantizationType":
    return gguf.GGMLQuantizationType[name.removesuffix("_gguf").upper()]


def decoded_by_gguf(name: str, data: np.ndarray, rows: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinite scales times zero
        return gguf.dequantize(data.reshape(rows, -1), type_of(name))


def assert_same_floats(found: np.ndarray, expected: np.ndarray) -> None:
    """Bit for bit, −0.0 included; any NaN equals any other."""
    same = (found.view(np.int32) == expected.view(np.int32)) | (np.isnan(found) & np.isnan(expected))
    assert same.all(), f"{(~same).sum()} of {same.size} differ"


@pytest.mark.parametrize("name", ENCODED_BY_GGUF)
@pytest.mark.parametrize("magnitude", [1e-9, 1e-5, 1.0, 1e8])
def test_plain_encoding_is_gguf_s_bit_for_bit(name: str, magnitude: float) -> None:
    weight = weights() * np.float32(magnitude)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # float16 overflows
        expected = gguf.quantize(weight, type_of(name))
    assert np.array_equal(formats.named(name).pack(formats.named(name).encode(weight)), expected.reshape(-1))


@pytest.mark.parametrize("name", ENCODED_BY_GGML)
def test_plain_encoding_is_ggml_s_bit_for_bit(name: str) -> None:
    block_format = formats.named(name)
    weight = weights()
    found = block_format.pack(block_format.encode(weight))
    expected = GGML[name.removesuffix("_gguf")]
    same = (found == expected).reshape(-1, block_format.layout.size).all(axis=1)
    if name == "iq4_nl":  # ggml leaves the codes of a block of zeros as they happen to be in memory
        same |= (weight == 0).reshape(-1, 32).all(axis=1)
    assert same.all()


@pytest.mark.parametrize("name", ALL)
def test_decoding_is_gguf_s_bit_for_bit(name: str) -> None:
    block_format = formats.named(name)
    weight = weights()
    codes = block_format.encode(weight)
    assert_same_floats(block_format.decode(codes), decoded_by_gguf(name, block_format.pack(codes), len(weight)))


@pytest.mark.parametrize("name", ALL)
def test_any_bytes_are_decoded_as_gguf_does(name: str) -> None:
    block_format = formats.named(name)
    shape = (64, 512)
    size = shape[0] * shape[1] // block_format.length * block_format.layout.size
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    expected = decoded_by_gguf(name, data, shape[0])
    assert_same_floats(block_format.decode_bytes(data, shape), expected)
    codes = block_format.unpack(data, shape)
    assert_same_floats(block_format.decode(codes), expected)
    if name != "tq1_0":  # five trits need only 243 of the 256 bytes
        assert np.array_equal(block_format.pack(codes), data)


@pytest.mark.parametrize("name", ALL)
def test_stored_bits_are_the_bytes_of_the_file(name: str) -> None:
    block_format: BlockFormat = formats.named(name)
    codes = block_format.encode(weights())
    assert sum(codes.bits().values()) == 8 * block_format.pack(codes).size
