"""The mergeable histogram over weight and sensitivity that all live computation runs on."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.kernels.reference import JOINT_SHIFT, MARGINAL_SHIFT, ROW_KEYS, ROW_OF_ONE, ROWS, ZERO_KEY
from nbquant.progress import Progress
from nbquant.quantization.validate import checked_sensitivity, require_finite_weight

N, H, HW, HWW = range(4)  # columns of the sums
NEGLIGIBLE = 1e-100  # mean h, below which all that there is is LEAST_MASS
FEW_BINS = 1 << 10  # in fewer the weights are much the same: those of a norm, near 1
EXACT_UP_TO = 1 << 14  # weights; of so few every distinct one has a bin of its own
SHIFTS = ((MARGINAL_SHIFT, JOINT_SHIFT), (10, 14))  # bits dropped; the second where all weights are much the same


@dataclass(frozen=True)
class Bins:
    """Sums over the occupied bins of a fixed grid; those of two sets of weights add.

    Attributes:
        key: Ascending keys ``row * ROW_KEYS + weight_key``, see :mod:`nbquant.kernels.reference`.
        sums: For each bin n, Σh, Σhw, Σhw², with h + ``LEAST_MASS`` for h.
    """

    key: Int64[np.ndarray, " m"]
    sums: Float[np.ndarray, "m 4"]

    @staticmethod
    def merge(parts: Iterable["Bins"]) -> "Bins":
        """Sum of several."""
        return Bins(*dispatch.merge([(p.key, p.sums) for p in parts]))

    @cached_property
    def row(self) -> Int64[np.ndarray, " m"]:
        """Row of h of each bin."""
        return self.key // ROW_KEYS

    @cached_property
    def is_zero(self) -> Bool[np.ndarray, " m"]:
        """Which bins hold the weights that are exactly zero."""
        return self.key % ROW_KEYS == ZERO_KEY

    def without_zeros(self) -> "Bins":
        """The same without the weights that are exactly zero."""
        return Bins(self.key[~self.is_zero], self.sums[~self.is_zero])

    def damped(self, offset: float) -> "Bins":
        """The same with ``offset`` added to every h; within a bin, h and w are taken to be independent."""
        n, h, hw, hww = self.sums.T
        growth = 1 + offset * n / h
        return Bins(self.key, np.column_stack([n, h * growth, hw * growth, hww * growth]))


@dataclass(frozen=True)
class Histogram:
    """Sums over fine bins of w, and over coarser cells of (h, w); two histograms add to that of their union.

    Attributes:
        marginal: 512 bins of w an octave, or more, whatever h is; of few weights each distinct one.
        joint: 32 bins of w an octave, or more, in rows of half an octave of h; of few weights each distinct one.
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
        """Histogram of a tensor, in one pass over it; some nanoseconds a weight.

        Args:
            weight: Weights w.
            sensitivity: Sensitivities h of the same shape; None is h = 1.
            name: What an error calls the tensor.
            progress: See :data:`nbquant.progress.Progress`.
            joint: Whether the joint grid is wanted; without it, which takes a third of the time, all is in one row.
            count: Number of weights of which these are some, which decides how fine the bins are; None if they are all.

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
        """Sum of several histograms."""
        parts = list(parts)
        return Histogram(Bins.merge(p.marginal for p in parts), Bins.merge(p.joint for p in parts))

    def without_zeros(self) -> "Histogram":
        """The same without the weights that are exactly zero (pruned)."""
        return Histogram(self.marginal.without_zeros(), self.joint.without_zeros())

    def damped(self, offset: float) -> "Histogram":
        """The same with ``offset`` [loss/weight²] added to every h."""
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
        """Cells of a histogram; without ``rows`` all h share one, which is enough where cells are intervals of w.

        Where all h are much the same they share one, too: its bins of w are finer.
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
    """Cells of sums that are sorted by row and, within it, by weight."""
    position = sums[:, HW] / sums[:, H]
    if (np.diff(position) < 0)[row[1:] == row[:-1]].any():
        # A wide bin among the narrow ones of few weights: its mean need not lie where its key does.
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
