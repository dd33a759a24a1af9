"""Models spread over ranks: the same codebook as in one process, each rank's own weights."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import nbquant as nq

RANKS = 2
FITS = {
    "kmeans": {"method": "kmeans", "ratio": 7},
    "kmeans per layer": {"method": "kmeans", "ratio": 5, "per_layer": True},
    "uniform": {"method": "uniform", "ratio": 9},
    "uniform, any offset": {"method": "uniform", "ratio": 9, "offset": None},
    "ecsq": {"method": "ecsq", "ratio": 9},
    "ecsq, not weighted": {"method": "ecsq", "ratio": 9, "weighted": False},
    "ecsq, fixed length": {"method": "ecsq", "lmbda": 1e-5, "coding": "fixed"},
}
PLACED = {"0.weight": [Shard(0)], "0.bias": [Replicate()], "2.weight": [Shard(1)], "2.bias": None}


def network(pruned=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(301, 81), nn.ReLU(), nn.Linear(81, 10))
    if pruned:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(torch.rand_like(p) < 0.2)
    return model


def sensitivities(model):
    torch.manual_seed(1)
    return {name: torch.rand_like(p).square() for name, p in model.named_parameters()}


def batches(count):
    torch.manual_seed(2)
    return [(torch.randn(n, 301), torch.randint(10, (n,))) for n in (7, 5, 9, 4)[:count]]


def spread(model):
    mesh = init_device_mesh("cpu", (RANKS,))
    for name, placement in PLACED.items():
        module, _, last = name.rpartition(".")
        if placement:
            values = distribute_tensor(model.get_submodule(module).get_parameter(last).detach(), mesh, placement)
            setattr(model.get_submodule(module), last, nn.Parameter(values))
    return model


def told(quantized):
    return {
        "codebooks": {group: book.value for group, book in quantized.codebooks.items()},
        "counts": {group: book.counts for group, book in quantized.codebooks.items()},
        "numbers": torch.tensor([quantized.rate, quantized.compression_ratio, quantized.levels, quantized.distortion]),
        "tensors": quantized.dequantize(),
    }


def on_a_rank(rank, folder):
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    found = {}
    for pruned in (False, True):
        model = spread(network(pruned))
        selection = nq.select(model, sensitivities(network(pruned)))
        for name, options in FITS.items():
            own = nq.fit(selection, **options, progress=False)
            found[name, pruned, "own"] = told(own)
            found[name, pruned, "whole"] = told(nq.gather_quantized(own, model))
    direct = nq.ECSQ(1e-5).fit(selection)
    found["direct", True, "own"] = told(direct)
    for refused in (
        lambda: nq.fit(selection, "trellis", ratio=8, progress=False),
        lambda: nq.Trellis(1e-5).fit(selection),
        lambda: nq.fit(selection, "ecsq", ratio=8, coding="arithmetic", progress=False),
        lambda: nq.save(direct, folder / "x.nbq"),
        lambda: direct.apply(model),
    ):
        with pytest.raises(ValueError, match="ranks hold shards"):
            refused()
    model = fully_shard(network())
    selection = nq.select(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    whole = nq.gather_quantized(nq.fit(selection, "ecsq", ratio=9, progress=False), model)
    found["fsdp"] = told(whole)
    ledger = nq.save(whole, folder / f"{rank}.nbq", progress=False)
    assert ledger.total == 8 * (folder / f"{rank}.nbq").stat().st_size
    h = nq.sensitivity(network(), batches(4)[2 * rank : 2 * rank + 2], "gauss_newton", progress=False)
    average = nq.average_sensitivity(h)
    assert average.samples == 25
    found["average"] = dict(average)
    other = nq.sensitivity(network(), batches(1), ("gauss_newton", "empirical_fisher")[rank], progress=False)
    with pytest.raises(ValueError, match="all ranks must have sensitivities of one method"):
        nq.average_sensitivity(other)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(on_a_rank, (folder,), nprocs=RANKS)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("pruned", [False, True])
def test_fits_equal_those_of_one_process(ranks, name, pruned):
    model = network(pruned)
    expected = told(nq.fit(nq.select(model, sensitivities(model)), **FITS[name], progress=False))
    for rank, found in enumerate(ranks):
        own, whole = found[name, pruned, "own"], found[name, pruned, "whole"]
        for part in ("codebooks", "counts"):
            close(own[part], expected[part])
        close(whole["tensors"], expected["tensors"])
        if not pruned:  # the positions of a shard are a stream of its own
            close(own["numbers"], expected["numbers"])
        close(whole["numbers"], expected["numbers"])
        for tensor, placement in PLACED.items():
            values, axis = expected["tensors"][tensor], None
            if placement and isinstance(placement[0], Shard):
                axis = placement[0].dim
            part = values if axis is None else values.chunk(RANKS, dim=axis)[rank]
            close(own["tensors"][tensor], part)


def test_a_quantizer_itself_does(ranks):
    model = network(True)
    expected = told(nq.ECSQ(1e-5).fit(nq.select(model, sensitivities(model))))
    for found in ranks:
        close(found["direct", True, "own"]["codebooks"], expected["codebooks"])
        close(found["direct", True, "own"]["counts"], expected["counts"])


def test_fsdp(ranks):
    expected = told(nq.fit(nq.select(network()), "ecsq", ratio=9, progress=False))
    for found in ranks:
        close(found["fsdp"]["tensors"], expected["tensors"])
        close(found["fsdp"]["numbers"], expected["numbers"])


def test_sensitivities_of_parts_average_to_those_of_all(ranks):
    expected = dict(nq.sensitivity(network(), batches(4), "gauss_newton", progress=False))
    for found in ranks:
        torch.testing.assert_close(found["average"], expected, rtol=1e-6, atol=1e-12)


def test_without_ranks_it_is_said():
    model = network()
    with pytest.raises(RuntimeError, match=r"torch\.distributed must be initialized"):
        nq.average_sensitivity(nq.sensitivity(model, batches(1), progress=False))
    with pytest.raises(ValueError, match="this one is whole"):
        nq.gather_quantized(nq.fit(nq.select(model), ratio=9, progress=False), copy.deepcopy(model))


def test_nobody_else_waits_for_dtensors():
    """Their module takes half a second to load."""
    code = "import sys, nbquant; assert 'torch.distributed.tensor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
