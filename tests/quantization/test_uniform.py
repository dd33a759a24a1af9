"""Uniform quantization against examples worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nbquant.quantization.histogram import EXACT_UP_TO, Cells, Histogram
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.uniform import Uniform


def assignment(q):
    return q.tensors["weight"].assignment.tolist()


def test_worked_by_hand():
    weight = torch.tensor([-1.2, -0.8, 0.1, 0.4, 0.6, 1.6])
    h = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0, 5.0])
    # Cells centred on −1, 0, 1, 2.
    q = Uniform(1.0).fit(weight, h)
    assert assignment(q) == [0, 0, 1, 1, 2, 3]
    assert q.codebook.tolist() == pytest.approx([-0.9, 0.3, 0.6, 1.6])
    assert q.distortion == pytest.approx(0.5 * (0.3**2 + 3 * 0.1**2 + 0.2**2 + 2 * 0.1**2) / 6)
    # Boundaries at −1, 0, 1.
    q = Uniform(1.0, offset=0.5).fit(weight, h)
    assert assignment(q) == [0, 1, 2, 2, 2, 3]
    assert q.codebook.tolist() == pytest.approx([-1.2, -0.8, (0.1 + 0.8 + 0.6) / 4, 1.6])


def test_plain_means_and_the_true_distortion():
    weight, h = torch.tensor([-0.3, 0.1, 0.2, 2.0]), torch.tensor([1.0, 0.0, 2.0, 1.0])
    q = Uniform(1.0, weighted=False).fit(weight, h)
    assert q.codebook.tolist() == pytest.approx([0.0, 2.0], abs=1e-7)
    assert q.distortion == pytest.approx(0.5 * (0.3**2 + 2 * 0.2**2) / 4)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60),
    st.floats(0.05, 50),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=100)
def test_cells_are_equally_spaced_and_hold_their_centre(values, step, offset):
    weight = torch.tensor(values)
    assume(2 * int((weight == 0).sum()) < len(weight))  # with more, zeros have no cell
    q = Uniform(step, offset=offset).fit(weight)
    # In units of the step, measured from the grid's first boundary: members of a cell share the whole part.
    at = weight.double().numpy() / step - offset + 0.5
    away = np.abs(at - np.rint(at)) > 1e-9
    cell = np.floor(at)[away]
    found = np.array(assignment(q))[away]
    assert len(np.unique(cell)) == len(np.unique(found)) == len({*zip(cell, found, strict=True)})
    assert (found[np.argsort(cell)] == np.sort(found)).all()
    error = (weight.double() - q.dequantize()["weight"].double()).abs()
    assert float(error.max()) <= step * (1 + 1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.25])
def test_picture_on_cells_is_what_is_applied(offset):
    weight = torch.randn(2 * EXACT_UP_TO, generator=torch.Generator().manual_seed(0))
    h = torch.rand(len(weight), generator=torch.Generator().manual_seed(1))
    quantizer = Uniform(0.25, offset=offset)
    q, found = quantizer.fit(weight, h), quantizer.clusters(Cells.of_histogram(Histogram.of(weight, h), True, False))
    assert len(found.codebook) == q.levels
    assert len(found.threshold) == q.levels - 1
    np.testing.assert_allclose(found.codebook, q.codebook.numpy(), atol=0.01)
    assert np.abs(found.counts - q.counts.numpy()).sum() <= 0.05 * len(weight)
    assert found.loss == pytest.approx(q.predicted_loss_increase, rel=0.05)
    # Boundaries lie on the grid: an edge of a cell is half a step from its centre.
    inner = found.threshold[5:-5] / 0.25 - offset - 0.5
    np.testing.assert_allclose(inner, np.rint(inner), atol=1e-9)


def test_half_of_the_sensitivities_zero():
    weight = torch.linspace(-1, 1, 101)
    q = Uniform(0.3).fit(weight, (weight > 0).float())
    assert bool(q.codebook.isfinite().all())
    assert float(q.codebook[0]) == pytest.approx(float(weight[weight < -0.75].mean()))


def test_zero_keeps_a_cell_centred_on_it():
    weight = torch.tensor([-0.4, 0.0, 0.4])
    assert Uniform(1.0).fit(weight).levels == 1
    assert Uniform(1.0, offset=0.5).fit(weight).levels == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_follows(dtype):
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    q = Uniform(0.5).fit(weight)
    assert q.codebook.dtype == dtype
    error = weight.double() - q.dequantize()["weight"].double()
    assert q.distortion == pytest.approx(float(0.5 * (error**2).mean()), rel=1e-9)


@pytest.mark.parametrize("step", [0, 0.0, -0.5, float("nan"), float("inf")])
def test_step_must_be_positive(step):
    with pytest.raises(ValueError, match=r"step must be finite and above 0 \[weight\], but got"):
        Uniform(step)


@pytest.mark.parametrize("step", [True, "0.1", None])
def test_step_of_another_type(step):
    with pytest.raises(TypeError, match="step must be a number"):
        Uniform(step)


@pytest.mark.parametrize("offset", [1, 1.5, -0.1, float("nan")])
def test_offset_out_of_range(offset):
    with pytest.raises(ValueError, match="offset must be"):
        Uniform(0.1, offset=offset)


@pytest.mark.parametrize("n", [3, 2 * EXACT_UP_TO])
def test_step_too_small(n):
    weight = torch.linspace(-1, 2, n)
    with pytest.raises(ValueError, match=r"step must be at least 1\.91e-06 for weights up to 2, but got 1e-07: pass a"):
        Uniform(1e-7).fit(weight)


def layers(*scales, n=3000, keep=1.0):
    g = torch.Generator().manual_seed(7)
    tensors = []
    for i, scale in enumerate(scales):
        w = torch.randn(n, generator=g) * (torch.rand(n, generator=g) < keep)
        tensors.append(SelectedTensor(f"l{i}.weight", f"l{i}", w, scale * (0.5 + torch.rand(n, generator=g))))
    return Selection(tuple(tensors))


def price(quantized, weights):
    return quantized.ledger["payload"] / weights + 0.5 * np.log2(quantized.distortion)


@pytest.mark.parametrize("keep", [1.0, 0.3])
@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("step", [0.4, 1.1, 2.5])
def test_a_free_offset_costs_least(keep, per_layer, step):
    selection = layers(1.0, 3.0, keep=keep)
    weights = sum(int(t.weight.count_nonzero()) for t in selection)
    found = Uniform(step, offset=None, per_layer=per_layer).fit(selection)
    assert 0 <= found.quantizer.offset < 1
    tried = [Uniform(step, offset=o / 16, per_layer=per_layer).fit(selection) for o in range(16)]
    prices = [price(q, weights) for q in tried]
    assert price(found, weights) <= min(prices) + 0.02
    assert price(found, weights) < max(prices)
    again = found.quantizer.fit(selection)
    assert again.distortion == pytest.approx(found.distortion, rel=1e-12)


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_steps_of_equal_slope_are_those_of_each_layers_mean(keep):
    selection = layers(1.0, 16.0, keep=keep)
    found = Uniform(0.5, per_layer=True, steps="equal slope").fit(selection)
    kept = [(t.layer, t.sensitivity[t.weight != 0]) for t in selection]
    whole = torch.cat([h for _, h in kept]).mean()
    for (layer, h), part in zip(kept, selection.by_layer().values(), strict=True):
        alone = Uniform(0.5 * float(whole / h.mean()) ** 0.5, per_layer=True).fit(part)
        assert torch.equal(found.codebooks[layer].counts, alone.codebooks[layer].counts)
        torch.testing.assert_close(found.codebooks[layer].value, alone.codebooks[layer].value)


def test_equal_slope_costs_less_where_layers_differ():
    selection = layers(1.0, 100.0)
    joint, own = (Uniform(0.2, per_layer=True, steps=steps).fit(selection) for steps in ("joint", "equal slope"))
    assert price(own, len(selection)) < price(joint, len(selection)) - 0.3


def test_all_zero_selection_has_no_grid():
    zeros = Selection((SelectedTensor("a.weight", "a", torch.zeros(9), torch.ones(9)),))
    found = Uniform(1.0, offset=None, per_layer=True, steps="equal slope").fit(zeros)
    assert found.levels == 0


@pytest.mark.parametrize(("option", "value"), [("mean", 0.0), ("steps", "own"), ("steps", "equal slope")])
def test_bad_steps_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"{option}.* (must|needs)"):
        Uniform(1.0, **{option: value})
