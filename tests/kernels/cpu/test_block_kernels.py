"""Kernels of block formats against plain numpy."""

import numpy as np
import pytest

from nbquant.kernels.cpu import block_codes, block_search

RNG = np.random.default_rng(0)
LENGTHS = (1, 7, 16, 32, 300)


def blocks(length: int) -> tuple[np.ndarray, np.ndarray]:
    weight = RNG.standard_normal((9, length)).astype(np.float32)
    weight[1] = 0
    return weight, RNG.exponential(1, weight.shape).astype(np.float32)


def candidates(count: int = block_search.LANES) -> np.ndarray:
    scale = RNG.uniform(0.05, 0.6, (9, count)).astype(np.float32)
    scale[2, 3], scale[:, 5] = 0, -scale[:, 5]
    return scale


def error_of(weight: np.ndarray, h: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Σ h (w − ŵ)² for ŵ of blocks × candidates × weights."""
    return (h[:, None].astype(np.float64) * (weight[:, None].astype(np.float64) - values) ** 2).sum(axis=2)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", ["plain", "zero", "minimum"])
def test_errors_of_integers(length: int, kind: str) -> None:
    weight, h = blocks(length)
    scale = candidates(2 * block_search.LANES)
    empty = np.empty((0, 0), np.float32)
    zero = RNG.integers(-3, 4, scale.shape).astype(np.float32) if kind == "zero" else empty
    minimum = RNG.normal(0, 0.3, scale.shape).astype(np.float32) if kind == "minimum" else empty
    error = np.empty(scale.shape)
    block_search.integer_errors(weight, h, scale, zero, minimum, -4.0, 3.0, error)
    m = minimum[..., None] if minimum.size else 0.0
    z = zero[..., None] if zero.size else 0.0
    s = scale[..., None].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.clip(np.rint((weight[:, None] - m) / s), -4 - z, 3 - z)
    np.testing.assert_allclose(error, error_of(weight, h, np.where(s == 0, m, s * level + m)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_errors_of_levels(length: int) -> None:
    weight, h = blocks(length)
    scale = candidates(5 + 2)
    level = np.array([-1, -0.4, 0, 0.1, 0.7], np.float32)
    error = np.empty(scale.shape)
    block_search.level_errors(weight, h, scale, (level[1:] + level[:-1]) / 2, level, error)
    values = scale[..., None, None].astype(np.float64) * level
    nearest = np.abs(weight[:, None, :, None] - values).min(axis=3)
    np.testing.assert_allclose(error, (h[:, None] * nearest**2).sum(axis=2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("mantissa", "exponent", "most"), [(1, 0, 6.0), (3, 0, 7.5), (2, -2, 28.0), (3, -6, 448.0)])
def test_errors_of_small_floats(length: int, mantissa: int, exponent: int, most: float) -> None:
    weight, h = blocks(length)
    scale = candidates() / 4
    error = np.empty(scale.shape)
    block_search.float_errors(weight, h, scale, mantissa, exponent, most, error)
    octave = np.arange(exponent, 10)
    normal = np.ldexp(1 + np.arange(1 << mantissa) / (1 << mantissa), octave[:, None]).reshape(-1)
    subnormal = np.ldexp(np.arange(1 << mantissa), exponent - mantissa)
    magnitude = np.concatenate([subnormal, normal])
    magnitude = magnitude[magnitude <= most]
    values = np.abs(scale[..., None, None].astype(np.float64)) * magnitude
    nearest = np.abs(np.abs(weight[:, None, :, None]) - values).min(axis=3)
    np.testing.assert_allclose(error, (h[:, None] * nearest**2).sum(axis=2), rtol=1e-3, atol=1e-6)


def test_moments() -> None:
    weight, h = blocks(33)
    codes = RNG.integers(0, 5, weight.shape).astype(np.uint8)
    level = np.array([-2, -1, 0, 1, 3], np.float32)
    sums = np.empty((len(weight), 5))
    block_search.moments(weight, h, codes, level, sums)
    q, w, n = (array.astype(np.float64) for array in (level[codes], weight, h))
    np.testing.assert_allclose(sums, np.stack([n, n * q, n * q * q, n * w, n * q * w], axis=2).sum(axis=1), rtol=1e-9)


def test_least_error_is_the_first_finite_one() -> None:
    error = np.array([[3.0, 1.0, 1.0], [np.nan, 2.0, np.inf], [np.inf, np.nan, np.inf]])
    chosen = np.empty(3, np.int64)
    block_search.choose_least(error, chosen)
    assert chosen.tolist() == [1, 1, 0]


def test_extreme_is_the_first_of_largest_magnitude() -> None:
    weight = np.array([[1, -3, 3, 0], [2, 3, -3, 1], [-1, -2, 1.5, 0], [0, -0.0, 0, 0], [5, 5, -1, 5]], np.float32)
    extreme = np.empty(len(weight), np.float32)
    block_codes.largest_magnitudes(weight.view(np.int32), extreme.view(np.int32))
    assert extreme.tolist() == [-3, 3, -2, 0, 5]


SOME_BITS = [(bits, shift) for bits in (1, 2, 4, 8, -1, -2, -4) for shift in (0, 2, 4) if abs(bits) + shift <= 8]


@pytest.mark.parametrize(("bits", "shift"), SOME_BITS)
@pytest.mark.parametrize("stride", [1, 4])
def test_bits_are_packed_as_numpy_does(bits: int, shift: int, stride: int) -> None:
    width = abs(bits)
    codes = RNG.integers(0, 256, (5, 64), np.uint8)
    size = 64 * width // 8
    out = np.full((5, size + 3), 0xAA, np.uint8)
    block_codes.gather_bits(codes, shift, bits, stride, out, 2)
    part = (codes >> shift & ((1 << width) - 1)).reshape(5, -1, 8 // width, stride).astype(np.int64)
    place = np.arange(8 // width) * width
    expected = (part << (place if bits > 0 else place[::-1])[:, None]).sum(axis=2).reshape(5, size)
    assert np.array_equal(out[:, 2:-1], expected)
    assert (out[:, [0, 1, -1]] == 0xAA).all()
    again = np.zeros_like(codes)
    block_codes.scatter_bits(out, 2, shift, bits, stride, again)
    assert np.array_equal(again, codes & (((1 << width) - 1) << shift))
