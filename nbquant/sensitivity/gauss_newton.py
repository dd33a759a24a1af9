"""Exact diagonal of the generalized Gauss-Newton matrix."""

from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.loss import OutputLoss
from nbquant.sensitivity.per_sample import squared_gradient_sums
from nbquant.sensitivity.problem import Estimate, Problem


def gauss_newton(problem: Problem) -> Estimate:
    """Compute the diagonal of mean_n J_nᵀ (∇²ℓ_n) J_n, with one backward pass per column of a factor of ∇²ℓ_n.

    It equals the diagonal of the Hessian if the network is piecewise linear in each single weight: ReLU, max-pooling,
    batch norm in eval mode, no weight used twice in depth.

    Source: Schraudolph, "Fast curvature matrix-vector products", 2002; the layer formulas are those of Dangel et al.,
    "BackPACK" (arXiv:1912.10985), derived independently.
    """
    return squared_gradient_sums(problem, OutputLoss.columns, independent=False).mean()


GAUSS_NEWTON = Estimator(
    gauss_newton, "Gauss-Newton, exact", "Gauss-Newton diagonal, exact: the Hessian diagonal of ReLU networks"
)
