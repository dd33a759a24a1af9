"""Behaviour of formats that a good guess gets wrong, each reproduced with the library's own rounding."""

import numpy as np
import pytest

from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.damage import Damage, clipping, damage
from tests.quantization.blocks.samples import padded_weights

GAUSSIAN = np.random.default_rng(5).standard_normal((256, 1024)).astype(np.float32)


def pruned() -> np.ndarray:
    """Every third weight is zero."""
    weight = GAUSSIAN[:32].copy()
    weight[:, ::3] = 0
    return weight


def decoded(name: str, weight: np.ndarray) -> np.ndarray:
    block_format = formats.named(name)
    return block_format.decode(block_format.encode(weight))


def damage_of(name: str, weight: np.ndarray) -> Damage:
    return damage(weight, decoded(name, weight))


def test_damage_is_counted() -> None:
    found = damage(np.array([0.0, 0.0, -0.0, 1.0, -1.0, 2.0, 3.0]), np.array([0.0, -0.0, 0.5, -1.0, -1.0, 0.0, np.inf]))
    assert (found.weights, found.zeros, found.zeros_lost, found.negative_zeros) == (7, 3, 1, 1)
    assert (found.signs_flipped, found.not_finite) == (1, 1)
    assert damage(np.array([3.0, 4.0]), np.array([3.0, 3.0])).relative_error == pytest.approx(1 / 25)
    assert np.isnan(damage(np.zeros(2), np.zeros(2)).relative_error)
    with pytest.raises(ValueError, match="shape"):
        damage(np.zeros(2), np.zeros(3))


