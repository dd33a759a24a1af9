"""Error feedback for weights whose first axis is the input, with trellis paths along the inputs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.quantization.compensation import Quadratic, damped_blocks, damped_outputs, upper_factor
from nbquant.quantization.moments import LayerMoments

PANEL = 32  # inputs decided together by a path


@dataclass(frozen=True, eq=False)
class AlongProblem:
    """A layer's quadratic loss ½ Σ_c s_c δ_c G δ_cᵀ in the columns of its weight.

    Attributes:
        target: Weights.
        factors: M with G = M Mᵀ for blocks of consecutive inputs, from the first row to the last.
        outputs: Damped s of each column, for each block.
        zero: Mask of the weights that stay zero; no rows if there are none.
    """

    target: Float[Tensor, "d cols"]
    factors: tuple[Float[Tensor, "n n"], ...]
    outputs: tuple[Float[Tensor, " cols"], ...]
    zero: UInt8[np.ndarray, "d_or_0 cols"]

    @property
    def mean_curvature(self) -> float:
        """Compute the mean of ½ s M_jj² over the weights."""
        pairs = zip(self.factors, self.outputs, strict=True)
        total = sum(float(m.diagonal().double().square().sum() * s.double().sum()) for m, s in pairs)
        return 0.5 * total / self.target.numel()

    def matrices(self) -> Iterator[Quadratic]:
        """Yield G, the targets and s of each block of inputs."""
        first = 0
        for factor, s in zip(self.factors, self.outputs, strict=True):
            yield factor @ factor.mT, self.target[first : first + len(factor)], s
            first += len(factor)

    def loss(self, value: Float[Tensor, "d cols"]) -> float:
        """Compute the loss ½ Σ_c s_c δ_c G δ_cᵀ."""
        total, first = 0.0, 0
        for factor, s in zip(self.factors, self.outputs, strict=True):
            off = (self.target - value)[first : first + len(factor)]
            total += 0.5 * float(((factor.mT @ off).square().sum(0).double() * s).sum())
            first += len(factor)
        return total


def along_problem(
    weight: Float[Tensor, "d cols"], moments: LayerMoments, damping: float, output_damping: float, pruned: bool
) -> AlongProblem:
    """Set up the quadratic loss of a layer; see :func:`nbquant.quantization.compensation.problem_of`."""
    groups = len(moments.blocks[0])
    s = damped_outputs(moments, output_damping).float()
    blocks = list(damped_blocks(moments, damping))
    factors = tuple(upper_factor(block[g : g + 1])[0].float() for g in range(groups) for block in blocks)
    outputs = tuple(s[g] for g in range(groups) for _ in blocks)
    target = weight.detach().cpu().float().contiguous()
    zero = (target == 0).numpy().view(np.uint8) if pruned else np.zeros((0, 0), np.uint8)
    return AlongProblem(target, factors, outputs, zero)


def quantize_along(
    problem: AlongProblem,
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    restart: int,
    integers: Int32[np.ndarray, "d cols"],
    ticks: Iterator[object],
) -> None:
    """Quantize from the first input to the last; each input compensates the errors of those before it.

    Args:
        problem: The quadratic loss.
        step: Step Δ [weight].
        price: λ times the bits of each level [loss].
        restart: Number of rows after which each path starts again.
        integers: Output: the integers.
        ticks: Advanced before each panel of inputs; may raise to cancel.
    """
    cols = problem.target.shape[1]
    state, above, first = np.zeros(cols, np.uint8), np.zeros(cols, np.uint8), 0
    for factor, s in zip(problem.factors, problem.outputs, strict=True):
        off = torch.zeros(len(factor), cols)
        for begin in range(0, len(factor), PANEL):
            next(ticks, None)
            part = slice(begin, min(begin + PANEL, len(factor)))
            rows = slice(first + part.start, first + part.stop)
            zero = problem.zero[rows] if len(problem.zero) else problem.zero
            dispatch.compensate_along(
                problem.target[rows], factor[: part.start, part].mT @ off[: part.start], factor[part, part], 0.5 * s,
                off[part], step, price, rows.start, restart, state, above, zero, integers[rows],
            )  # fmt: skip
        first += len(factor)
