"""Quantized selections made by hand, so that golden files do not change when a method finds better clusters."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

import nbquant as nq
from nbquant.coding.huffman import codeword_lengths
from nbquant.coding.ledger import Ledger, fixed_length
from nbquant.coding.trellis import integers_of
from nbquant.quantization.blocks import formats
from nbquant.quantization.blocks.block_codes import Part
from nbquant.quantization.blocks.scaling import Scaling, ordered_codes, part_shapes
from nbquant.quantization.codebook import BlockLevels, Codebook, Lattice, QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import SensitivityRecord


def quantized(
    quantizer: Quantizer,
    books: Mapping[str, tuple[Tensor, Mapping[str, Tensor]]],
    pruned: bool = False,
    dtypes: Mapping[str, torch.dtype] | None = None,
    lattices: Mapping[str, Lattice] | None = None,
    **more,
) -> Quantized:
    """From the values of each group and the indices of its tensors."""
    tensors, codebooks = {}, {}
    for group, (value, indices) in books.items():
        used = torch.cat([i.reshape(-1) for i in indices.values()])
        counts = torch.bincount(used[used >= 0], minlength=len(value))
        if quantizer.coding in ("arithmetic", "context"):
            lengths = torch.log2(counts.sum() / counts)
        elif quantizer.coding == "fixed":
            lengths = torch.full((len(value),), fixed_length(len(value)))
        else:
            lengths = torch.from_numpy(codeword_lengths(counts)) if len(value) else counts
        codebooks[group] = Codebook(value, counts, lengths, (lattices or {}).get(group))
        for name, index in indices.items():
            own = value.to((dtypes or {}).get(name, value.dtype))
            tensors[name] = QuantizedTensor(own, index.reshape(-1).to(torch.int8), index.shape)
    ledger = Ledger(payload=0, **({"position_payload": 0} if pruned else {}))
    return Quantized(quantizer, tensors, codebooks, ledger, 0.0625, 0, **more)


def tiny() -> tuple[Quantized, None]:
    """What FORMAT.md shows."""
    index = torch.tensor([[-1, 0, 1, -1], [-1, -1, 1, -1]])
    return quantized(nq.KMeans(2), {"all": (torch.tensor([-1.0, 0.5]), {"w": index})}, pruned=True), None


def dense() -> tuple[Quantized, nn.Module]:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    value = torch.tensor([-0.75, -0.1, 0.0, 0.3, 1.5])
    indices = {
        "0.weight": (torch.arange(20).reshape(4, 5) ** 2 % 7).clamp(max=4),
        "0.bias": torch.tensor([2, 2, 2, 3]),
        "2.weight": torch.tensor([[2, 2, 1, 2], [3, 2, 2, 1]]),
    }
    record = SensitivityRecord("gauss_newton", 1000, 0.1, 0.0)
    return quantized(nq.ECSQ(0.001), {"all": (value, indices)}, record=record), model


def pruned_layers() -> tuple[Quantized, nn.Module]:
    """Gaps with fillers, a bias without zeros, a layer of nothing but zeros, another that is stored as it was."""
    model = nn.ModuleDict({name: nn.Linear(30, 8) for name in "abc"})
    with torch.no_grad():
        for parameter in model["c"].parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 64 - 1)
    index = torch.full((8, 30), -1)
    index.view(-1)[torch.tensor([3, 4, 9, 11, 60, 61, 62, 99, 104, 180, 181, 183, 190, 233])] = torch.tensor(
        [0, 1, 2, 1, 1, 2, 1, 0, 1, 1, 2, 1, 1, 1]
    )
    books = {
        "a": (torch.tensor([-0.5, 0.25, 2.0]), {"a.weight": index, "a.bias": torch.tensor([1, 1, 0, 2, 1, 1, 1, 1])}),
        "b": (torch.zeros(0), {"b.weight": torch.full((8, 30), -1), "b.bias": torch.full((8,), -1)}),
    }
    return quantized(nq.Uniform(0.25, per_layer=True), books, pruned=True, finetuned={"epochs": 2, "lr": 0.001}), model


def fixed_length_layers() -> tuple[Quantized, nn.Module]:
    """Three levels in two bits, and one level in none."""
    model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "ab"})
    books = {
        "a": (torch.tensor([-1.0, 0.0, 1.0]), {"a.weight": torch.arange(9).reshape(3, 3) % 3}),
        "b": (torch.tensor([0.125]), {"b.weight": torch.zeros(3, 3, dtype=torch.int64)}),
    }
    return quantized(nq.KMeans(3, coding="fixed", per_layer=True), books), model


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 4)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([1.0, -2.0, 3.0, 0.1]))
        self.head.weight = self.embed.weight
        self.to(torch.bfloat16)
        self.norm.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("mask_again", self.mask)
        self.register_buffer("computed", torch.ones(9), persistent=False)


def tied() -> tuple[Quantized, nn.Module]:
    """bfloat16 with a codebook in float32, which a tensor in float32 shares; tied names, buffers of other types."""
    value = torch.tensor([-1.0, 0.333, 3.0])
    index = torch.tensor([[0, 1, 1], [1, 2, 1], [1, 1, 0], [2, 2, 1]])
    indices = {"embed.weight": index, "norm.weight": torch.tensor([1, 1, 2])}
    return quantized(nq.KMeans(3), {"all": (value, indices)}, dtypes={"embed.weight": torch.bfloat16}), Tied()


def paths() -> tuple[Quantized, nn.Module]:
    """Integers on paths through the trellis, pruned; a layer whose values are no integers; another of nothing."""
    model = nn.ModuleDict({name: nn.Linear(6, 7, bias=False) for name in "abc"})
    level = torch.arange(42).reshape(7, 6) ** 2 % 5 - 2
    integer = torch.from_numpy(integers_of((level * (level.abs() < 2)).numpy(), 7, 6))
    used = integer[integer != 0].unique()
    index = torch.where(integer == 0, -1, torch.searchsorted(used, integer))
    ranks = torch.arange(42).reshape(7, 6) % 4 - 1
    books = {
        "a": ((used.double() * 0.3).float(), {"a.weight": index}),
        "b": (torch.tensor([-0.5, 0.25, 2.0]), {"b.weight": ranks}),
        "c": (torch.zeros(0), {"c.weight": torch.full((7, 6), -1)}),
    }
    quantizer = nq.Trellis(0.01, coding="context", per_layer=True)
    return quantized(quantizer, books, pruned=True, lattices={"a": Lattice(0.3, used, dependent=True)}), model


def ranks() -> tuple[Quantized, nn.Module]:
    """Adaptive coding of a codebook that is no lattice, and of one value."""
    model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "ab"})
    books = {
        "a": (torch.tensor([-1.0, -0.25, 0.25, 40.0]), {"a.weight": torch.arange(9).reshape(3, 3) % 4}),
        "b": (torch.tensor([0.125]), {"b.weight": torch.zeros(3, 3, dtype=torch.int64)}),
    }
    return quantized(nq.KMeans(4, coding="context", per_layer=True), books), model


def frequencies() -> tuple[Quantized, nn.Module]:
    """Arithmetic coding, pruned: several values, one, and none."""
    model = nn.ModuleDict({name: nn.Linear(6, 7, bias=False) for name in "abc"})
    index = torch.arange(42).reshape(7, 6)
    books = {
        "a": (torch.tensor([-0.5, 0.25, 2.0, 3.0]), {"a.weight": (index**2 % 7).clamp(max=4) - 1}),
        "b": (torch.tensor([0.125]), {"b.weight": (index % 5 == 0).long() - 1}),
        "c": (torch.zeros(0), {"c.weight": torch.full((7, 6), -1)}),
    }
    return quantized(nq.ECSQ(0.01, coding="arithmetic", per_layer=True), books, pruned=True), model


def scales() -> tuple[Quantized, nn.Module]:
    """Levels of block formats: zero points in 4 bits and scales in float32; minima, of a layer in bfloat16."""
    model = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(40, 2, bias=False, dtype=torch.bfloat16)})
    shapes = {"a": ("int4_asym/4", {"a.weight": (3, 6), "a.bias": (1, 3)}), "b": ("q4_1", {"b.weight": (2, 40)})}
    tensors, codebooks = {}, {}
    for layer, (name, of) in shapes.items():
        form = formats.named(name)
        codes = {key: (np.arange(r * c) ** 2 % 13).astype(np.uint8).reshape(r, c) for key, (r, c) in of.items()}
        used = np.unique(np.concatenate([c.reshape(-1) for c in codes.values()]))
        order = ordered_codes(form, used)
        counts = sum(np.bincount(c.reshape(-1), minlength=256)[order] for c in codes.values())
        length = torch.full((len(order),), fixed_length(len(order)))
        value = torch.from_numpy(form.levels[order])
        codebooks[layer] = Codebook(value, torch.from_numpy(counts), length, levels=BlockLevels(name, order))
        place = np.zeros(256, np.int8)
        place[order] = np.arange(len(order))
        for key, c in codes.items():
            shape = tuple(dict(model.named_parameters())[key].shape)
            parts = []
            for part, (dtype, size) in part_shapes(form, shape).items():
                values = (np.arange(int(np.prod(size))) * 5 % 7 - 3).reshape(size)
                parts.append(
                    Part(
                        part, (values * 0.25 if dtype.kind == "f" else values).astype(dtype), dict(form.part_bits)[part]
                    )
                )
            scaling = Scaling(name, order, tuple(parts), dict(model.named_parameters())[key].dtype)
            tensors[key] = QuantizedTensor(
                value, torch.from_numpy(place[c.reshape(-1)]), torch.Size(shape), None, scaling
            )
    quantizer = nq.BlockQuantizer(formats=("int4_asym/4", "q4_1"))
    return Quantized(quantizer, tensors, codebooks, Ledger(payload=0), 0.0625, 0), model


GOLDEN = {
    "dense": dense,
    "pruned-layers": pruned_layers,
    "fixed-length": fixed_length_layers,
    "tied": tied,
    "paths": paths,
    "ranks": ranks,
    "frequencies": frequencies,
    "scales": scales,
}
