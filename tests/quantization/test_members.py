"""The exact pass: streamed in blocks, without copies of what is selected, and cancellable."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import nbquant as nq
from nbquant.kernels import dispatch
from nbquant.progress import Cancelled
from nbquant.quantization import members
from nbquant.quantization.clustering import quantize_clusters
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells, Histogram
from nbquant.quantization.members import index_dtype
from nbquant.quantization.selection import Selection, as_selection
from nbquant.quantization.tensor import SelectedTensor

QUANTIZERS = [nq.KMeans(5), nq.KMeans(200), nq.Uniform(0.02), nq.ECSQ(1e-4), nq.ECSQ(1e-4, weighted=False)]
BY_QUANTIZER = pytest.mark.parametrize("quantizer", QUANTIZERS, ids=repr)
N = 1 << 18  # more bytes than any block has


def selection(dtype=torch.float32, keep=1.0):
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for i, n in enumerate((N, N // 2 + 7)):
        weight = 0.1 * torch.randn(n, generator=generator)
        weight[torch.rand(n, generator=generator) >= keep] = 0
        h = torch.randn(n, generator=generator).exp()
        tensors.append(SelectedTensor(f"t{i}", f"t{i}", weight.to(dtype), h.to(dtype)))
    return Selection(tuple(tensors))


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest storage that an operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in known:
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return result


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(dispatch, "CHUNK", 1 << 12)
    monkeypatch.setattr(members, "SWEEP_BLOCK", 1 << 15)


@BY_QUANTIZER
@pytest.mark.parametrize("keep", [1.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_as_large_as_the_weights_but_the_assignment(quantizer, keep, dtype, small_chunks):
    chosen = selection(dtype, keep)
    q = quantizer.fit(chosen)
    known = Clusters(q.codebook.double().numpy(), q.counts.numpy(), 0.0, None)  # histograms are not measured here
    with Largest() as largest:
        q = quantize_clusters(quantizer, chosen, start={"all": known})
    assert largest.bytes <= N * q.tensors["t0"].assignment.element_size()
    assert largest.bytes >= N  # what this measure sees


@BY_QUANTIZER
@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_blocks_give_what_the_whole_gives(quantizer, keep, monkeypatch):
    whole = quantizer.fit(selection(keep=keep))
    monkeypatch.setattr(dispatch, "CHUNK", 5_001)
    monkeypatch.setattr(members, "SWEEP_BLOCK", 38_889)
    parts = quantizer.fit(selection(keep=keep))
    torch.testing.assert_close(parts.codebook, whole.codebook, rtol=1e-6, atol=1e-9)
    assert parts.distortion == pytest.approx(whole.distortion, rel=1e-9)
    for name, tensor in whole.tensors.items():
        assert (parts.tensors[name].assignment != tensor.assignment).float().mean() < 1e-4


@BY_QUANTIZER
def test_cancelled_between_blocks(quantizer, small_chunks):
    seen = []

    def cancel(done, total):
        seen.append((done, total))
        if done == 3 and total > 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        quantize_clusters(quantizer, selection(), progress=cancel)
    assert seen[-1][0] == 3


def test_progress_ends_at_its_total(small_chunks):
    seen = []
    nq.KMeans(3).fit(selection(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 10


@pytest.mark.parametrize(("levels", "dtype"), [(0, 8), (127, 8), (128, 16), (32767, 16), (32768, 32)])
def test_smallest_integers_that_hold_the_indices(levels, dtype):
    assert index_dtype(levels) == getattr(torch, f"int{dtype}")
    assert nq.KMeans(4).fit(torch.randn(50)).tensors["weight"].assignment.dtype == torch.int8


def test_each_tensor_is_measured_in_its_own_dtype():
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20))
    model[1].to(torch.bfloat16)
    h = {n: torch.rand(p.shape) for n, p in model.named_parameters()}
    q = nq.KMeans(6).fit(nq.select(model, h))
    values = q.dequantize()
    assert values["1.weight"].dtype == torch.bfloat16
    loss = sum(
        float(0.5 * (h[n].double() * (p.detach().double() - values[n].double()) ** 2).sum())
        for n, p in model.named_parameters()
    )
    assert q.predicted_loss_increase == pytest.approx(loss, rel=1e-9)


def test_weights_in_a_mapped_file(tmp_path):
    weight = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    weight.tofile(tmp_path / "weights")
    mapped = torch.from_file(str(tmp_path / "weights"), shared=False, size=5000)
    q = nq.KMeans(7).fit(Selection((SelectedTensor("w", "w", mapped),)))
    assert torch.equal(q.codebook, nq.KMeans(7).fit(torch.from_numpy(weight)).codebook)


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_sums_from_bins_give_what_a_full_sweep_gives(keep, monkeypatch):
    monkeypatch.setattr(members, "MANY", 1000)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50_000, generator=generator) * (torch.rand(50_000, generator=generator) < keep)
    h = torch.randn(50_000, generator=generator).exp()
    swept = []
    real = dispatch.whole_bins
    monkeypatch.setattr(dispatch, "whole_bins", lambda *args: (swept.append(1), real(*args))[1])
    quick = nq.KMeans(16).fit(weight, h)
    assert swept == [1]
    monkeypatch.setattr(dispatch, "whole_bins", lambda *args: None)
    full = nq.KMeans(16).fit(weight, h)
    assert torch.equal(quick.tensors["weight"].assignment, full.tensors["weight"].assignment)
    assert quick.counts.tolist() == full.counts.tolist()
    torch.testing.assert_close(quick.codebook, full.codebook)
    assert quick.distortion == pytest.approx(full.distortion, rel=1e-9)


def test_bins_of_other_weights_are_found_out(monkeypatch):
    monkeypatch.setattr(members, "MANY", 1000)
    weight = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    start = nq.KMeans(16).clusters(Cells.of_histogram(Histogram.of(weight), True, False))
    other = {"all": Histogram.of(weight[1:] + 0.01)}
    stale = quantize_clusters(nq.KMeans(16), as_selection(weight), start={"all": start}, histograms=other)
    fresh = quantize_clusters(nq.KMeans(16), as_selection(weight), start={"all": start})
    assert stale.counts.tolist() == fresh.counts.tolist()
    torch.testing.assert_close(stale.codebook, fresh.codebook)


def test_plain_means_are_of_the_weights_themselves(monkeypatch):
    monkeypatch.setattr(members, "MANY", 1000)
    generator = torch.Generator().manual_seed(0)
    weight, h = torch.randn(50_000, generator=generator), torch.randn(50_000, generator=generator).exp()
    q = nq.KMeans(8, weighted=False).fit(weight, h)
    found = q.tensors["weight"].assignment.long()
    means = torch.zeros(8, dtype=torch.float64).index_add_(0, found, weight.double()) / q.counts
    torch.testing.assert_close(q.codebook, means.float())
