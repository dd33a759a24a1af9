"""Sweeps over the weights that share a codebook, block by block, without copying or joining them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.quantization.clusters import centres
from nbquant.quantization.histogram import Bins, N
from nbquant.quantization.selection import Selection
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.workers import Workers

SWEEP_BLOCK = 1 << 24  # weights between two checks for cancellation
MANY = 1 << 20  # weights beyond which the histogram's clusters need fewer sweeps
SWEEPS, SWEEPS_OF_MANY = 10, 2

ClusterSums = Float[np.ndarray, "k 5"]
"""n, Σw, Σh, Σhw, Σhw² of each codeword's cluster."""


Kernel = Callable[[Tensor, Tensor | None, Tensor], ClusterSums]
"""kernel(w, h, out) assigns a block: it writes the indices and returns their sums."""


@dataclass(frozen=True, eq=False)
class Members:
    """Weights that share a codebook, with their assignment of the last sweep.

    Attributes:
        selection: The tensors.
        skip_zeros: Whether weights that are exactly zero are left out: assigned −1 and in no sum.
        ticks: Advanced before each block; may raise to cancel.
        marginal: Bins over w of exactly these weights, to reuse their sums; None if unknown, or
            if their h is ignored.
        assignment: Indices of each tensor's weights, in the smallest integer type that holds them.
        sums: Sums of the clusters, by dtype of the tensors.
        held: Assignment held by workers since the last sweep, see :meth:`fetch`.
    """

    selection: Selection
    skip_zeros: bool
    ticks: Iterator[object]
    marginal: Bins | None = None
    assignment: dict[str, Int[Tensor, " n"]] = field(default_factory=dict)
    sums: dict[torch.dtype, ClusterSums] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)

    def assign(
        self,
        codebook: Float[np.ndarray, " k"],
        codeword_length: Float[np.ndarray, " k"] | None = None,
        lmbda: float = 0.0,
        constant: float | None = None,
    ) -> ClusterSums:
        """Sweep once: see :func:`nbquant.kernels.reference.assign`."""
        if lmbda == 0 and constant is None and self.marginal is not None and len(self.selection) > MANY:
            found = self._assign_nearest(codebook, self.marginal)
            if found is not None:
                return found
        length = np.zeros(len(codebook)) if codeword_length is None else codeword_length
        skip = self.skip_zeros  # kernels are sent to workers, and members are not
        return self._sweep(
            len(codebook), lambda w, h, out: dispatch.assign(w, h, codebook, length, lmbda, out, constant, skip)
        )

    def _assign_nearest(self, codebook: Float[np.ndarray, " k"], marginal: Bins) -> ClusterSums | None:
        """Sweep once, taking sums from the bins where possible; None if the bins are unknown or of other weights."""
        first = self.selection.tensors[0].weight
        if any(t.weight.dtype != first.dtype for t in self.selection):
            return None
        bins = marginal.without_zeros() if self.skip_zeros else marginal
        known = dispatch.whole_bins(first, codebook, self.skip_zeros, bins.key, bins.sums)
        if known is None:
            return None
        table, sums = known
        length, skip = np.zeros(len(codebook)), self.skip_zeros
        sums = sums + self._sweep(
            len(codebook), lambda w, h, out: dispatch.assign(w, h, codebook, length, 0.0, out, None, skip, table)
        )
        self.sums[first.dtype] = sums
        return sums if sums[:, 0].sum() == bins.sums[:, N].sum() else None

    def assign_grid(self, step: float, offset: float, first: int, cells: int) -> ClusterSums:
        """Sweep once: see :func:`nbquant.kernels.reference.assign_grid`."""
        skip = self.skip_zeros
        return self._sweep(cells, lambda w, h, out: dispatch.assign_grid(w, h, step, offset, first, cells, out, skip))

    def reach(self) -> tuple[float, float]:
        """Find the least and the largest weight."""
        if self.selection.workers is not None:
            found = np.array(list(self.selection.workers.map(_reach, self.selection.tensors)))
            return float(found[:, 0].min()), float(found[:, 1].max())
        ends = [torch.stack(t.weight.reshape(-1)[b].aminmax()) for t in self.selection for b in _blocks(t.weight)]
        if self.selection.shards is None:
            values = torch.stack([e.double() for e in ends])
            return float(values.min()), float(values.max())
        least = min((float(e[0]) for e in ends), default=np.inf)
        most = max((float(e[1]) for e in ends), default=-np.inf)
        found = self.selection.shards.gather(np.array([least, most]))
        return float(found[:, 0].min()), float(found[:, 1].max())

    def constant(self, weighted: bool) -> float | None:
        """The constant in place of every h, their mean, in choices that ignore h; None in others."""
        counts = weighted and any(
            bool(t.sensitivity.reshape(-1)[b].any())
            for t in self.selection
            if t.sensitivity is not None
            for b in _blocks(t.weight)
        )
        if counts if self.selection.shards is None else self.selection.shards.any(counts):
            return None
        if all(t.sensitivity is None for t in self.selection):
            return 1.0
        n, _, h, _, _ = self.assign(np.zeros(1))[0]
        return float(h / n) if h > 0 else 1.0

    def most_sweeps(self, of_many: int) -> int:
        """Largest number of sweeps when clusters come from a histogram: fewer over many weights."""
        return of_many if len(self.selection) > MANY else SWEEPS

    def renumber(self, code: Int64[np.ndarray, " k"]) -> None:
        """Replace index j by ``code[j]`` everywhere."""
        shifted = torch.from_numpy(code + 1).to(index_dtype(int(code.max()) + 1))
        for name, found in self.assignment.items():
            self.assignment[name] = dispatch.gather(shifted.to(found.device), found).sub_(1)  # −1 gathers 0

    def fetch(self) -> None:
        """Fetch the assignment from workers, file by file."""
        if self.selection.workers is None or not self.held:
            return
        for found in self.selection.workers.pick(self.held, 1):
            # Copied, as arrays received over a network may be read-only.
            self.assignment.update({name: torch.from_numpy(index.copy()) for name, index in found.items()})
        self.held.clear()

    def _sweep(self, levels: int, kernel: Kernel) -> ClusterSums:
        if self.selection.workers is not None:
            return self._sweep_by_workers(self.selection.workers, levels, kernel)
        dtype = index_dtype(levels)
        self.sums.clear()
        shards = self.selection.shards
        for t in self.selection:
            w, h = t.weight.reshape(-1), None if t.sensitivity is None else t.sensitivity.reshape(-1)
            if t.name not in self.assignment or self.assignment[t.name].dtype != dtype:
                self.assignment[t.name] = torch.empty(len(w), dtype=dtype, device=w.device)
            out, sums = self.assignment[t.name], self.sums.setdefault(w.dtype, np.zeros((levels, 5)))
            for block in _blocks(w):
                next(self.ticks, None)
                found = kernel(w[block], None if h is None else h[block], out[block])
                if shards is None or t.name not in shards.elsewhere:
                    sums += found
        if shards is not None:
            self.sums.update({own: shards.total(sums) for own, sums in self.sums.items()})
        return np.sum(list(self.sums.values()), axis=0)

    def _sweep_by_workers(self, workers: Workers, levels: int, kernel: Kernel) -> ClusterSums:
        self.sums.clear()
        self.held[:] = workers.hold(partial(_swept, levels, kernel), self.selection.tensors)
        for found, blocks in workers.pick(self.held, 0):
            for own, sums in found.items():
                self.sums[own] = self.sums.get(own, 0) + sums
            for _ in range(blocks):
                next(self.ticks, None)
        return np.sum(list(self.sums.values()), axis=0)


