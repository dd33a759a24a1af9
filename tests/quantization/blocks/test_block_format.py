"""What holds for every block format: ledger, padding, bytes, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nbquant.coding.entropy import entropy
from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_codes import BlockCodes
from tests.quantization.blocks.samples import padded_weights, sensitivities, weights

NAMES = formats.names()
WITH_BYTES = tuple(f.name for f in formats.BLOCK_FORMATS if f.layout is not None)


@pytest.fixture(scope="module")
def encoded() -> dict[str, BlockCodes]:
    return {name: formats.named(name).encode(weights()) for name in NAMES}


def test_names_are_distinct() -> None:
    assert len(set(NAMES)) == len(NAMES)


MANTISSA_BITS = {"fp8_e4m3": 3, "fp8_e5m2": 2, "mxfp8": 3, "mxfp8_e5m2": 2, "mxfp6": 3, "mxfp6_e3m2": 2}


@pytest.mark.parametrize("name", NAMES)
def test_decoded_weights_are_near(name: str) -> None:
    block_format = formats.named(name)
    weight = weights()[[0, 13, 14, 15]]  # Gaussian
    decoded = block_format.decode(block_format.encode(weight))
    error = ((weight - decoded) ** 2).sum() / (weight**2).sum()
    bits = MANTISSA_BITS.get(name, block_format.code_bits)
    # Of integers with the extreme of a block or row at their end; of floats, half a step uniform within an octave.
    assert error < (0.7 if bits < 3 and name not in MANTISSA_BITS else 5 * 4.0**-bits)
    if name in MANTISSA_BITS:
        assert error < 4.0 ** -(bits + 2)


@pytest.mark.parametrize("name", NAMES)
def test_codes_have_levels(name: str, encoded: dict[str, BlockCodes]) -> None:
    block_format = formats.named(name)
    assert int(encoded[name].codes.max()) < len(block_format.levels)
    assert 2**block_format.code_bits >= len(np.unique(encoded[name].codes))
    assert np.isfinite(block_format.levels[encoded[name].codes]).all()


@pytest.mark.parametrize("name", NAMES)
def test_ledger(name: str, encoded: dict[str, BlockCodes]) -> None:
    codes = encoded[name]
    block_format = formats.named(name)
    bits, entropies = codes.bits(), codes.entropy()
    assert bits["codes"] == weights().size * block_format.code_bits
    assert bits["padding"] == 0
    assert set(entropies) == {"codes", *(part.name for part in codes.parts)}
    counts = np.unique(codes.codes, return_counts=True)[1]
    assert entropies["codes"] == pytest.approx(entropy(counts))
    assert all(0 <= entropies[part.name] <= max(part.bits, 16) for part in codes.parts)


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_kept_apart(name: str) -> None:
    block_format = formats.named(name)
    weight = padded_weights()
    codes = block_format.encode(weight)
    assert codes.shape == weight.shape
    count, length = block_format.blocks_of(weight.shape)
    if block_format.across_rows:
        assert codes.padding.size == 0  # 2,400 weights of four bits fill whole bytes
    else:
        assert codes.padding.size == count * length - weight.size
    assert codes.bits()["padding"] == codes.padding.size * block_format.code_bits
    # Each row of its own: what the others hold does not matter, but for scales of a whole tensor.
    if not block_format.across_rows and name not in ("nvfp4", "fp8_e4m3", "fp8_e5m2"):
        alone = block_format.decode(block_format.encode(weight[3:4]))
        assert np.array_equal(block_format.decode(codes)[3:4], alone)


@pytest.mark.parametrize("name", WITH_BYTES)
def test_bytes_are_read_back(name: str) -> None:
    block_format = formats.named(name)
    for weight in (weights(), padded_weights(), weights()[:1, :7]):
        codes = block_format.encode(weight)
        data = block_format.pack(codes)
        parts = {part.name: part.values for part in codes.parts} if not block_format.layout.fields else None
        again = block_format.unpack(data, weight.shape, parts)
        assert np.array_equal(again.codes, codes.codes)
        assert np.array_equal(again.padding, codes.padding)
        if block_format.layout.fields:
            assert np.array_equal(block_format.encode_bytes(weight), data)
        for mine, theirs in zip(again.parts, codes.parts, strict=True):
            assert mine.values.tobytes() == theirs.values.tobytes()
        assert np.array_equal(block_format.decode_bytes(data, weight.shape, parts), block_format.decode(codes))


@pytest.mark.parametrize("name", NAMES)
def test_assembled_codes_decode_alike(name: str, encoded: dict[str, BlockCodes]) -> None:
    codes = encoded[name]
    block_format = formats.named(name)
    again = block_format.assemble(codes.codes, {part.name: part.values for part in codes.parts})
    assert np.array_equal(block_format.decode(again), block_format.decode(codes))


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)), elements=st.floats(-4, 4, width=32)),
    st.sampled_from(NAMES),
    st.booleans(),
)
def test_any_small_matrix(weight: np.ndarray, name: str, search: bool) -> None:
    block_format = formats.named(name)
    codes = block_format.encode(weight, search=search)
    decoded = block_format.decode(codes)
    assert decoded.shape == weight.shape
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= 2 * np.abs(weight).max() + 1e-6


@pytest.mark.parametrize("name", ["int4", "int8_asym", "fp8_e4m3"])
def test_lengths_of_blocks(name: str) -> None:
    weight = weights()
    counts = {
        length: formats.named(f"{name}/{length}").encode(weight).part("scale").size
        for length in ("tensor", "channel", "64")
    }
    assert counts == {"tensor": 1, "channel": len(weight), "64": weight.size // 64}
    assert formats.named(f"{name}/64").name == f"{name}/64"


def test_blocks_of_64_pack_into_64_codes() -> None:
    block_format = formats.named("matmul4/64")
    assert block_format.pack(block_format.encode(weights())).size == weights().size // 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("q4_0/64", "blocks of 32 weights"),
        ("int4/0", "at least one weight"),
        ("int4/row", "number, channel or tensor"),
        ("nf4/channel", "whole bytes"),
        ("nf3", "did you mean 'nf4'"),
    ],
)
def test_unknown_names_and_lengths(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.named(name)


@pytest.mark.parametrize(
    ("weight", "h", "message"),
    [
        (np.array([[1.0, np.nan]]), None, "finite in float32, but 1 of 2"),
        (np.array([[1.0, np.inf]]), None, "finite"),
        (np.array([[1e39, 1.0]]), None, "finite in float32"),
        (np.zeros((0, 4)), None, "at least one"),
        (np.zeros((2, 2, 2)), None, "shape"),
        (np.zeros((2, 2), int), None, "floating-point"),
        (np.ones((2, 2)), np.array([[1.0, -1.0], [1.0, 1.0]]), "non-negative, but 1 of 4"),
        (np.ones((2, 2)), np.ones((1, 2)), "one sensitivity for each"),
        (np.ones((2, 2)), np.full((2, 2), np.nan), "sensitivities must be finite"),
    ],
)
def test_bad_input(weight: np.ndarray, h: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.named("q8_0").encode(weight, h, search=True)


def test_sensitivities_need_a_search() -> None:
    weight = weights()
    with pytest.raises(ValueError, match="search=True"):
        formats.named("q8_0").encode(weight, sensitivities(weight.shape))


def test_bad_bytes_and_parts() -> None:
    q8, nf4, int8 = formats.named("q8_0"), formats.named("nf4"), formats.named("int8")
    with pytest.raises(ValueError, match=r"1 × 64 weights in q8_0 are 68 bytes .* got 67"):
        q8.unpack(np.zeros(67, np.uint8), (1, 64))
    with pytest.raises(ValueError, match="68 bytes"):
        q8.decode_bytes(np.zeros(68, np.int8), (1, 64))
    with pytest.raises(ValueError, match="part 'scale', but only got none"):
        nf4.unpack(np.zeros(32, np.uint8), (1, 64))
    with pytest.raises(ValueError, match="1 blocks, but the part 'scale' has 2"):
        nf4.unpack(np.zeros(32, np.uint8), (1, 64), {"scale": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="no bytes of its own"):
        int8.pack(int8.encode(weights()))
    with pytest.raises(ValueError, match="bytes below 16"):
        nf4.assemble(np.full((1, 64), 16, np.uint8), {"scale": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match="hold no scales: use encode, then pack"):
        nf4.encode_bytes(weights())
    with pytest.raises(ValueError, match="1 of 64 are not"):
        q8.encode_bytes(np.append(np.zeros(63, np.float32), np.nan))
    with pytest.raises(KeyError, match="has the parts scale"):
        q8.encode(weights()).part("minimum")
