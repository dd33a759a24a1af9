"""Search for stored scales against exhaustive search over all that the type can hold, and its laws."""

import numpy as np
import pytest

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_format import BlockFormat
from nbquant.quantization.blocks.stored_scales import round_to_half
from tests.quantization.blocks.samples import sensitivities, weights

BLOCKS = 12


def losses(block_format: BlockFormat, weight: np.ndarray, h: np.ndarray | None, search: bool) -> np.ndarray:
    """½ Σ h (w − ŵ)² of each block."""
    decoded = block_format.decode(block_format.encode(weight, h if search else None, search))
    sensitivity = 1.0 if h is None else h.astype(np.float64)
    square = sensitivity * (weight.astype(np.float64) - decoded) ** 2
    return 0.5 * square.reshape(-1, block_format.length).sum(axis=1)


def least_losses(weight: np.ndarray, h: np.ndarray, levels: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The least loss of each block over all scales, the nearest level chosen for each weight."""
    increasing = np.unique(levels[np.isfinite(levels)]).astype(np.float64)
    least = np.empty(len(weight))
    for b, (row, its_h) in enumerate(zip(weight.astype(np.float64), h.astype(np.float64), strict=True)):
        best = np.inf
        for scale in scales:
            values = increasing * scale
            nearest = np.abs(row[:, None] - values).min(axis=1)
            best = min(best, 0.5 * float((its_h * nearest**2).sum()))
        least[b] = best
    return least


def halves(least: float, most: float) -> np.ndarray:
    """All float16 between two positive numbers."""
    ends = np.array([least, most], np.float16).view(np.uint16)
    return np.arange(ends[0], ends[1] + 1, dtype=np.uint16).view(np.float16).astype(np.float64)


E4M3 = np.unique([m / 8 * 2.0**e for e in range(-5, 9) for m in range(8, 16)] + [m / 512 for m in range(8)])[1:]


def candidates(name: str, largest: float, end: float) -> np.ndarray:
    """All representable scales with which the largest weight is not too far from the end."""
    if name.startswith("mxfp"):
        return 2.0 ** np.arange(-20, 20)
    if name == "nvfp4_gguf":
        return E4M3 / 2
    unclipped = largest / end
    positive = halves(unclipped * (0.1 if name == "tq2_0" else 0.5), unclipped * 1.4)
    return np.concatenate([positive, -positive])


# The share of the gap between a library's encoder and the best scale that the search closes, at least.
SHARES = {
    "q4_0": 0.9,
    "q5_0": 0.85,
    "q8_0": 0.8,
    "iq4_nl": 0.85,
    "tq2_0": 0.97,
    "mxfp4": 0.999,
    "mxfp4_gguf": 0.999,
    "nvfp4_gguf": 0.97,
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("weighted", [False, True])
def test_search_closes_most_of_the_gap_to_exhaustive_search(name: str, weighted: bool) -> None:
    block_format = formats.named(name)
    length = block_format.length
    # Ternary scales have two octaves to be searched, so that fewer blocks must do.
    blocks = 4 if name == "tq2_0" else BLOCKS
    weight = np.random.default_rng(2).standard_normal((blocks, length)).astype(np.float32)
    h = sensitivities(weight.shape) if weighted else None
    plain = losses(block_format, weight, h, search=False).sum()
    found = losses(block_format, weight, h, search=True).sum()
    groups = weight.reshape(blocks * block_format.groups, -1)
    sensitivity = np.ones_like(groups) if h is None else h.reshape(groups.shape)
    levels = np.array([-1.0, 0, 1]) if name == "tq2_0" else block_format.levels
    end = np.abs(levels).max()
    least = np.concatenate(
        [
            least_losses(group[None], its_h[None], levels, candidates(name, float(np.abs(group).max()), float(end)))
            for group, its_h in zip(groups, sensitivity, strict=True)
        ]
    ).sum()
    assert found >= least * (1 - 1e-9)
    assert plain - found >= SHARES[name] * (plain - least) - 1e-9 * plain


@pytest.mark.parametrize("name", formats.names())
@pytest.mark.parametrize("weighted", [False, True])
def test_search_is_not_worse_than_the_library(name: str, weighted: bool) -> None:
    block_format = formats.named(name)
    weight = weights()
    h = sensitivities(weight.shape) if weighted else None
    sensitivity = np.ones(1) if h is None else h.astype(np.float64)
    plain, found = (
        float((sensitivity * (weight.astype(np.float64) - block_format.decode(codes)) ** 2).sum())
        for codes in (block_format.encode(weight), block_format.encode(weight, h, search=True))
    )
    assert found <= plain * (1 + 1e-6)


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "q4_1", "int4", "mxfp4", "nvfp4", "nf4", "q4_k", "q6_k", "iq4_nl"])
def test_codes_are_the_nearest_for_the_stored_scale(name: str) -> None:
    block_format = formats.named(name)
    weight = weights()[[0, 6, 13, 14]]
    codes = block_format.encode(weight, search=True)
    scales = block_format.scales({part.name: part.values for part in codes.parts})
    groups = weight.reshape(len(scales.scale), -1).astype(np.float64)
    levels = np.unique(block_format.levels[np.isfinite(block_format.levels)]).astype(np.float64)
    minimum = scales.minimum if len(scales.minimum) else np.zeros_like(scales.scale)
    values = scales.scale[:, None].astype(np.float64) * levels + minimum[:, None]
    nearest = np.abs(groups[:, :, None] - values[:, None, :]).min(axis=2)
    found = np.abs(groups - block_format.decode(codes).reshape(groups.shape))
    assert (found <= nearest + 1e-6 * np.abs(groups)).all()


@pytest.mark.parametrize("name", ["q4_0", "int3", "mxfp8", "nf4", "q3_k", "q5_k"])
def test_only_the_ratio_of_sensitivities_counts(name: str) -> None:
    weight = weights()[:4]
    h = sensitivities(weight.shape)
    block_format = formats.named(name)
    found = [block_format.decode(block_format.encode(weight, h * factor, search=True)) for factor in (1.0, 2.0**-30)]
    assert np.array_equal(*found)


@pytest.mark.parametrize("name", formats.names())
def test_weights_without_sensitivity_do_not_matter(name: str) -> None:
    """With sensitivities of zero only, and with zeros in one half of the columns."""
    weight = weights()[:8]
    block_format = formats.named(name)
    none = block_format.decode(block_format.encode(weight, np.zeros_like(weight), search=True))
    assert np.isfinite(none).all()
    h = np.ones_like(weight)
    h[:, ::2] = 0
    found, plain = (
        float((h * (weight - block_format.decode(codes)) ** 2).sum())
        for codes in (block_format.encode(weight, h, search=True), block_format.encode(weight, search=True))
    )
    assert found <= plain * (1 + 1e-6)


def test_scales_are_rounded_to_finite_halves() -> None:
    exponents = np.random.default_rng(0).integers(-30, 16, 10_000)
    values = (np.random.default_rng(1).uniform(-2, 2, 10_000) * 2.0**exponents).astype(np.float32)
    rounded = round_to_half(values)
    assert np.array_equal(rounded, rounded.astype(np.float16).astype(np.float32))
    limited = np.clip(values, -65504, 65504)
    assert np.array_equal(np.abs(rounded - limited), np.abs(limited.astype(np.float16).astype(np.float32) - limited))


def least_affine_loss(row: np.ndarray, h: np.ndarray, high: int, steps: int = 160) -> float:
    """The least loss over a fine grid of scales and minima in float16, codes by rounding."""
    low, span = float(row.min()), float(np.ptp(row))
    scales = np.linspace(0.6, 1.15, steps).astype(np.float32) * np.float32(span / high)
    minima = low + np.linspace(-0.1, 0.3, steps).astype(np.float32) * np.float32(span)
    s = round_to_half(scales)[:, None, None].astype(np.float64)
    m = round_to_half(minima)[None, :, None].astype(np.float64)
    level = np.clip(np.rint((row - m) / s), 0, high)
    return 0.5 * float((h * (row - s * level - m) ** 2).sum(axis=2).min())


@pytest.mark.parametrize(("name", "share"), [("q4_1", 0.75), ("q5_1", 0.7)])
def test_search_for_scale_and_minimum_closes_most_of_the_gap(name: str, share: float) -> None:
    block_format = formats.named(name)
    weight = np.random.default_rng(4).standard_normal((8, 32)).astype(np.float32)
    h = sensitivities(weight.shape)
    high = len(block_format.levels) - 1
    least = sum(least_affine_loss(row.astype(np.float64), its_h, high) for row, its_h in zip(weight, h, strict=True))
    plain, found = (losses(block_format, weight, h, search).sum() for search in (False, True))
    assert plain - found >= share * (plain - least)
