"""Trellis-coded quantization: how near the limit it comes, steps of layers, and what every quantizer owes."""

from itertools import product, repeat

import numpy as np
import pytest
import torch

from nbquant.coding import positions
from nbquant.coding.entropy import entropy
from nbquant.coding.trellis import integers_of, levels_of
from nbquant.progress import Cancelled
from nbquant.quantization import paths as module
from nbquant.quantization.codebook import PRUNED
from nbquant.quantization.paths import Matrix, find_paths
from nbquant.quantization.selection import Selection
from nbquant.quantization.steps import step_of_layers
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import Trellis


def gaussian(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def selection_of(*scales, h=True, shape=(40, 30)):
    tensors = []
    for i, scale in enumerate(scales):
        w = gaussian(*shape, seed=i)
        sensitivity = scale * torch.rand(shape, generator=torch.Generator().manual_seed(100 + i)) if h else None
        tensors.append(SelectedTensor(f"l{i}.weight", f"l{i}", w, sensitivity))
    return Selection(tuple(tensors))


def problem(selection, step, code="", group=""):
    return [
        Matrix(t.weight, t.sensitivity if t.sensitivity is not None else torch.ones_like(t.weight),
               group or t.name, code or t.name, step)
        for t in selection
    ]  # fmt: skip


@pytest.mark.parametrize(("lmbda", "rate"), [(0.045, 2), (0.011, 3)])
def test_recovers_nine_tenths_of_a_decibel_on_a_gaussian_source(lmbda, rate):
    w = gaussian(1024, 64)
    paths = find_paths([Matrix(w, torch.ones_like(w), "", "", (lmbda / 0.2) ** 0.5)], lmbda, False, repeat(0))
    level, quantizer = paths.matrices[0].levels
    parts = [level[quantizer == q] for q in (0, 1)]
    bits = sum(len(k) * entropy(np.unique(k, return_counts=True)[1]) for k in parts) / w.numel()
    assert abs(bits - rate) < 0.15
    above_the_limit = 10 * np.log10(2 * paths.loss / w.square().sum().item() * 4**bits)
    assert above_the_limit < 1.53 - 0.93


def test_loss_and_bits_are_those_of_the_paths():
    paths = find_paths(problem(selection_of(1.0, 3.0), 0.4), 0.02, False, repeat(0))
    off = [m.target.double() - m.integers.double() * m.step for m in paths.matrices]
    loss = sum(0.5 * float((m.sensitivity.double() * o**2).sum()) for m, o in zip(paths.matrices, off, strict=True))
    assert paths.loss == pytest.approx(loss, rel=1e-9)
    for m in paths.matrices:  # any code of levels with these classes takes so many bits
        k, q = m.levels
        assert integers_of(k, *k.shape).tolist() == m.integers.tolist()
        assert set(np.unique(q)) == {0, 1}
    none = sum(k.size * entropy(np.unique(k, return_counts=True)[1]) for k, _ in (m.levels for m in paths.matrices))
    assert 0.8 * none < paths.bits < 1.1 * none


@pytest.mark.parametrize(("joint", "fixed"), list(product([True, False], repeat=2)))
def test_steps_are_the_groups_best_or_stay(joint, fixed):
    paths = find_paths(problem(selection_of(1.0, 9.0), 0.4, group="a" if joint else ""), 0.02, fixed, repeat(0))
    steps = [m.step for m in paths.matrices]
    if fixed:
        assert steps == [0.4, 0.4]
        return
    assert (steps[0] == steps[1]) == joint
    groups = [paths.matrices] if joint else [[m] for m in paths.matrices]
    for group in groups:
        up = sum(float((m.sensitivity.double() * m.target * m.integers).sum()) for m in group)
        down = sum(float((m.sensitivity.double() * m.integers**2).sum()) for m in group)
        assert group[0].step == pytest.approx(up / down, rel=1e-6)


def test_more_turns_never_cost_more(monkeypatch):
    matrices = problem(selection_of(1.0, 5.0), 0.5)
    price = []
    for turns in (2, 4, 8, 25):
        monkeypatch.setattr(module, "MOST_TURNS", turns)
        paths = find_paths(matrices, 0.02, False, repeat(0))
        price.append(paths.loss + 0.02 * paths.bits)
    assert price == sorted(price, reverse=True)


def test_a_larger_lmbda_gives_fewer_bits_and_more_loss():
    selection = selection_of(1.0, 4.0)
    found = [find_paths(problem(selection, (x / 0.2) ** 0.5), x, False, repeat(0)) for x in (0.01, 0.05, 0.25)]
    assert [p.bits for p in found] == sorted((p.bits for p in found), reverse=True)
    assert [p.loss for p in found] == sorted(p.loss for p in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (37,), (6, 5), (4, 3, 2, 2)])
