"""The mergeable histogram over weight and sensitivity that all live computation runs on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.kernels.reference import WEIGHT_BINS, ZERO_BIN

N, W, WW, H, HW, HWW = range(6)  # columns of the sums
BIN_WIDTH = 2.0**-7  # of the weight, or up to half of that
EXACT_BELOW = 1 << 12  # weights; so few are kept one by one, so that no two of them share a bin


@dataclass(frozen=True)
class Histogram:
    """Sums over the occupied cells of a fixed (h, w) grid; two histograms add to that of their union.

    Attributes:
        key: Ascending cell keys: rows of h (half-octaves), within a row bins of w (128 an octave, exact zero its own).
        sums: For each cell n, Σw, Σw², Σh, Σhw, Σhw².
    """

    key: Int64[np.ndarray, " m"]
    sums: Float[np.ndarray, "m 6"]

    @staticmethod
    def of(weight: Float[Tensor, "..."], sensitivity: Float[Tensor, "..."] | None = None) -> "Histogram":
        """Histogram of a tensor; h is 1 where no sensitivity is given."""
        weight = weight.detach().reshape(-1)
        h = torch.ones_like(weight) if sensitivity is None else sensitivity.detach().reshape(-1)
        return Histogram(*dispatch.joint_histogram(weight, h))

    @staticmethod
    def merge(parts: Iterable["Histogram"]) -> "Histogram":
        """Sum of several histograms."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        key, index = np.unique(np.concatenate([p.key for p in parts]), return_inverse=True)
        sums = np.concatenate([p.sums for p in parts])
        return Histogram(key, np.stack([np.bincount(index, column, len(key)) for column in sums.T], axis=1))

    def without_zeros(self) -> "Histogram":
        """The same without the weights that are exactly zero (pruned)."""
        keep = self.key % WEIGHT_BINS != ZERO_BIN
        return Histogram(self.key[keep], self.sums[keep])

    @property
    def zeros(self) -> int:
        """Number of weights that are exactly zero."""
        return int(self.sums[self.key % WEIGHT_BINS == ZERO_BIN, N].sum())

    def __len__(self) -> int:
        """Number of weights."""
        return int(self.sums[:, N].sum())


@dataclass(frozen=True)
class Cells:
    """What the solvers see: cells sorted by w within rows of like h, as running sums.

    The mass of a cell is Σh, or its count times the mean of h where sensitivity is ignored: λ then keeps its unit.

    Attributes:
        row_start: First cell of each row, then the number of cells m.
        row_sensitivity: Mean mass of a weight in each row, ascending.
        position: Mean w of each cell, ascending within a row.
        prefix: Running sums of n, mass, mass·w, mass·w² before each cell and after the last.
        true_prefix: The same of n, Σh, Σhw, Σhw², by which distortion is measured.
    """

    row_start: Int64[np.ndarray, " r+1"]
    row_sensitivity: Float[np.ndarray, " r"]
    position: Float[np.ndarray, " m"]
    prefix: Float[np.ndarray, "m+1 4"]
    true_prefix: Float[np.ndarray, "m+1 4"]

    @staticmethod
    def of_histogram(histogram: Histogram, weighted: bool, rows: bool) -> "Cells":
        """Cells of a histogram; without ``rows`` all h share one, which is enough where cells are intervals of w."""
        bins = histogram.key % WEIGHT_BINS
        if rows and weighted:
            return _cells(histogram.sums, histogram.key // WEIGHT_BINS, weighted)
        used, index = np.unique(bins, return_inverse=True)
        sums = np.stack([np.bincount(index, column, len(used)) for column in histogram.sums.T], axis=1)
        return _cells(sums, np.zeros(len(used), np.int64), weighted)

    @staticmethod
    def of_weights(
        weight: Float[np.ndarray, " n"], sensitivity: Float[np.ndarray, " n"], weighted: bool, rows: bool
    ) -> "Cells":
        """Cells that hold one distinct weight each, for few weights."""
        w, h = weight.astype(np.float64), sensitivity.astype(np.float64)
        row = h if rows and weighted else np.zeros_like(h)
        pairs, index = np.unique(np.stack([row, w]), axis=1, return_inverse=True)
        terms = np.stack([np.ones_like(w), w, w * w, h, h * w, h * w * w], axis=1)
        index = index.reshape(-1)
        sums = np.stack([np.bincount(index, column, pairs.shape[1]) for column in terms.T], axis=1)
        return _cells(sums, np.unique(pairs[0], return_inverse=True)[1].reshape(-1), weighted)

    @staticmethod
    def of_distinct(weight: Float[Tensor, " n"], mass: Float[Tensor, " n"]) -> "Cells":
        """One row of cells that hold a distinct weight each, or equally many of them; at the cost of a sort."""
        distinct, index = torch.unique(weight.double(), return_inverse=True)
        if len(distinct) > EXACT_BELOW:
            index = index * EXACT_BELOW // len(distinct)
        w, h = weight.double(), mass.double()
        terms = torch.stack([torch.ones_like(w), w, w * w, h, h * w, h * w * w], dim=1)
        sums = torch.zeros(int(index.max()) + 1, 6, dtype=w.dtype, device=w.device).index_add_(0, index, terms)
        return _cells(sums.cpu().numpy(), np.zeros(len(sums), np.int64), True)

    @property
    def count(self) -> int:
        """Number of weights."""
        return int(self.prefix[-1, 0])


def _cells(sums: Float[np.ndarray, "m 6"], row: Int64[np.ndarray, " m"], weighted: bool) -> Cells:
    """Cells of sums that are sorted by row and, within it, by weight."""
    true = sums[:, [N, H, HW, HWW]]
    mean_h = sums[:, H].sum() / sums[:, N].sum()
    if weighted and mean_h > 0:
        mass = true
    else:
        mean_h = mean_h if mean_h > 0 else 1.0
        mass = np.column_stack([sums[:, N], sums[:, [N, W, WW]] * mean_h])
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    row_sums = np.add.reduceat(mass[:, :2], starts, axis=0)
    return Cells(
        row_start=np.append(starts, len(row)),
        row_sensitivity=row_sums[:, 1] / row_sums[:, 0],
        position=sums[:, W] / sums[:, N],
        prefix=_running(mass),
        true_prefix=_running(true),
    )


def _running(terms: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m+1 c"]:
    return np.vstack([np.zeros(terms.shape[1]), np.cumsum(terms, axis=0)])
