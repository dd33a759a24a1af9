"""The histogram kernels against ``reference``."""

import numpy as np
import pytest
import torch

from nbquant.kernels import dispatch, reference
from nbquant.kernels.keys import JOINT_SHIFT, MARGINAL_SHIFT, ROW_KEYS, ROW_OF_ONE, ROWS, ZERO_KEY
from nbquant.progress import Cancelled
from tests.kernels.samples import DTYPES, SAMPLES, awkward, draw


def histogram(weight, sensitivity, **options):
    return dispatch.histogram(weight, sensitivity, MARGINAL_SHIFT, JOINT_SHIFT, **options)


def same(a, b):
    assert a[0].tolist() == b[0].tolist()
    np.testing.assert_allclose(np.asarray(a[1]), np.asarray(b[1]), rtol=1e-12)


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_it_is_the_references(weight, sensitivity):
    found = histogram(weight, sensitivity)
    same(found[:2], reference.marginal_histogram(weight, sensitivity))
    same(found[2:], reference.joint_histogram(weight, sensitivity))
    plain = dispatch.histogram(weight, None, MARGINAL_SHIFT, None)
    same(plain[:2], reference.marginal_histogram(weight, None))
    assert len(plain[2]) == len(plain[3]) == 0


@pytest.mark.parametrize("shifts", [(0, 0), (8, 12), (10, 14), (20, 22)])
def test_any_shift_is_the_references(shifts):
    weight, h = draw(501, torch.float32)
    found = dispatch.histogram(weight, h, *shifts)
    same(found[:2], reference.marginal_histogram(weight, h, shifts[0]))
    same(found[2:], reference.joint_histogram(weight, h, shifts[1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_histogram_of_nothing(dtype):
    key, sums, cells, joint = histogram(torch.zeros(0, dtype=dtype), torch.zeros(0, dtype=dtype))
    assert key.shape == cells.shape == (0,)
    assert sums.shape == joint.shape == (0, 4)


@pytest.mark.parametrize(("weight", "sensitivity"), SAMPLES)
def test_nothing_is_lost(weight, sensitivity):
    w, h = weight.double().numpy(), sensitivity.double().numpy()
    whole = [len(w), h.sum(), (h * w).sum(), (h * w * w).sum()]
    scale = [len(w), h.sum(), np.abs(h * w).sum(), (h * w * w).sum()]
    for sums in histogram(weight, sensitivity)[1::2]:
        assert (np.abs(sums.sum(axis=0) - whole) <= 1e-12 * np.array(scale) + 1e-150).all()


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_pieces_add_to_the_whole(pieces, monkeypatch):
    weight, h = draw(1001, torch.float32)
    whole = histogram(weight, h)
    monkeypatch.setattr(dispatch, "PIECE", 1001 // pieces)
    seen = []
    parts = histogram(weight, h, progress=lambda done, total: seen.append((done, total)))
    same(parts[:2], whole[:2])
    same(parts[2:], whole[2:])
    assert seen[-1][0] == seen[-1][1] >= pieces


def test_it_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(dispatch, "PIECE", 100)

    def cancel(done, total):
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        histogram(*draw(1001, torch.float32), progress=cancel)


def test_more_rows_of_h_than_there_is_room_for_at_first():
    h = torch.logspace(-30, 30, 3000)
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    found = histogram(weight, h)
    assert len(np.unique(found[2] // ROW_KEYS)) > 300
    same(found[2:], reference.joint_histogram(weight, h))


@pytest.mark.parametrize("tiny", [2.0**-149, 1e-300], ids=["subnormal", "below-float32"])
def test_only_exact_zero_is_in_the_zero_bin(tiny):
    weight = torch.tensor([0.0, -0.0, tiny, -tiny, 1.0, -1.0], dtype=torch.float64)
    key, sums, _, _ = histogram(weight, torch.ones_like(weight))
    assert key.tolist() == sorted(key.tolist())
    assert sums[key.tolist().index(ZERO_KEY), 0] == 2
    assert key[1] < ZERO_KEY < key[3]


def test_weights_of_no_sensitivity_keep_their_mean():
    key, sums, _, _ = histogram(torch.tensor([0.5, 0.5005, 3.0]), torch.zeros(3))
    assert len(key) == 2
    assert sums[:, 2] / sums[:, 1] == pytest.approx([0.50025, 3])
    _, sums, _, _ = histogram(torch.tensor([0.5, 0.5005]), torch.tensor([0.0, 1e-30]))
    assert sums[0, 2] / sums[0, 1] == pytest.approx(0.5005)


def test_negative_sensitivities_show_and_negative_zero_does_not():
    _, _, cells, sums = histogram(torch.ones(4), torch.tensor([0.0, -0.0, -1.0, 1.0]))
    rows = cells // ROW_KEYS
    assert rows[0] == 0
    assert sums[0, 0] == 2
    assert (rows >= ROWS // 2).sum() == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_makes_a_sum_that_is_not(bad):
    weight, h = draw(1000, torch.float32)
    spoilt = weight.clone()
    spoilt[7] = bad
    assert not np.isfinite(histogram(spoilt, h)[1]).all()
    if bad > 0 or bad != bad:
        h[7] = bad
        assert not np.isfinite(histogram(weight, h)[1]).all()


def test_keys_are_monotone_and_a_512th_of_an_octave_and_nest():
    weight = torch.cat([-torch.logspace(30, -30, 4001), torch.zeros(1), torch.logspace(-30, 30, 4001)])
    fine, coarse = (reference.weight_key(weight, shift) for shift in (MARGINAL_SHIFT, JOINT_SHIFT))
    assert bool((fine.diff() >= 0).all())
    assert bool((coarse.diff() >= 0).all())
    assert len(torch.unique(torch.stack([fine, coarse]), dim=1).T) == len(fine.unique())
    one_to_two = torch.arange(1, 2, 2.0**-12)
    assert len(reference.weight_key(one_to_two, MARGINAL_SHIFT).unique()) == 512


def test_rows_are_half_octaves():
    h = torch.tensor([0.0, -0.0, 1.0, 1.49, 1.5, 1.99, 2.0, 3.0])
    rows = reference.sensitivity_row(h)
    assert (rows - rows[2]).tolist()[2:] == [0, 0, 1, 1, 2, 3]
    assert rows[:2].tolist() == [0, 0]
    assert rows[2] == ROW_OF_ONE


def test_an_outlier_spoils_no_bin():
    weight, h = draw(4096, torch.float32)
    before = histogram(weight, h)[0]
    after = histogram(torch.cat([weight, torch.tensor([1000.0])]), torch.cat([h, torch.ones(1)]))[0]
    assert set(before.tolist()) <= set(after.tolist())
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_merging_is_a_histogram_of_the_union(dtype):
    parts = [awkward(dtype), draw(300, dtype, 1), draw(17, dtype, 2), awkward(dtype)]
    whole = histogram(torch.cat([w for w, _ in parts]), torch.cat([h for _, h in parts]))
    found = [histogram(w, h) for w, h in parts]
    same(dispatch.merge([f[:2] for f in found]), whole[:2])
    same(dispatch.merge([f[2:] for f in found]), whole[2:])
