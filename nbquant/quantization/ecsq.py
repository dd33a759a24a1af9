"""Entropy-constrained scalar quantization (ECSQ) with a sensitivity for every weight."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.fitting import fit_quantizer
from nbquant.quantization.histogram import Cells
from nbquant.quantization.optimal_ecsq import ecsq_clusters, ideal_length
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Coding, Weights, check_options, check_positive

POLISH_PASSES = 8
POLISH_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ECSQ:
    """Minimises J = D + λR, with a_i = argmin_j ½ h_i (w_i − c_j)² + λ ℓ_j and ℓ_j = −log2 p_j.

    Cells depend on h and are not intervals of w; the decoder needs no h. Clusters that become empty die.

    Attributes:
        lmbda: Lagrange multiplier λ [loss/bit]; larger gives fewer bits.
        weighted: Weigh by sensitivity, or by its mean (λ keeps its unit).
        coding: "huffman" or "fixed" codeword lengths of the result; the iteration uses the ideal lengths.
        per_layer: A codebook for each layer at the same λ, or one for the whole selection.

    Raises:
        ValueError: ``lmbda`` not above 0.

    Source: Choi et al. 2017 (arXiv:1612.01543), section 5.2 and algorithm 1; Chou, Lookabaugh, Gray 1989.
    """

    method: ClassVar[str] = "ecsq"
    parameter: ClassVar[str] = "lmbda"
    needs_rows: ClassVar[bool] = True

    lmbda: float
    weighted: bool = True
    coding: Coding = "huffman"
    per_layer: bool = False

    def __post_init__(self) -> None:
        check_positive("lmbda", self.lmbda, "loss/bit")
        check_options(self.weighted, self.coding, self.per_layer)

    def clusters(self, cells: Cells, near: Clusters | None = None) -> Clusters:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`."""
        return ecsq_clusters(cells, self.lmbda, near)

    def assign(
        self, weight: Float[Tensor, " n"], mass: Float[Tensor, " n"], start: Clusters
    ) -> tuple[Float[np.ndarray, " k"], Int64[Tensor, " n"]]:
        """Go on from the histogram's solution by the same iteration on the weights, until J stops falling."""
        codebook, length = start.codebook, ideal_length(start.counts)
        least = np.inf
        for _ in range(POLISH_PASSES):
            assignment = dispatch.assign(weight, mass, codebook, length, self.lmbda)
            n, _, s0, s1 = dispatch.cluster_sums(weight, mass, assignment, len(codebook)).T
            used = n > 0
            codebook = centres(s0, s1, codebook)
            cost = lagrangian(weight, mass, codebook, assignment, n, self.lmbda)
            if cost < least:
                best = codebook, assignment
            if not cost < least * (1 - POLISH_TOLERANCE):
                break
            least = cost
            order = np.argsort(codebook[used], kind="stable")
            codebook, length = codebook[used][order], ideal_length(n[used][order])
        return best

    def fit(self, weight: Weights, sensitivity: Float[Tensor, "..."] | None = None) -> Quantized:
        """See :class:`~nbquant.quantization.quantizer.Quantizer`."""
        return fit_quantizer(self, weight, sensitivity)


def lagrangian(
    weight: Float[Tensor, " n"],
    mass: Float[Tensor, " n"],
    codebook: Float[np.ndarray, " k"],
    assignment: Int64[Tensor, " n"],
    counts: Float[np.ndarray, " k"],
    lmbda: float,
) -> float:
    """J = ½ mean(h (w − c)²) + λ·(entropy of the assignment) [loss/weight]."""
    error = weight.double() - weight.new_tensor(codebook, dtype=weight.double().dtype)[assignment]
    share = counts[counts > 0] / counts.sum()
    return float(0.5 * (mass.double() * error**2).mean()) - lmbda * float((share * np.log2(share)).sum())
