"""Entropy-constrained scalar quantization (ECSQ), Hessian-weighted."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nbquant.progress import Progress
from nbquant.quantization.clustering import quantize_clusters
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells
from nbquant.quantization.members import SWEEPS_OF_MANY, ClusterSums, Members, means
from nbquant.quantization.method import Family, Groups, Method, Tabulated
from nbquant.quantization.optimal_ecsq import ecsq_clusters, ecsq_hull, ideal_length
from nbquant.quantization.parameter import LMBDA, Parameter
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Weights, check_options, check_positive
from nbquant.quantization.selection import as_selection

POLISH_TOLERANCE = 1e-5
LMBDAS = 56  # points on the curve
LMBDA_RANGE = (8.0, 1e-8)  # in units of the distortion of a single level at zero


@dataclass(frozen=True)
class ECSQ:
    """ECSQ: minimise J = D + λR, with a_i = argmin_j ½ h_i (w_i − c_j)² + λ ℓ_j and ℓ_j = −log2 p_j.

    Cells depend on h and are not intervals of w; the decoder does not need h. Empty clusters are dropped.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit]; a larger λ gives fewer bits.
        weighted: Weight by sensitivity, or by its mean (λ keeps its unit).
        coding: "huffman" or "fixed" codeword lengths of the result, or "context" for adaptive arithmetic coding; the
            iteration uses the ideal lengths.
        per_layer: One codebook per layer at the same λ, or one for the whole selection.

    Raises:
        ValueError: ``lmbda`` not above 0.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5.2 and algorithm 1; Chou, Lookabaugh, Gray 1989.
    """

    method: ClassVar[str] = "ecsq"
    parameter: ClassVar[Parameter] = LMBDA
    needs_rows: ClassVar[bool] = True

    lmbda: float
    weighted: bool = True
    coding: str = "huffman"
    per_layer: bool = False

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit")
        check_options(self.weighted, self.coding, self.per_layer)

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """See :class:`~nbquant.quantization.quantizer.ScalarQuantizer`."""
        return ecsq_clusters(cells, self.lmbda, near)

    def refine(self, members: Members, start: Clusters) -> tuple[Float[np.ndarray, " k"], ClusterSums]:
        """Continue the histogram's solution by the same iteration on the weights, until J stops falling."""
        codebook, length = start.codebook, ideal_length(start.counts)
        constant = members.constant(self.weighted)
        least = np.inf
        for _ in range(members.most_sweeps(of_many=SWEEPS_OF_MANY)):
            sums = members.assign(codebook, length, self.lmbda, constant)
            found = means(sums, constant is None, codebook)
            cost = lagrangian(sums, found, self.lmbda, constant)
            if not least - cost > POLISH_TOLERANCE * self.lmbda * sums[:, 0].sum():
                break
            least = cost
            used = np.flatnonzero(sums[:, 0] > 0)
            used = used[np.argsort(found[used], kind="stable")]
            codebook, length = found[used], ideal_length(sums[used, 0])
        return found, sums

    def fit(
        self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None, progress: Progress = False
    ) -> Quantized:
        """Quantize a selection, or a plain tensor with its sensitivity; see :func:`quantize`."""
        return quantize_clusters(self, as_selection(weight, sensitivity), progress)


def lagrangian(sums: ClusterSums, codebook: Float[np.ndarray, " k"], lmbda: float, constant: float | None) -> float:
    """Compute J = ½ Σ h (w − c)² + λ · Σ n ℓ [loss], with ideal lengths ℓ; for ``constant`` h, c are the plain means.

    For a constant h the part Σw² is left out, which no choice of clusters changes.
    """
    n, w, s0, s1, s2 = sums[sums[:, 0] > 0].T
    c = codebook[sums[:, 0] > 0]
    loss = s2 - 2 * c * s1 + c * c * s0 if constant is None else -constant * c * w
    return float(0.5 * loss.sum() + lmbda * (n @ ideal_length(n)))


def ecsq_curve(family: Family, groups: Groups, pruned: bool) -> Tabulated:
    """Compute the clusters at values of λ from coarse to fine, each started from its neighbours."""
    total = sum(c.prefix[-1] for c in groups.values())
    worst = 0.5 * float(total[3]) / float(total[0])
    lmbdas = np.geomspace(*LMBDA_RANGE, LMBDAS) * (worst if worst > 0 else 1.0)
    solved = {group: ecsq_hull(c, lmbdas) for group, c in groups.items()}
    return [family(float(x)) for x in lmbdas], [{g: s[i] for g, s in solved.items()} for i in range(len(lmbdas))]


ECSQ_METHOD = Method(
    make=ECSQ,
    labels=("ECSQ", "Hessian-weighted ECSQ"),
    quantize=quantize_clusters,
    curve=ecsq_curve,
    code_moves_clusters=False,
)