@pytest.mark.parametrize("weighted", [True, False])
def test_values_are_multiples_of_the_step_near_the_weights(dtype, shape, weighted):
    w, h = gaussian(*shape).to(dtype), gaussian(*shape, seed=1).abs().to(dtype)
    found = Trellis(1e-3, weighted=weighted).fit(w, h)
    made = found.dequantize()["weight"]
    assert (made.shape, made.dtype) == (w.shape, dtype)
    loss = (0.5 * h.double() * (w.double() - made.double()) ** 2).mean()
    assert found.distortion == pytest.approx(float(loss), rel=1e-6)
    counts = found.counts.tolist()
    assert sum(counts) == w.numel()
    assert min(counts) > 0
    assert made.double().unique().tolist() == found.codebook.double().tolist()


def test_a_given_step_is_kept():
    value = Trellis(0.02, step=0.25).fit(gaussian(50, 20)).codebook
    torch.testing.assert_close(value / 0.25, (value / 0.25).round(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("coding", ["huffman", "fixed"])
def test_pruned_weights_stay_zero_and_others_may_become_so(coding):
    w = gaussian(60, 40)
    w[torch.rand(60, 40, generator=torch.Generator().manual_seed(3)) < 0.8] = 0
    found = Trellis(0.02, coding=coding).fit(w)
    assert ((found.tensors["weight"].assignment.view(60, 40) == PRUNED) == (w == 0)).all()
    assert (found.dequantize()["weight"][w == 0] == 0).all()
    assert int(found.counts.sum()) == int((w != 0).sum())
    assert "position_payload" in found.ledger


def test_a_layer_of_zeros_in_a_pruned_selection():
    zeros = SelectedTensor("z.weight", "z", torch.zeros(30, 40), torch.ones(30, 40))
    found = Trellis(0.01).fit(Selection((*selection_of(1.0).tensors, zeros)))
    assert not found.dequantize()["z.weight"].any()
    only = Trellis(0.01).fit(Selection((zeros,)))
    assert only.levels == 0


def test_fit_is_of_the_paths():
    selection = selection_of(1.0, 4.0)
    paths, found = Trellis(0.01).paths(selection), Trellis(0.01).fit(selection)
    for t, m in zip(selection, paths.matrices, strict=True):
        torch.testing.assert_close(found.dequantize()[t.name], (m.integers * m.step).float())
    assert found.predicted_loss_increase == pytest.approx(paths.loss, rel=1e-5)


def test_steps_of_layers_have_equal_slope_or_are_joint():
    selection = selection_of(1.0, 16.0, 0.0)
    joint = step_of_layers(selection, 0.3, "joint")
    assert joint == dict.fromkeys(("l0", "l1", "l2"), 0.3)
    own = step_of_layers(selection, 0.3, "equal slope")
    h = {t.layer: t.sensitivity.mean().item() for t in selection}
    whole = torch.cat([t.sensitivity.flatten() for t in selection]).mean().item()
    assert own["l0"] ** 2 * h["l0"] == pytest.approx(own["l1"] ** 2 * h["l1"])
    assert own["l0"] ** 2 * h["l0"] == pytest.approx(0.09 * whole)
    assert own["l2"] == 0.3


def test_groups_share_codebooks():
    selection = selection_of(1.0, 4.0)
    assert set(Trellis(0.01).fit(selection).codebooks) == {"l0", "l1"}
    joint = Trellis(0.01, steps="joint", per_layer=False).fit(selection)
    assert set(joint.codebooks) == {"all"}
    assert torch.equal(joint.tensors["l0.weight"].codebook, joint.tensors["l1.weight"].codebook)


def test_equal_slope_costs_less_where_layers_differ():
    selection = selection_of(1.0, 100.0)
    price = {}
    for group in ("all", ""):
        paths = find_paths(problem(selection, (0.01 / 0.2 / 25) ** 0.5, group=group), 0.01, False, repeat(0))
        price[group] = paths.loss + 0.01 * paths.bits
    assert price[""] < price["all"]


def test_progress_cancels():
    def stop(done, total):
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        Trellis(0.01).fit(selection_of(1.0, 2.0), progress=stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmbda": 0}, "lmbda must be finite and above 0"),
        ({"lmbda": 1, "step": -1}, "step must be finite and above 0"),
        ({"lmbda": 1, "steps": "free"}, "steps must be one of 'joint', 'equal slope', but got 'free'"),
        ({"lmbda": 1, "steps": "equal slope", "per_layer": False}, "needs a codebook for each layer"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Trellis(**options)


def test_bad_data_are_refused():
    with pytest.raises(ValueError, match="step must be above"):
        Trellis(1.0, step=1e-12).fit(gaussian(3, 3))
    with pytest.raises(ValueError, match="zero"):
        Trellis(1.0).fit(selection_of(0.0))
    with pytest.raises(ValueError, match="finite"):
        Trellis(1.0).fit(Selection((SelectedTensor("a.weight", "a", torch.full((3, 3), torch.nan)),)))
    with pytest.raises(TypeError, match="sensitivity comes with the selection"):
        Trellis(1.0).fit(selection_of(1.0), torch.ones(3))


def test_paths_begin_anew_in_each_block(monkeypatch):
    """As they are coded there; no path goes on into the next."""
    monkeypatch.setattr(positions, "BLOCK_ENTRIES", 20)
    weight = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    selection = Selection((SelectedTensor("w.weight", "w", weight, None),))
    matrix = Trellis(1e-3, step=0.4).paths(selection).matrices[0]
    level, odd = matrix.levels
    assert level.shape == odd.shape == (11, 6)
    integers = matrix.integers.numpy()
    for begin in range(0, 11, 3):
        part = integers[begin : begin + 3]
        assert np.array_equal(level[begin : begin + 3], levels_of(part, *part.shape))
        assert not odd[begin].any()
    with pytest.raises(ValueError, match="path"):
        levels_of(integers, 11, 6)


@pytest.mark.parametrize(("rate", "per_layer"), [(1.0, True), (2.0, False), (4.0, True)])
def test_a_sample_of_columns_is_enough_to_design_for(rate, per_layer, monkeypatch):
    """J is that of the full search within half a percent, after few passes over all weights."""
    g = torch.Generator().manual_seed(0)
    tensors = []
    for i, power in enumerate((1.0, 0.1)):
        w = power * torch.randn(64, 2048, generator=g) * torch.logspace(-0.5, 0.5, 2048)  # columns are not alike
        tensors.append(SelectedTensor(f"l{i}.weight", f"l{i}", w, torch.rand(64, 2048, generator=g) ** 3))
    selection = Selection(tuple(tensors))
    trellis = Trellis(4.0**-rate * 0.1, per_layer=per_layer, steps="equal slope" if per_layer else "joint")
    whole = trellis.paths(selection)
    passed, real = [], module.dispatch.viterbi_in_strips

    def counted(target, *rest):
        passed.append(target.numel())
        return real(target, *rest)

    monkeypatch.setattr(module.dispatch, "viterbi_in_strips", counted)
    monkeypatch.setattr(module, "LEAST_SAMPLED", 1 << 16)
    monkeypatch.setattr(module, "DESIGNED_ON", 1 << 15)
    designed = trellis.paths(selection)
    j, expected = (p.loss + trellis.lmbda * p.bits for p in (designed, whole))
    assert j <= 1.005 * expected
    assert sum(passed) <= (module.TURNS_OVER_ALL + 0.2 * module.MOST_TURNS) * len(selection)
