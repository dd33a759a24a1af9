"""Targets found by running the quantizer itself."""

import math

import pytest
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.search import search_lmbda
from nbquant.analysis.target import Target
from nbquant.progress import Cancelled
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.trellis import Trellis


def selection_of(*powers, keep=1.0):
    g = torch.Generator().manual_seed(0)
    tensors = []
    for i, power in enumerate(powers):
        w = power * torch.randn(60, 50, generator=g) * (torch.rand(60, 50, generator=g) < keep)
        tensors.append(SelectedTensor(f"l{i}.weight", f"l{i}", w, torch.rand(60, 50, generator=g)))
    return Selection(tuple(tensors))


@pytest.mark.parametrize("keep", [1.0, 0.3])
@pytest.mark.parametrize(("name", "value"), [("ratio", 10.0), ("rate", 2.5), ("ratio", 7.0)])
def test_targets_are_met_and_hardly_exceeded(keep, name, value):
    found = nq.fit(selection_of(1.0, 0.1, keep=keep), method="trellis", progress=False, **{name: value})
    target = Target(name, value)
    assert target.met(found)
    assert target.is_close(found, 0.03)


def test_lmbda_is_that_very_quantizer():
    selection = selection_of(1.0, 0.1)
    found = nq.fit(selection, "trellis", lmbda=0.01, per_layer=True, steps="equal slope", progress=False)
    assert found.quantizer == Trellis(0.01)
    assert found.ledger == Trellis(0.01).fit(selection).ledger


def test_the_file_meets_the_ratio(tmp_path):
    model, _ = nq.zoo.load("resnet8-fashion")
    found = nq.fit(nq.select(model), "trellis", ratio=7, file_of=model, progress=False)
    size = nq.save(found, tmp_path / "a.nbq", model).total
    assert size == 8 * (tmp_path / "a.nbq").stat().st_size
    state = model.state_dict().values()
    assert 1 <= sum(t.numel() * t.element_size() * 8 for t in state) / size / 7 < 1.03


def test_out_of_reach_names_what_is_reached():
    with pytest.raises(ValueError, match=r"rate 0.01 is out of reach: \d+ tries came no further than rate 1\.\d*;"):
        nq.fit(selection_of(1.0), "trellis", rate=0.01, coding="huffman", progress=False)


def test_levels_are_no_target():
    with pytest.raises(ValueError, match="the target must be ratio or rate, but is levels"):
        nq.fit(selection_of(1.0), "trellis", levels=5, progress=False)


def test_the_smallest_lmbda_that_meets_the_target(monkeypatch):
    class Staircase:
        """Halves the rate where λ doubles past a power of two."""

        def __init__(self, lmbda):
            self.lmbda = lmbda

        def fit(self, selection, *, progress=False):
            made = Trellis(1.0).fit(selection)
            monkeypatch.setattr(type(made), "rate", property(lambda q: q.told), raising=False)
            object.__setattr__(made, "told", 2.0 ** -math.floor(math.log2(self.lmbda)))
            return made

    found = search_lmbda(
        lambda lmbda, progress: Staircase(lmbda).fit(selection_of(1.0)), selection_of(1.0), Target("rate", 0.7), False
    )
    assert found.told == 0.5


def test_bits_that_buy_nothing_are_not_searched_for():
    """Only one weight in fifty counts: at 9 times the others would have to be stored for nothing."""
    g = torch.Generator().manual_seed(0)
    w, h = torch.randn(100, 60, generator=g), torch.rand(100, 60, generator=g)
    h = h * (torch.rand(100, 60, generator=g) < 0.02)
    found = nq.fit(Selection((SelectedTensor("w", "w", w, h),)), "trellis", ratio=9.0, progress=False)
    assert found.compression_ratio >= 9
    assert found.distortion <= 1e-8 * 0.5 * float((h * w**2).mean())


def test_few_large_weights_do_not_hide_the_others():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(100, 60, generator=g)
    w[3, 5] = 1e5
    found = nq.fit(Selection((SelectedTensor("w", "w", w),)), "trellis", rate=40, coding="arithmetic", progress=False)
    assert float((found.dequantize()["w"] - w)[w < 10].square().mean()) < 1e-4


def test_more_bits_than_are_needed_give_the_finest_and_a_warning():
    selection = selection_of(1.0, 0.1)
    with pytest.warns(UserWarning, match="rate 100 was asked for, but the finest trellis found within it has rate"):
        found = nq.fit(selection, "trellis", rate=100, progress=False)
    power = sum(float((0.5 * t.sensitivity * t.weight**2).sum()) for t in selection) / len(selection)
    assert found.distortion <= 1e-8 * power


