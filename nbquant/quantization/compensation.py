"""Columns of a layer quantized in turn, those still to come making up for the errors so far."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.quantization.moments import LayerMoments

BLOCK = 64  # columns whose errors are passed on together

Choice = Callable[[int, Float[Tensor, " rows"], Float[Tensor, " rows"]], Float[Tensor, " rows"]]
"""Values of a column from its number, what they should be, and what squared errors of them cost."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer's quadratic loss ½ Σ_r s_r (t_r − ŵ_r) G (t_r − ŵ_r)ᵀ, and what its columns cost one by one.

    Attributes:
        target: t: values of least loss, float64. A bias is the last column.
        inputs: G, damped; one for each group of rows.
        outputs: s.
        order: Columns in the order in which they are quantized: those with most energy first, a bias last.
        upper: U with G⁻¹ = Uᵀ U, rows and columns in that order. Once the columns before one are fixed and those
            behind it free, an error e of it costs ½ s e² / U_jj².
    """

    target: Float[Tensor, "rows d"]
    inputs: Float[Tensor, "groups d d"]
    outputs: Float[Tensor, " rows"]
    order: Int64[Tensor, " d"]
    upper: Float[Tensor, "groups d d"]

    @property
    def weight(self) -> Float[Tensor, "rows d"]:
        """½ s / U_jj²: what squared errors cost as columns are quantized in turn."""
        diagonal = self.upper.diagonal(dim1=1, dim2=2).repeat_interleave(self._rows, 0)
        return (0.5 * self.outputs[:, None] / diagonal.square())[:, torch.argsort(self.order)]

    def loss(self, value: Float[Tensor, "rows d"]) -> float:
        """½ Σ_r s_r δ_r G δ_rᵀ of values."""
        off = self._grouped(self.target - value)
        return 0.5 * float(((off @ self.inputs * off).sum(-1).flatten() * self.outputs).sum())

    @property
    def _rows(self) -> int:
        return len(self.target) // len(self.inputs)

    def _grouped(self, matrix: Tensor) -> Tensor:
        return matrix.unflatten(0, (len(self.inputs), self._rows))

    def in_turn(self, choose: Choice, ticks: Iterator[object]) -> None:
        """Quantize column by column; the error of each is passed on to those behind it.

        Args:
            choose: Quantizes a column.
            ticks: Advanced before each block of columns; may raise to cancel.

        Source: Hassibi and Stork 1993 (optimal brain surgeon); Frantar et al. 2023 (GPTQ, arXiv:2210.17323).
        """
        left = self._grouped(self.target[:, self.order].clone())
        weight, order = self.weight, self.order.tolist()
        for start in range(0, len(order), BLOCK):
            next(ticks, None)
            stop = min(start + BLOCK, len(order))
            errors = left.new_zeros(*left.shape[:2], stop - start)
            for j in range(start, stop):
                column = left[:, :, j]
                value = choose(order[j], column.flatten(), weight[:, order[j]])
                error = (column - self._grouped(value)) / self.upper[:, j, j, None]
                left[:, :, j + 1 : stop] -= error[..., None] * self.upper[:, j, None, j + 1 : stop]
                errors[:, :, j - start] = error
            left[:, :, stop:] -= errors @ self.upper[:, start:stop, stop:]

    def one_by_one(self, value: Float[Tensor, "rows d"], choose: Choice, ticks: Iterator[object]) -> None:
        """Choose every column anew for what all the others are; the loss and price of the choices never rise.

        Args:
            value: Values of all columns; those chosen take their place.
            choose: Quantizes a column.
            ticks: Advanced before each block of columns; may raise to cancel.

        Source: Behdin et al. 2023 (QuantEase, arXiv:2309.01885).
        """
        off = self._grouped(self.target - value)
        pull = off @ self.inputs
        order = self.order.tolist()
        for start in range(0, len(order), BLOCK):
            next(ticks, None)
            block = self.order[start : start + BLOCK]
            near, here = self.inputs[:, block][:, :, block], pull[:, :, block]
            moved = torch.zeros_like(here)
            for i, j in enumerate(order[start : start + BLOCK]):
                energy = near[:, i, i, None]
                best = self._grouped(value[:, j]) + here[:, :, i] / energy
                chosen = choose(j, best.flatten(), 0.5 * self.outputs * energy.repeat_interleave(self._rows, 0)[:, 0])
                moved[:, :, i] = self._grouped(chosen - value[:, j])
                here -= moved[:, :, i, None] * near[:, i, None, :]
                value[:, j] = chosen
            pull -= moved @ self.inputs[:, block]


def problem_of(columns: Float[Tensor, "rows d"], moments: LayerMoments, damping: float, free_bias: bool) -> Problem:
    """The quadratic loss of a layer.

    Args:
        columns: Weights of the rows, and behind them the bias if it is free.
        moments: Of the layer.
        damping: What is added to the diagonal of G, over its mean.
        free_bias: Whether the bias is quantized with the weights, as their last column.
    """
    d = columns.shape[1]
    inputs, cross = (m.to(columns.device)[:, :d, :d].double().clone() for m in (moments.inputs, moments.cross))
    weights = d - free_bias
    diagonal = torch.arange(weights, device=columns.device)
    energy = inputs[:, diagonal, diagonal]
    damped = damping * energy.mean(1, keepdim=True)
    damped = torch.where(damped > 0, damped, 1.0)  # inputs that are always zero leave weights where they are
    for m in (inputs, cross):
        m[:, diagonal, diagonal] += damped
    rows = columns.double().unflatten(0, (len(inputs), -1))
    if not torch.equal(inputs, cross):
        rows = torch.linalg.solve(inputs, rows @ cross, left=False)
    order = torch.cat([energy.sum(0).argsort(descending=True, stable=True), torch.arange(weights, d).to(diagonal)])
    sorted_inputs = inputs[:, order][:, :, order]
    upper = torch.linalg.cholesky(torch.linalg.inv(sorted_inputs), upper=True)
    outputs = moments.outputs.to(columns.device).double()
    return Problem(rows.flatten(0, 1), inputs, outputs, order, upper)