def test_clipping_is_measured() -> None:
    weight = np.array([[1.0, -2.0, 4.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    found = clipping(weight, np.clip(weight, -1.5, 1.5))
    assert (found.clipped, found.least_peak) == (2 / 8, 1.5 / 4)
    assert clipping(weight, weight).clipped == 0
    # A scale for half the range, as an encoder of 8 bits was seen to use: far worse than four bits.
    block_format = formats.named("q8_0")
    blocks = GAUSSIAN[:4].reshape(-1, 32)
    codes = block_format.encode(blocks / 2)
    clipped = block_format.assemble(
        np.clip(codes.codes.view(np.int8).astype(int) * 2, -127, 127).astype(np.int8).view(np.uint8),
        {"scale": codes.part("scale")},
    )
    assert clipping(blocks, block_format.decode(clipped)).clipped > 0.1
    assert clipping(blocks, decoded("q8_0", blocks)).clipped == 0
    with pytest.raises(ValueError, match="blocks × length"):
        clipping(weight, weight[0])


@pytest.mark.parametrize("name", ["q4_0", "q5_0", "matmul4"])
def test_scales_take_the_sign_of_the_extreme_so_that_half_of_the_zeros_are_negative(name: str) -> None:
    weight = pruned()
    codes = formats.named(name).encode(weight)
    negative = np.signbit(codes.part("scale")).mean()
    assert 0.4 < negative < 0.6
    found = damage_of(name, weight)
    assert found.zeros_lost == 0
    lost_sign = np.signbit(decoded(name, weight)[weight == 0]).mean()
    assert lost_sign == pytest.approx(negative, abs=0.05)
    # What exceeds the extreme on the other side is clipped to 7/8 or 15/16 of it.
    levels = formats.named(name).levels
    row = np.linspace(-1, 1, 32, dtype=np.float32)[None]
    assert decoded(name, row)[0, 0] == -1
    assert decoded(name, row)[0, -1] == pytest.approx(levels[-1] / -levels[0])


def test_a_block_of_zeros_has_a_scale_of_minus_zero() -> None:
    assert np.signbit(formats.named("q4_0").encode(np.zeros((1, 32), np.float32)).part("scale")).all()


@pytest.mark.parametrize(("name", "share"), [("q4_1", 0.98), ("q5_1", 0.95), ("iq4_nl", 1.0)])
def test_formats_that_lose_zeros(name: str, share: float) -> None:
    found = damage_of(name, pruned())
    assert found.zeros_lost >= share * found.zeros
    assert not formats.named(name).exact_zero


@pytest.mark.parametrize("name", [f.name for f in formats.BLOCK_FORMATS if f.exact_zero])
def test_formats_that_keep_zeros(name: str) -> None:
    weight = pruned()
    assert damage_of(name, weight).zeros_lost == 0
    block_format = formats.named(name)
    assert damage(weight, block_format.decode(block_format.encode(weight, search=True))).zeros_lost == 0


def test_a_pruned_weight_comes_back_as_one_scale_in_iq4_nl() -> None:
    weight = pruned()
    codes = formats.named("iq4_nl").encode(weight)
    zeros = formats.named("iq4_nl").decode(codes).reshape(-1, 32)[(weight == 0).reshape(-1, 32)]
    scale = np.repeat(codes.part("scale").astype(np.float32), 32)[(weight == 0).reshape(-1)]
    assert np.array_equal(zeros, scale)


def test_q8_0_underflows_and_overflows() -> None:
    quiet = np.full((1, 32), 3e-6, np.float32)
    codes = formats.named("q8_0").encode(quiet)
    assert (formats.named("q8_0").decode(codes) == 0).all()
    assert (codes.codes == 127).all()
    assert damage_of("q8_0", np.full((1, 32), 8.5e6, np.float32)).not_finite == 32
    # The search stays finite, and says what is lost by the error.
    block_format = formats.named("q8_0")
    loud = np.full((1, 32), 8.5e6, np.float32)
    assert damage(loud, block_format.decode(block_format.encode(loud, search=True))).not_finite == 0


@pytest.mark.parametrize("name", ["tq1_0", "tq2_0"])
def test_ternary_scales_are_the_largest_magnitude(name: str) -> None:
    codes = formats.named(name).encode(GAUSSIAN)
    assert (codes.codes == 1).mean() == pytest.approx(0.87, abs=0.02)
    assert codes.entropy()["codes"] == pytest.approx(0.70, abs=0.05)
    assert damage_of(name, GAUSSIAN).relative_error == pytest.approx(0.65, abs=0.02)
    block_format = formats.named(name)
    best = damage(GAUSSIAN, block_format.decode(block_format.encode(GAUSSIAN, search=True)))
    assert best.relative_error == pytest.approx(0.190, abs=0.004)  # that of the best ternary quantizer


def test_mxfp4_of_gguf_saturates_and_never_writes_code_8() -> None:
    codes = formats.named("mxfp4_gguf").encode(GAUSSIAN)
    scale = 2.0 ** (codes.part("scale").astype(np.float64) - 127)
    largest = np.abs(GAUSSIAN.reshape(-1, 32)).max(axis=1)
    assert (largest > 6 * scale).mean() == pytest.approx(0.29, abs=0.03)
    assert not (codes.codes == 8).any()
    assert codes.entropy()["scale"] == pytest.approx(0.79, abs=0.15)
    block_format = formats.named("mxfp4_gguf")
    gain = (
        damage_of("mxfp4_gguf", GAUSSIAN).relative_error
        / damage(GAUSSIAN, block_format.decode(block_format.encode(GAUSSIAN, search=True))).relative_error
    )
    assert gain == pytest.approx(1.058, abs=0.015)


def test_two_readers_disagree_on_fp4_code_8_and_e8m0_255() -> None:
    codes = np.full((1, 32), 8, np.uint8)
    gguf, ocp = formats.named("mxfp4_gguf"), formats.named("mxfp4")
    zeros = [f.decode(f.assemble(codes, {"scale": np.array([127], np.uint8)})) for f in (gguf, ocp)]
    assert [bool(np.signbit(zero).all()) for zero in zeros] == [False, True]
    largest = np.full((1, 32), 7, np.uint8)
    found = [f.decode(f.assemble(largest, {"scale": np.array([255], np.uint8)})) for f in (gguf, ocp)]
    assert np.isposinf(found[0]).all()
    assert np.isnan(found[1]).all()


def test_nvfp4_of_gguf_ignores_the_sign_of_a_scale_and_reads_7f_as_zero() -> None:
    block_format = formats.named("nvfp4_gguf")
    codes = np.full((1, 64), 2, np.uint8)
    scale = np.array([[0x38, 0xB8, 0x7F, 0x00]], np.uint8)
    found = block_format.decode(block_format.assemble(codes, {"scale": scale})).reshape(4, 16)
    assert np.array_equal(found[:, 0], [1, 1, 0, 0])


def test_torchao_int8_misses_extremes_by_half_a_step() -> None:
    weight = np.linspace(-1, 1, 255, dtype=np.float32)[None]
    found = decoded("int8_torchao", weight)
    assert abs(found[0, -1]) == pytest.approx(127 / 127.5)
    assert abs(found[0, 0]) in (pytest.approx(127 / 127.5), pytest.approx(128 / 127.5))
    assert formats.named("int8_torchao").encode(np.zeros((1, 8), np.float32)).part("scale")[0] == np.float32(2**-23)
    assert np.abs(decoded("int8", weight)).max() == 1


def test_compressed_tensors_integers() -> None:
    symmetric, asymmetric = formats.named("int4").encode(GAUSSIAN), formats.named("int4_asym").encode(GAUSSIAN)
    assert symmetric.part("scale")[0] == np.abs(GAUSSIAN[0, :128]).max() / np.float32(7.5)
    assert symmetric.entropy()["codes"] == pytest.approx(3.48, abs=0.03)
    assert damage_of("int4", GAUSSIAN).relative_error == pytest.approx(0.01229, rel=0.03)
    assert damage_of("int4_asym", GAUSSIAN).relative_error == pytest.approx(0.01013, rel=0.03)
    assert asymmetric.part("zero_point").dtype == np.int8
    assert formats.named("int4").encode(np.zeros((1, 128), np.float32)).part("scale")[0] == np.float32(2**-23)


def test_padding_of_matmul_n_bits_would_distort_the_histogram() -> None:
    codes = formats.named("matmul4").encode(np.ascontiguousarray(GAUSSIAN[:, :100]))
    assert codes.padding.size == 28 * len(GAUSSIAN)
    assert (codes.padding == 0).all()
    everything = np.concatenate([codes.codes.reshape(-1), codes.padding])
    share = np.bincount(everything) / everything.size
    entropy_of_all = -(share[share > 0] * np.log2(share[share > 0])).sum()
    assert entropy_of_all == pytest.approx(3.57, abs=0.05)
    assert codes.entropy()["codes"] == pytest.approx(3.79, abs=0.03)


@pytest.mark.parametrize("quiet", [1e-4, 1e-2])
def test_double_quantized_scales_of_quiet_blocks(quiet: float) -> None:
    """Blocks of 64: the quiet half of a row beside a loud one."""
    weight = GAUSSIAN[:64].copy()
    weight[1::2] *= np.float32(quiet)
    block_format = formats.named("nf4_double")
    codes = block_format.encode(weight)
    scale = block_format.scales({part.name: part.values for part in codes.parts}).scale.reshape(64, -1)[1::2]
    single, double = (damage(weight[1::2], decoded(name, weight)[1::2]) for name in ("nf4", "nf4_double"))
    assert single.signs_flipped == 0
    if quiet == 1e-4:
        assert (scale < 0).mean() > 0.1
        assert double.signs_flipped / double.weights > 0.05
    assert double.relative_error > 1.2 * single.relative_error
    found = damage(weight[1::2], block_format.decode(block_format.encode(weight, search=True))[1::2])
    assert found.relative_error <= double.relative_error


def test_the_map_of_double_quantization_is_lopsided() -> None:
    from nbquant.quantization.blocks.dynamic_map import dynamic_map

    assert dynamic_map()[-1] == 1
    assert dynamic_map()[0] == pytest.approx(-0.993, abs=1e-3)


def test_fp4_of_bitsandbytes_wastes_two_levels() -> None:
    level = np.abs(formats.named("fp4").levels[formats.named("fp4").encode(GAUSSIAN).codes])
    assert (level < 0.006).mean() == pytest.approx(0.176, abs=0.01)
    fp4, nf4 = damage_of("fp4", GAUSSIAN).relative_error, damage_of("nf4", GAUSSIAN).relative_error
    assert (fp4, nf4) == (pytest.approx(0.01486, rel=0.02), pytest.approx(0.00846, rel=0.02))


@pytest.mark.parametrize(
    ("name", "bits"),
    [("q4_0", 3.774), ("q4_1", 3.865), ("nf4", 3.884), ("fp4", 3.716), ("mxfp4_gguf", 3.834), ("q8_0", 7.690)],
)
def test_entropy_of_codes_of_gaussian_weights(name: str, bits: float) -> None:
    block_format = formats.named(name)
    codes = block_format.encode(GAUSSIAN)
    if name == "fp4":  # two codes of zero, which are one level
        codes = block_format.assemble(
            codes.codes % 8 * (codes.codes % 8 > 0) + codes.codes // 8 * 8 * (codes.codes % 8 > 0),
            {"scale": codes.part("scale")},
        )
    assert codes.entropy()["codes"] == pytest.approx(bits, abs=0.02)


def test_distinct_values_find_no_codebook() -> None:
    weight = GAUSSIAN.reshape(1, -1)
    assert len(np.unique(decoded("q4_0", weight))) > 5_000


@pytest.mark.parametrize(("name", "gain"), [("q4_0", 1.11), ("q8_0", 1.25), ("matmul8", 1.2)])
def test_a_better_stored_scale_pays(name: str, gain: float) -> None:
    block_format = formats.named(name)
    best = damage(GAUSSIAN, block_format.decode(block_format.encode(GAUSSIAN, search=True)))
    assert damage_of(name, GAUSSIAN).relative_error / best.relative_error >= gain


def test_nvfp4_s_largest_weight_need_not_be_6() -> None:
    block_format = formats.named("nvfp4")
    best = damage(GAUSSIAN, block_format.decode(block_format.encode(GAUSSIAN, search=True)))
    assert damage_of("nvfp4", GAUSSIAN).relative_error / best.relative_error == pytest.approx(1.38, abs=0.03)


@pytest.mark.parametrize("magnitude", [1.0, 1e-2, 1e-4])
def test_nvfp4_scales_with_the_tensor(magnitude: float) -> None:
    weight = GAUSSIAN[:16]
    assert damage_of("nvfp4", weight * np.float32(magnitude)).relative_error == pytest.approx(
        damage_of("nvfp4", weight).relative_error, rel=0.02
    )


def test_negative_zeros_become_zeros_in_floats() -> None:
    weight = np.array([[-0.0, 0.0, 1.0, -1.0] * 8], np.float32)
    for name in ("mxfp4", "mxfp8", "fp8_e4m3", "nvfp4"):
        assert damage_of(name, weight).negative_zeros == 0


def test_small_negative_weights_become_negative_zeros_in_floats() -> None:
    weight = np.array([[-1e-3, 1e-3, 6.0, -6.0] * 8], np.float32)
    assert (formats.named("mxfp4").encode(weight).codes[0, 0], decoded("mxfp4", weight)[0, 0]) == (8, 0)
    assert damage_of("mxfp4", weight).negative_zeros == 8


def test_padded_rows_do_not_share_blocks() -> None:
    weight = padded_weights()
    assert formats.named("q8_0").encode(weight).part("scale").size == len(weight) * 4
    assert formats.named("nf4").encode(weight).part("scale").size == -(-weight.size // 64)