def test_a_file_far_coarser_than_asked_for_warns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight *= torch.rand_like(layer.weight) < 0.1
    h = {name: torch.rand_like(p) for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match="ratio 2 was asked for, but the finest trellis found within it has ratio"):
        nq.fit(nq.select(model, h), "trellis", ratio=2, coding="fixed", file_of=model, progress=False)


def test_a_curve_whose_end_is_far_from_the_target_warns():
    w = 0.05 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    w[3, 4] = 1e5
    with pytest.warns(UserWarning, match="ratio 8 was asked for, but the finest ecsq found within it has ratio"):
        nq.fit(Selection((SelectedTensor("w", "w", w),)), "ecsq", ratio=8, progress=False)


def test_the_finest_trellis_meets_a_ratio_of_one():
    assert nq.fit(selection_of(1.0, 0.1), "trellis", ratio=1, progress=False).compression_ratio >= 1


def test_weights_that_all_become_zero_are_no_nearer_than_any():
    w = torch.zeros(3, 5)
    w[1, 2] = 0.1
    found = nq.fit(Selection((SelectedTensor("w", "w", w),)), "trellis", ratio=9, coding="huffman", progress=False)
    assert found.compression_ratio >= 9


class Line:
    """A fit of which only the ratio is known."""

    distortion = 1.0

    def __init__(self, ratio):
        self.compression_ratio = ratio


def searched(ratio_of, asked, estimate=None):
    """What is found where the ratio is a function of λ, and the ratios of all tries."""
    tried = []

    def run(lmbda, progress):
        tried.append(ratio_of(lmbda))
        return Line(tried[-1])

    return search_lmbda(run, selection_of(1.0), Target("ratio", asked), False, estimate).compression_ratio, tried


@pytest.mark.parametrize("asked", [3.0, 20.0, 300.0])
@pytest.mark.parametrize("power", [0.2, 0.42, 1.0])
def test_a_power_law_takes_few_tries(asked, power):
    found, tried = searched(lambda lmbda: 40 * lmbda**power, asked)
    assert asked <= found <= 1.01 * asked
    assert len(tried) <= 10


@pytest.mark.parametrize("asked", [3.0, 20.0, 300.0])
@pytest.mark.parametrize("bias", [1.0, 0.8, 1.4])
def test_estimates_of_the_rate_save_tries(asked, bias):
    """The estimate leaves out side information, which takes a share, and is biased."""

    def ratio_of(lmbda):
        return 32 / (estimated(lmbda) / bias + 0.02)

    def estimated(lmbda):
        return 0.8 * lmbda**-0.3

    found, tried = searched(ratio_of, asked, estimated)
    assert asked <= found <= 1.01 * asked
    assert len(tried) <= (4 if asked < 100 else 7)


@pytest.mark.parametrize("estimate", [lambda lmbda: 1e-9, lambda lmbda: 1e9, lambda lmbda: lmbda])
def test_wrong_estimates_do_no_harm(estimate):
    found, tried = searched(lambda lmbda: 40 * lmbda**0.42, 20.0, estimate)
    assert 20 <= found <= 20.2
    assert len(tried) <= 14


def test_beside_a_jump_the_nearest_that_meets_the_target():
    """The ratio jumps from 15 to 25, but comes back to 20.3 a little further on."""

    def ratio_of(lmbda):
        if lmbda < 1e-3:
            return 15 * (lmbda / 1e-3) ** 0.4
        return 20.3 if 1.01e-3 < lmbda < 1.05e-3 else 25 * (lmbda / 1e-3) ** 0.4

    found, tried = searched(ratio_of, 20.0)
    assert found == 20.3
    assert len(tried) < 30


def run_trellis(lmbda, progress):
    return Trellis(lmbda).fit(selection_of(1.0), progress=progress)


def test_progress_counts_tries_and_cancels():
    told = []
    search_lmbda(run_trellis, selection_of(1.0), Target("rate", 3.0), lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]

    def stop(done, total):
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        search_lmbda(run_trellis, selection_of(1.0), Target("rate", 3.0), stop)


@pytest.mark.parametrize("method", ["trellis", "feedback"])
def test_zeros_alone_are_refused(method):
    selection = Selection((SelectedTensor("w", "w", torch.zeros(6, 5)),))
    with pytest.raises(ValueError, match="nothing to quantize: every selected weight is exactly zero"):
        nq.fit(selection, method, ratio=8, progress=False)
