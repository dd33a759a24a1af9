"""Small files of every kind, for the mutations to start from; ``corpus/seeds`` keeps them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import nn

import nbquant as nq
from nbquant.coding import positions
from nbquant.quantization.selection import SensitivityRecord
from nbquant.storage import decompress, stored
from tests.storage.parts import Parts

FOLDER = Path(__file__).parent / "corpus" / "seeds"
SMALL_BLOCK = 64  # entries, in files whose name starts with "blocks"


@contextmanager
def block_size(name: str) -> Iterator[int]:
    """Have a file of this name read and written in blocks of its size [entries]."""
    small = name.startswith("blocks")
    modules = (positions, stored, decompress) if small else ()
    before = positions.BLOCK_ENTRIES
    try:
        for module in modules:
            module.BLOCK_ENTRIES = SMALL_BLOCK
        yield SMALL_BLOCK if small else before
    finally:
        for module in modules:
            module.BLOCK_ENTRIES = before


def read(name: str) -> bytes:
    return (FOLDER / f"{name}.nbq").read_bytes()


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.nbq"))


class _Odd(nn.Module):
    """Tied weights, and buffers of many types, 0-d and empty."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6, dtype=dtype)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 9, bias=False, dtype=dtype)
        self.head.weight = self.embed.weight
        self.register_buffer("step", torch.tensor(7, dtype=torch.uint8))
        self.register_buffer("empty", torch.zeros(3, 0, dtype=torch.complex64))
        self.register_buffer("mask", torch.tensor([[True], [False]]))
        self.register_buffer("scale", torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn))


def _linear(keep: float = 1.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(8, 5, dtype=dtype), nn.ReLU(), nn.Linear(5, 6, dtype=dtype))
    with torch.no_grad():
        for parameter in (model[0].weight, model[2].weight):
            parameter *= torch.rand(parameter.shape) < keep
    return model


def _one(weight: torch.Tensor) -> nn.Module:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    model.weight = nn.Parameter(weight)
    return model


def _fit(model: nn.Module, quantizer, with_sensitivity: bool = False):
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    sensitivity = {name: torch.rand_like(p) + 0.1 for name, p in weights.items()} if with_sensitivity else None
    return quantizer.fit(nq.select(model, sensitivity, layers=list(weights))), model


def _dense():
    return _fit(_linear(), nq.KMeans(4))


def _layers():
    quantized, model = _fit(_linear(0.4), nq.ECSQ(1e-3, per_layer=True), with_sensitivity=True)
    return replace(quantized, record=SensitivityRecord("fisher", 100, 0.5, 1e-9)), model


def _fixed():
    return _fit(_linear(0.45), nq.KMeans(5, coding="fixed"))


def _one_level():
    return _fit(_linear(), nq.KMeans(1, coding="fixed"))


def _zeros():
    return _fit(_linear(0), nq.KMeans(3))


def _tied():
    torch.manual_seed(6)
    return _fit(_Odd(torch.bfloat16), nq.KMeans(6))


def _double():
    quantized, model = _fit(_linear(dtype=torch.float64), nq.Uniform(0.05, 0.25))
    values = {group: book.value * 1.01 for group, book in quantized.codebooks.items()}
    return quantized.with_values(values, {"gradient": "mean", "epochs": 2, "lr": 0.1}), model


def _gaps():
    torch.manual_seed(7)
    weight = torch.zeros(20, 45)
    weight.view(-1)[torch.randperm(900)[:14]] = torch.randn(14)
    weight.view(-1)[:8] = torch.randn(8)
    return _fit(_one(weight), nq.KMeans(3))


def _skewed():
    torch.manual_seed(8)
    return _fit(_one((torch.randn(20, 30) * 4).round().double().exp().half().clamp(max=6e4)), nq.KMeans(20))


def _wide():
    return _fit(_one(torch.arange(660.0).reshape(22, 30).remainder(330).half()), nq.KMeans(330))


def _blocks():
    torch.manual_seed(9)
    weight = torch.randn(21, 10) * (torch.rand(21, 10) < 0.3)
    weight[:8] = torch.randn(8, 10)  # a block without zeros
    weight[13:20] = 0  # one without weights
    return _fit(nn.Sequential(_one(weight), _one(torch.randn(6, 12) * (torch.rand(6, 12) < 0.3))), nq.KMeans(4))


def _blocks_dense():
    torch.manual_seed(10)
    model = nn.Sequential(nn.Linear(20, 13), nn.BatchNorm1d(150))
    return _fit(model, nq.KMeans(3))


def _paths():
    return _fit(_linear(), nq.Trellis(1e-2, coding="context", per_layer=True))


def _paths_pruned():
    return _fit(_linear(0.4), nq.Trellis(1e-2, coding="context"), with_sensitivity=True)


def _ranks():
    return _fit(_linear(0.4), nq.KMeans(5, coding="context"))


def _arithmetic():
    return _fit(_linear(0.4), nq.KMeans(5, coding="arithmetic"))


def _blocks_arithmetic():
    torch.manual_seed(12)
    return _fit(_one(torch.randn(11, 20)), nq.ECSQ(1e-2, coding="arithmetic"))


def _wide_arithmetic():
    """More than 256 levels: indices of another type."""
    weight = torch.arange(660.0).reshape(22, 30).remainder(330).half()
    return _fit(_one(weight), nq.KMeans(330, coding="arithmetic"))


def _blocks_ranks():
    torch.manual_seed(11)
    return _fit(nn.Sequential(nn.Linear(20, 13), _one(torch.randn(2, 150).bfloat16())), nq.ECSQ(1e-2, coding="context"))


def _scaled():
    return _fit(_linear(), nq.BlockQuantizer(formats=("nf4_double", "int4_asym/4"), coding="huffman"), True)


def _scaled_ranks():
    return _fit(_linear(0.4, torch.bfloat16), nq.BlockQuantizer(formats=("q4_k",), coding="context"))


MAKERS: dict[str, Callable] = {
    "dense": _dense, "layers": _layers, "fixed": _fixed, "one-level": _one_level, "zeros": _zeros, "tied": _tied,
    "double": _double, "gaps": _gaps, "skewed": _skewed, "wide": _wide, "blocks": _blocks,
    "blocks-dense": _blocks_dense, "paths": _paths, "paths-pruned": _paths_pruned, "ranks": _ranks,
    "blocks-ranks": _blocks_ranks, "arithmetic": _arithmetic, "blocks-arithmetic": _blocks_arithmetic,
    "wide-arithmetic": _wide_arithmetic, "scaled": _scaled, "scaled-ranks": _scaled_ranks,
}  # fmt: skip


def write_seeds(folder: Path = FOLDER) -> None:
    """Make all of them anew, as after a change of the format."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MAKERS.items():
        with block_size(name):
            quantized, model = make()
            nq.save(quantized, folder / f"{name}.nbq", model, progress=False)
    only_recipe = Parts(json.dumps({"recipe": {"nbquant": "0"}}).encode(), ())
    (folder / "nothing.nbq").write_bytes(only_recipe.file())
    with TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "m.safetensors"
        save_file({"w": torch.tensor([[0.0, 1.5], [-1.0, 0.0]])}, checkpoint, metadata={"format": "pt", "title": "ü"})
        quantized = nq.fit(nq.select(checkpoint), "kmeans", levels=3, progress=False)
        nq.save(quantized, folder / "metadata.nbq", checkpoint, progress=False)
