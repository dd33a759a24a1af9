"""k-means and Hessian-weighted k-means: optimal on the histogram, then polished on the weights."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.fitting import fit_quantizer
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import Members, Sums, means
from nbquant.quantization.optimal_kmeans import kmeans_clusters
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Coding, Weights, check_options

MOST_LEVELS = 1 << 12


@dataclass(frozen=True)
class KMeans:
    """Minimises Σ h (w − c)² with a given number of levels.

    h scales every centre's cost alike, so cells are intervals of w and h moves centres only. In one dimension the
    global optimum is computable; it is found on the histogram by dynamic programming.

    Attributes:
        levels: Number of clusters k; fewer are used where there are fewer distinct weights.
        weighted: Weigh by sensitivity (centre Σhw/Σh), or plainly (centre = mean).
        coding: "huffman" or "fixed" codeword lengths, or "context" for adaptive arithmetic coding.
        per_layer: ``levels`` codewords for each layer, or one codebook for the whole selection.
        pinned_zero: Whether one of the levels is exactly zero, whatever the mean of its members: weights that become
            zero cost nothing to multiply with.

    Raises:
        ValueError: ``levels`` below 1 or above 4096.

    Source: Choi et al. 2017 (arXiv:1612.01543), sections 3.1 and 4.2.
    """

    method: ClassVar[str] = "kmeans"
    parameter: ClassVar[str] = "levels"
    needs_rows: ClassVar[bool] = False

    levels: int
    weighted: bool = True
    coding: Coding = "huffman"
    per_layer: bool = False
    pinned_zero: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.levels, bool) or not isinstance(self.levels, int | np.integer):
            raise TypeError(f"levels must be a whole number, but got {self.levels!r}")
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"levels must be from 1 to {MOST_LEVELS}, but got {self.levels}")
        check_options(self.weighted, self.coding, self.per_layer)
        if not isinstance(self.pinned_zero, bool):
            raise TypeError(f"pinned_zero must be True or False, but got {self.pinned_zero!r}")

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`."""
        return kmeans_clusters(cells, [self.levels], self.pinned_zero)[0]

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], Sums]:
        """Polish the histogram's optimum by Lloyd iterations on the weights; every centre is its members' mean.

        A pinned zero stays where it is.
        """
        centre = start.codebook
        for _ in range(members.most_sweeps(of_many=1)):
            codebook = centre
            sums = members.assign(codebook)
            found = means(sums, self.weighted, codebook)
            if self.pinned_zero:
                found[codebook == 0] = 0
            centre = found[sums[:, 0] > 0]
            if np.array_equal(centre, codebook):
                break
        return found, sums

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`."""
        return fit_quantizer(self, weight, sensitivity, progress=progress)
