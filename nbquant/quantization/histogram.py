"""Mergeable histograms over weight and sensitivity, the basis of all live computation."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.kernels.keys import JOINT_SHIFT, MARGINAL_SHIFT, ROW_KEYS, ROW_OF_ONE, ROWS, ZERO_KEY
from nbquant.progress import Progress
from nbquant.quantization.validate import checked_sensitivity, require_finite_weight

N, H, HW, HWW = range(4)  # columns of the sums
NEGLIGIBLE = 1e-100  # mean h below which LEAST_MASS dominates
FEW_BINS = 1 << 10  # with fewer occupied bins the weights are nearly equal, such as a norm's near 1
EXACT_UP_TO = 1 << 14  # weights up to which each distinct one has its own bin
SHIFTS = ((MARGINAL_SHIFT, JOINT_SHIFT), (10, 14))  # bits dropped; the second for nearly equal weights


@dataclass(frozen=True)
class Bins:
    """Sums over the occupied bins of a fixed grid; bins of two sets of weights can be added.

    Attributes:
        key: Ascending keys ``row * ROW_KEYS + weight_key``, see :mod:`nbquant.kernels.reference`.
        sums: n, Σh, Σhw, Σhw² of each bin, with h + ``LEAST_MASS`` in place of h.
    """

    key: Int64[np.ndarray, " m"]
    sums: Float[np.ndarray, "m 4"]

    @staticmethod
    def merge(parts: Iterable["Bins"]) -> "Bins":
        """Add up several."""
        return Bins(*dispatch.merge([(p.key, p.sums) for p in parts]))

    @cached_property
    def row(self) -> Int64[np.ndarray, " m"]:
        """Row of h of each bin."""
        return self.key // ROW_KEYS

    @cached_property
    def is_zero(self) -> Bool[np.ndarray, " m"]:
        """Mask of the bins with the weights that are exactly zero."""
        return self.key % ROW_KEYS == ZERO_KEY

    def without_zeros(self) -> "Bins":
        """Remove the weights that are exactly zero."""
        return Bins(self.key[~self.is_zero], self.sums[~self.is_zero])

    def damped(self, offset: float) -> "Bins":
        """Add ``offset`` to every h; within a bin, h and w are taken to be independent."""
        n, h, hw, hww = self.sums.T
        growth = 1 + offset * n / h
        return Bins(self.key, np.column_stack([n, h * growth, hw * growth, hww * growth]))


@dataclass(frozen=True)
class Histogram:
    """Sums over fine bins of w, and over coarser cells of (h, w); histograms of disjoint weights can be added.

    Attributes:
        marginal: At least 512 bins of w per octave, over all h; few weights have a bin per distinct value.
        joint: At least 32 bins of w per octave, in rows of half an octave of h; likewise for few weights.
    """

    marginal: Bins
    joint: Bins

    @staticmethod
    def of(
        weight: Float[Tensor, "..."],
        sensitivity: Float[Tensor, "..."] | None = None,
        name: str = "weight",
        progress: Progress = False,
        joint: bool = True,
        count: int | None = None,
    ) -> "Histogram":
        """Compute the histogram of a tensor in one pass, a few nanoseconds per weight.

        Args:
            weight: Weights w.
            sensitivity: Sensitivities h of the same shape; None for h = 1.
            name: Name of the tensor in error messages.
            progress: See :data:`nbquant.progress.Progress`.
            joint: Whether to fill the joint grid; without it, in a third of the time, all weights are in one row.
            count: Total number of weights if these are a part, which sets the bin width; None if they are all.

        Raises:
            ValueError: Weights or sensitivities that are not finite, or negative sensitivities.
        """
        w, h = weight.detach().reshape(-1), None if sensitivity is None else sensitivity.detach().reshape(-1)
        grid = joint and h is not None
        for fine, coarse in SHIFTS if (len(w) if count is None else count) > EXACT_UP_TO else ((0, 0),):
            key, sums, joint_key, joint_sums = dispatch.histogram(w, h, fine, coarse if grid else None, progress)
            if len(key) >= FEW_BINS:
                break
        if not np.isfinite(sums).all() or (joint_key >= ROWS // 2 * ROW_KEYS).any():
            require_finite_weight(weight, name)
            if sensitivity is not None:
                checked_sensitivity(sensitivity, weight, name)
            raise ValueError(
                f"sums of h·w² must be finite, but those of {name!r} are not, with |w| up to "
                f"{float(weight.abs().max()):.3g}: leave this layer out."
            )
        marginal = Bins(key, sums)
        return Histogram(marginal, Bins(joint_key, joint_sums) if grid else Bins(key + ROW_OF_ONE * ROW_KEYS, sums))

    @staticmethod
    def merge(parts: Iterable["Histogram"]) -> "Histogram":
        """Add up several histograms."""
        parts = list(parts)
        return Histogram(Bins.merge(p.marginal for p in parts), Bins.merge(p.joint for p in parts))

    def without_zeros(self) -> "Histogram":
        """Remove the weights that are exactly zero (pruned)."""
        return Histogram(self.marginal.without_zeros(), self.joint.without_zeros())

    def damped(self, offset: float) -> "Histogram":
        """Add ``offset`` [loss/weight²] to every h."""
        return Histogram(self.marginal.damped(offset), self.joint.damped(offset))

    @property
    def zeros(self) -> int:
        """Number of weights that are exactly zero."""
        return int(self.marginal.sums[self.marginal.is_zero, N].sum())

    @property
    def mass(self) -> float:
        """Σh [loss/weight²]."""
        return float(self.marginal.sums[:, H].sum())

    def __len__(self) -> int:
        """Number of weights."""
        return int(self.marginal.sums[:, N].sum())


@dataclass(frozen=True)
class Cells:
    """Cells as the solvers use them: sorted by w within rows of similar h, as running sums.

    The mass of a cell is Σh, or its count times the mean h for unweighted quantizers, so that λ keeps its unit.

    Attributes:
        row_start: First cell of each row, then the number of cells m.
        row_sensitivity: Mean mass of a weight in each row, ascending.
        position: Mean w of each cell, ascending within a row.
        prefix: Running sums of n, mass, mass·w, mass·w² before each cell and after the last.
        true_prefix: Running sums of n, Σh, Σhw, Σhw², for the distortion.
    """

    row_start: Int64[np.ndarray, " r+1"]
    row_sensitivity: Float[np.ndarray, " r"]
    position: Float[np.ndarray, " m"]
    prefix: Float[np.ndarray, "m+1 4"]
    true_prefix: Float[np.ndarray, "m+1 4"]

    @staticmethod
    def of_histogram(histogram: Histogram, weighted: bool, rows: bool) -> "Cells":
        """Make the cells of a histogram; without ``rows`` all h share one row, enough where cells are intervals of w.

        If all h are nearly equal they share one row, too: its bins of w are finer.
        """
        if rows and weighted and histogram.joint.row[0] != histogram.joint.row[-1]:
            return _cells(histogram.joint.sums, histogram.joint.row, weighted)
        sums = histogram.marginal.sums
        return _cells(sums, np.zeros(len(sums), np.int64), weighted)

    @property
    def count(self) -> int:
        """Number of weights."""
        return int(self.prefix[-1, 0])


def _cells(sums: Float[np.ndarray, "m 4"], row: Int64[np.ndarray, " m"], weighted: bool) -> Cells:
    """Cells from sums sorted by row and, within a row, by weight."""
    position = sums[:, HW] / sums[:, H]
    if (np.diff(position) < 0)[row[1:] == row[:-1]].any():
        # A wide bin among narrow ones: its mean need not be in the order of its key.
        order = np.lexsort([position, row])
        sums, position = sums[order], position[order]
    n, h, _, hww = sums.T
    mean_h = h.sum() / n.sum()
    if weighted and mean_h > NEGLIGIBLE:
        mass = sums
    else:
        scale = n * (mean_h if mean_h > NEGLIGIBLE else 1.0)
        mass = np.column_stack([n, scale, scale * position, scale * (hww / h)])
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    row_sums = np.add.reduceat(mass[:, :2], starts, axis=0)
    prefix = _running(mass)
    return Cells(
        row_start=np.append(starts, len(row)),
        row_sensitivity=row_sums[:, 1] / row_sums[:, 0],
        position=position,
        prefix=prefix,
        true_prefix=prefix if mass is sums else _running(sums),
    )


def _running(terms: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m+1 c"]:
    running = np.zeros((len(terms) + 1, terms.shape[1]))
    np.cumsum(terms, axis=0, out=running[1:])
    return running