def _swept(
    levels: int, kernel: Kernel, tensors: Sequence[SelectedTensor]
) -> tuple[tuple[dict[torch.dtype, ClusterSums], int], dict[str, Int[np.ndarray, " n"]]]:
    """On a worker: (sums by dtype, number of blocks), and the indices by tensor name."""
    members = Members(Selection(tuple(tensors)), False, iter(()))  # the kernel itself skips zeros
    members._sweep(levels, kernel)
    blocks = blocks_of(members.selection)
    return (members.sums, blocks), {name: found.numpy() for name, found in members.assignment.items()}


def _reach(tensors: Sequence[SelectedTensor]) -> tuple[float, float]:
    return Members(Selection(tuple(tensors)), False, iter(())).reach()


def most_sweeps(weights: int) -> int:
    """Largest number of sweeps over so many weights, for any quantizer."""
    return SWEEPS_OF_MANY if weights > MANY else SWEEPS


def blocks_of(selection: Selection) -> int:
    """Count the blocks of a sweep."""
    return sum(len(_blocks(t.weight)) for t in selection)


def index_dtype(levels: int) -> torch.dtype:
    """Choose the smallest integer type for the indices of so many codewords, and −1."""
    return next(d for d in (torch.int8, torch.int16, torch.int32) if levels <= torch.iinfo(d).max)


def means(sums: ClusterSums, weighted: bool, otherwise: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Compute the centre of each cluster: Σhw/Σh, or Σw/n unweighted or without mass; ``otherwise`` if it is empty."""
    n, w, s0, s1, _ = sums.T
    plain = np.where(n > 0, w / np.maximum(n, 1), otherwise)
    return centres(s0, s1, plain) if weighted else plain


def _blocks(weight: Float[Tensor, "..."]) -> list[slice]:
    return [slice(i, i + SWEEP_BLOCK) for i in range(0, weight.numel(), SWEEP_BLOCK)]
