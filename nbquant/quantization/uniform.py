"""Uniform quantization with reconstruction values at the means of their cells."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.fitting import fit_quantizer
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import Members, Sums, means
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Coding, Weights, check_options, check_positive

MOST_CELLS = 1 << 20  # the reach of the grid; occupied cells are far fewer


@dataclass(frozen=True)
class Uniform:
    """Equally spaced cells; with a variable-length code asymptotically the best scalar quantizer (Gish & Pierce 1968).

    Attributes:
        step: Width Δ of a cell [weight].
        offset: Where the grid lies, in steps: 0 centres a cell on zero, 0.5 puts a boundary there.
        weighted: Reconstruction values Σhw/Σh of each cell's members, or their plain mean.
        coding: "huffman" or "fixed" codeword lengths.
        per_layer: A codebook for each layer on the same grid, or one for the whole selection.

    Raises:
        ValueError: ``step`` not above 0 or too small for the weights' range, ``offset`` outside [0, 1).

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5.1.
    """

    method: ClassVar[str] = "uniform"
    parameter: ClassVar[str] = "step"
    needs_rows: ClassVar[bool] = False

    step: float
    offset: float = 0.0
    weighted: bool = True
    coding: Coding = "huffman"
    per_layer: bool = False

    def __post_init__(self) -> None:
        check_positive("step", self.step, "weight")
        check_positive("offset", self.offset, "steps", allow_zero=True)
        if self.offset >= 1:
            raise ValueError(f"offset must be in [0, 1) steps, but got {self.offset}")
        check_options(self.weighted, self.coding, self.per_layer)

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`."""
        self._check_reach(float(np.abs(cells.position).max()))
        index = np.rint(cells.position / self.step - self.offset)
        first = np.flatnonzero(np.diff(index, prepend=-np.inf))
        edges = np.append(first, len(index))
        n, s0, s1, _ = np.diff(cells.prefix[edges], axis=0).T
        counts = np.diff(cells.prefix[:, 0])
        codebook = centres(s0, s1, np.add.reduceat(cells.position * counts, first) / n)
        # Between cells with empty ones in between the boundary is drawn halfway.
        threshold = (0.5 * (index[first[:-1]] + index[first[1:]]) + self.offset) * self.step
        return Clusters.of_sums(codebook, np.diff(cells.true_prefix[edges], axis=0), threshold)

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], Sums]:
        """One sweep: round to the grid, then the means of the cells."""
        low, high = members.reach()
        self._check_reach(max(abs(low), abs(high)))
        first, last = (int(np.rint(w / self.step - self.offset)) for w in (low, high))
        sums = members.assign_grid(self.step, self.offset, first, last - first + 1)
        return means(sums, self.weighted, np.zeros(len(sums))), sums

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`."""
        return fit_quantizer(self, weight, sensitivity, progress=progress)

    def _check_reach(self, largest: float) -> None:
        if largest / self.step > MOST_CELLS:
            raise ValueError(
                f"step must be at least {largest / MOST_CELLS:.3g} for weights up to {largest:.3g}, "
                f"but got {self.step:.3g}: pass a larger step"
            )
