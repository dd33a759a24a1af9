"""k-means and Hessian-weighted k-means: optimal on the histogram, then refined on the weights."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization.clustering import quantize_clusters
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import ClusterSums, Members, means
from nbquant.quantization.method import Family, Groups, Method, Tabulated
from nbquant.quantization.optimal_kmeans import kmeans_clusters
from nbquant.quantization.parameter import LEVELS, Parameter
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Weights, check_options
from nbquant.quantization.selection import as_selection

MOST_LEVELS = 1 << 12
MOST_TABULATED = 256  # levels on the curve


@dataclass(frozen=True)
class KMeans:
    """k-means: minimise Σ h (w − c)² with a given number of levels.

    Since h scales the cost of all centres equally, cells are intervals of w and h affects centres only. In one
    dimension the global optimum is computable; it is found on the histogram by dynamic programming.

    Attributes:
        levels: Number of clusters k; fewer if there are fewer distinct weights.
        weighted: Weight by sensitivity (centre Σhw/Σh), or not (centre = mean).
        coding: "huffman" or "fixed" codeword lengths, or "context" for adaptive arithmetic coding.
        per_layer: ``levels`` codewords per layer, or one codebook for the whole selection.
        pinned_zero: Whether one level is exactly zero, whatever the mean of its cluster: zero weights
            need no multiplication.

    Raises:
        ValueError: ``levels`` below 1 or above 4096.

    Source: Choi et al. 2017 (arXiv:1612.01543), sections 3.1 and 4.2.
    """

    method: ClassVar[str] = "kmeans"
    parameter: ClassVar[Parameter] = LEVELS
    needs_rows: ClassVar[bool] = False

    levels: int
    weighted: bool = True
    coding: str = "huffman"
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
        """See :class:`~nbquant.quantization.quantizer.ScalarQuantizer`."""
        return kmeans_clusters(cells, [self.levels], self.pinned_zero)[0]

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], ClusterSums]:
        """Refine the histogram's optimum by Lloyd iterations on the weights; every centre is its cluster's mean.

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
        """Quantize a selection, or a plain tensor with its sensitivity; see :func:`quantize`."""
        return quantize_clusters(self, as_selection(weight, sensitivity), progress)


def kmeans_curve(family: Family, groups: Groups, pruned: bool) -> Tabulated:
    """Compute the clusters for all numbers of levels at once."""
    levels = range(1, min(MOST_TABULATED, max(len(c.position) for c in groups.values())) + 1)
    solved = {group: kmeans_clusters(c, levels, family.pinned_zero) for group, c in groups.items()}
    return [family(k) for k in levels], [{g: s[i] for g, s in solved.items()} for i in range(len(levels))]


def midpoints(quantizer: object, codebook: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k-1"]:
    """Compute the boundaries halfway between neighbouring values."""
    return (codebook[1:] + codebook[:-1]) / 2


KMEANS_METHOD = Method(
    make=KMeans,
    labels=("k-means", "Hessian-weighted k-means"),
    quantize=quantize_clusters,
    curve=kmeans_curve,
    boundaries=midpoints,
    code_moves_clusters=False,
)
