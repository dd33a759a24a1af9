"""The weights that share a codebook, as the exact pass sees them: swept over in blocks, never copied or joined."""

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

BLOCK = 1 << 24  # weights between two chances to cancel
MANY = 1 << 20  # weights; of more, the histogram's clusters need fewer sweeps
SWEEPS, SWEEPS_OF_MANY = 10, 2

Sums = Float[np.ndarray, "k 5"]
"""For each codeword n, Σw, Σh, Σhw, Σhw² of its members."""


Kernel = Callable[[Tensor, Tensor | None, Tensor], Sums]
"""kernel(w, h, out): the sums of a block whose indices it writes."""


@dataclass(frozen=True, eq=False)
class Members:
    """Weights that share a codebook, and what they were assigned to in the last sweep.

    Attributes:
        selection: The tensors.
        skip_zeros: Whether weights that are exactly zero are left out: they are assigned −1 and in no sum.
        ticks: Advanced before each block; may raise to cancel.
        marginal: Bins of these very weights over w, whose sums need not be found again; None if they are not known, or
            if their h is of no account.
        assignment: For each tensor the indices of its weights, in the smallest integers that hold them.
        sums: Sums of the clusters for each dtype among the tensors.
        held: What workers hold of the last sweep, see :meth:`fetch`.
    """

    selection: Selection
    skip_zeros: bool
    ticks: Iterator[object]
    marginal: Bins | None = None
    assignment: dict[str, Int[Tensor, " n"]] = field(default_factory=dict)
    sums: dict[torch.dtype, Sums] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)

    def assign(
        self,
        codebook: Float[np.ndarray, " k"],
        codeword_length: Float[np.ndarray, " k"] | None = None,
        lmbda: float = 0.0,
        constant: float | None = None,
    ) -> Sums:
        """One sweep: see :func:`nbquant.kernels.reference.assign`."""
        if lmbda == 0 and constant is None and self.marginal is not None and len(self.selection) > MANY:
            found = self._assign_nearest(codebook, self.marginal)
            if found is not None:
                return found
        length = np.zeros(len(codebook)) if codeword_length is None else codeword_length
        skip = self.skip_zeros  # kernels travel to workers, and members do not
        return self._sweep(
            len(codebook), lambda w, h, out: dispatch.assign(w, h, codebook, length, lmbda, out, constant, skip)
        )

    def _assign_nearest(self, codebook: Float[np.ndarray, " k"], marginal: Bins) -> Sums | None:
        """One sweep that sums up only what the bins do not tell; None if they do not tell anything, or not of these."""
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

    def assign_grid(self, step: float, offset: float, first: int, cells: int) -> Sums:
        """One sweep: see :func:`nbquant.kernels.reference.assign_grid`."""
        skip = self.skip_zeros
        return self._sweep(cells, lambda w, h, out: dispatch.assign_grid(w, h, step, offset, first, cells, out, skip))

    def reach(self) -> tuple[float, float]:
        """Least and largest weight."""
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
        """What stands for every h in a choice that does not look at each: their mean; None if it does."""
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
        """How often to sweep at most, when clusters come from a histogram: so often over many weights."""
        return of_many if len(self.selection) > MANY else SWEEPS

    def renumber(self, code: Int64[np.ndarray, " k"]) -> None:
        """Replace index j by ``code[j]`` everywhere."""
        shifted = torch.from_numpy(code + 1).to(index_dtype(int(code.max()) + 1))
        for name, found in self.assignment.items():
            self.assignment[name] = dispatch.gather(shifted.to(found.device), found).sub_(1)  # −1 gathers 0

    def fetch(self) -> None:
        """Bring the assignment here that workers hold, file by file."""
        if self.selection.workers is None or not self.held:
            return
        for found in self.selection.workers.pick(self.held, 1):
            # Copied, since what came over a network may be read-only.
            self.assignment.update({name: torch.from_numpy(index.copy()) for name, index in found.items()})
        self.held.clear()

    def _sweep(self, levels: int, kernel: Kernel) -> Sums:
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

    def _sweep_by_workers(self, workers: Workers, levels: int, kernel: Kernel) -> Sums:
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
) -> tuple[tuple[dict[torch.dtype, Sums], int], dict[str, Int[np.ndarray, " n"]]]:
    """On a worker: (sums by dtype, number of blocks), and the indices by the tensors' names."""
    members = Members(Selection(tuple(tensors)), False, iter(()))  # the kernel knows what to skip
    members._sweep(levels, kernel)
    blocks = blocks_of(members.selection)
    return (members.sums, blocks), {name: found.numpy() for name, found in members.assignment.items()}


def _reach(tensors: Sequence[SelectedTensor]) -> tuple[float, float]:
    return Members(Selection(tuple(tensors)), False, iter(())).reach()


def most_sweeps(weights: int) -> int:
    """How often so many weights are swept over at most by any quantizer."""
    return SWEEPS_OF_MANY if weights > MANY else SWEEPS


def blocks_of(selection: Selection) -> int:
    """Number of blocks of a sweep."""
    return sum(len(_blocks(t.weight)) for t in selection)


def index_dtype(levels: int) -> torch.dtype:
    """The smallest integers that hold the indices of so many codewords, and −1."""
    return next(d for d in (torch.int8, torch.int16, torch.int32) if levels <= torch.iinfo(d).max)


def means(sums: Sums, weighted: bool, otherwise: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Centre of each cluster: Σhw/Σh, or Σw/n without weighting or mass; ``otherwise`` where it has no members."""
    n, w, s0, s1, _ = sums.T
    plain = np.where(n > 0, w / np.maximum(n, 1), otherwise)
    return centres(s0, s1, plain) if weighted else plain


def _blocks(weight: Float[Tensor, "..."]) -> list[slice]:
    return [slice(i, i + BLOCK) for i in range(0, weight.numel(), BLOCK)]
