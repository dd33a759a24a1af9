"""Column-by-column quantization with error feedback, on the quadratic loss of a layer (as in GPTQ)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from nbquant.kernels import dispatch
from nbquant.quantization.moments import LayerMoments, Shift

PANEL = 64  # columns whose errors are propagated together
NOISE = 0.1  # damping where there are as many samples as inputs
SHRINK = 0.5  # ridge in units of the inputs' mean energy, against fitting the noise of the calibration samples


Quadratic = tuple[Float[Tensor, "*g n n"], Float[Tensor, "*g n rows"], Float[Tensor, "*g rows"]]
"""G, weights and s of the loss ½ Σ_r s_r w_r G w_rᵀ."""


@dataclass(frozen=True, eq=False)
class Block:
    """A block of inputs whose errors compensate each other.

    Attributes:
        columns: Indices of the inputs, in the order of quantization: largest energy first.
        inputs: Damped G in that order, one matrix per group.
        factor: M, upper triangular, with G = M Mᵀ. With earlier columns fixed and later ones free,
            an error e of column j costs ½ s M_jj² e².
    """

    columns: Int64[np.ndarray, " n"]
    inputs: Float[Tensor, "groups n n"]
    factor: Float[Tensor, "groups n n"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer's quadratic loss ½ Σ_r s_r (t_r − ŵ_r) G (t_r − ŵ_r)ᵀ in the weights of its rows.

    With a bias that is quantized after the weights and compensates them, G is the inputs' covariance.

    Attributes:
        target: Weights t of least loss.
        blocks: Diagonal blocks of G.
        outputs: Damped s of each output.
        mean: E[x], by which each weight's error adds to the bias's; zero without a bias.
        bias: Target of the bias; None without a bias.
        zero: Mask of the weights that stay zero; None if there are none.
        stacked: For a stack of matrices: the column, in the coded matrix, of each input and output. The rows of
            that matrix are the groups.
    """

    target: Float[Tensor, "groups d rows"]
    blocks: tuple[Block, ...]
    outputs: Float[Tensor, "groups rows"]
    mean: Float[Tensor, "groups d"]
    bias: Float[Tensor, "groups rows"] | None
    zero: Bool[Tensor, "cols all_rows"] | None
    stacked: Int64[np.ndarray, "d rows"] | None = None

    @property
    def curvature(self) -> Float[Tensor, "groups d"]:
        """Compute M_jj² of each column: the cost of its squared error, over ½ s, when later columns compensate it."""
        diagonal = torch.empty(self.target.shape[:2])
        for block in self.blocks:
            diagonal[:, block.columns] = block.factor.diagonal(dim1=1, dim2=2).square()
        return diagonal

    def matrices(self) -> Iterator[Quadratic]:
        """Yield G, the targets and s of each block of inputs."""
        for block in self.blocks:
            yield block.inputs, self.target[:, block.columns], self.outputs

    def loss(self, value: Float[Tensor, "groups d rows"]) -> float:
        """Compute the loss ½ Σ_r s_r δ_r G δ_rᵀ of weights, with the best bias."""
        total = 0.0
        for block in self.blocks:
            off = self.target[:, block.columns] - value[:, block.columns]
            per_row = (off * (block.inputs @ off)).sum(1).double()
            total += 0.5 * float((per_row * self.outputs).sum())
        return total

    def bias_target(self, value: Float[Tensor, "groups d rows"]) -> Float[Tensor, " all_rows"]:
        """Compute the bias that absorbs the mean error of the weights."""
        assert self.bias is not None
        off = self.target - value
        return (self.bias + (self.mean[:, None] @ off)[:, 0]).flatten()


def problem_of(
    rows: Float[Tensor, "all_rows d"],
    bias: Float[Tensor, " all_rows"] | None,
    moments: LayerMoments,
    damping: float,
    output_damping: float,
    shift: Shift | None = None,
    pruned: bool = False,
) -> Problem:
    """Set up the quadratic loss of a layer.

    Args:
        rows: Weights of each output, one row per output.
        bias: Bias, if it is quantized after the weights.
        moments: Moments of the layer.
        damping: Addition to the diagonal of G, relative to its mean.
        output_damping: Addition to s, relative to its mean.
        shift: Change of the inputs by earlier layers; the targets compensate the resulting output error.
        pruned: Whether weights that are zero stay zero.
    """
    groups = len(moments.blocks[0])
    target = (
        rows.detach().cpu().float().reshape(groups, -1, moments.width).mT.clone(memory_format=torch.contiguous_format)
    )
    energy = moments.energy.cpu().double()
    grown, mean = torch.zeros_like(energy), torch.zeros_like(energy)
    if bias is not None:
        assert moments.mean is not None
        mean = moments.mean.cpu().double()
    free = None if bias is None else bias.detach().cpu().double().reshape(groups, -1).clone()
    missing = now = center = None
    if shift is not None:
        missing, now = shift.missing.cpu().float().clone(), shift.inputs.cpu().float()
        grown = torch.cat([part.double().square().mean(1) for part in now.split(PANEL, 2)], 1)
        grown = (grown - shift.energy.cpu().double()).clamp(min=0)
        if free is not None:  # the bias absorbs the means
            center = now.mean(1, keepdim=True)
            mean = mean + center[:, 0] - shift.mean.cpu().double()
            free += missing.double().mean(1)
            missing -= missing.mean(1, keepdim=True)
    blocks, first = [], 0
    for matrix in damped_blocks(moments, damping):
        part = slice(first, first + matrix.shape[1])
        first = part.stop
        if moments.mean is not None and bias is not None:
            of_part = moments.mean[:, part].cpu().double()
            matrix -= of_part[:, :, None] * of_part[:, None]
        matrix += torch.diag_embed(grown[:, part])
        if missing is not None and now is not None:
            seen = now[..., part] if center is None else now[..., part] - center[..., part]
            found = _compensate_shift(matrix, missing, seen, energy)
            target[:, part] += found
            if free is not None:
                free -= (mean[:, None, part] @ found.double())[:, 0]
        order = energy[:, part].sum(0).argsort(descending=True, stable=True)
        ordered = matrix[:, order][:, :, order]
        blocks.append(Block((order + part.start).numpy(), ordered.float(), upper_factor(ordered).float()))
    zero = None
    if pruned:
        zero = (rows == 0).cpu().T.contiguous()
    outputs = damped_outputs(moments, output_damping).float()
    return Problem(target, tuple(blocks), outputs, mean.float(), None if free is None else free.float(), zero)


def damped_outputs(moments: LayerMoments, damping: float) -> Float[Tensor, "groups rows"]:
    """Add a share of their mean to s of each output: rare outputs have hardly any gradient in a few samples."""
    s = moments.outputs.cpu().double().reshape(len(moments.blocks[0]), -1)
    return s + damping * s.mean()


def damped_blocks(moments: LayerMoments, damping: float) -> Iterator[Float[Tensor, "groups n n"]]:
    """Yield the blocks of G in float64 with damping of the diagonal, more where samples are few for the inputs."""
    widest = max(block.shape[1] for block in moments.blocks)
    places = torch.as_tensor(moments.places).cpu().double()
    # A group that saw no input has no noisy estimate to damp.
    noise = NOISE * widest / places.clamp(min=1) * ((places > 0) | (places.ndim == 0))
    ridge = (damping + noise) * moments.energy.cpu().double().mean(1)
    ridge = torch.where(ridge > 0, ridge, 1.0)  # inputs that are always zero leave their weights unchanged
    for block in moments.blocks:
        yield block.cpu().double() + ridge[:, None, None] * torch.eye(block.shape[1])


def upper_factor(matrix: Float[Tensor, "groups n n"]) -> Float[Tensor, "groups n n"]:
    """Compute M, upper triangular with positive diagonal, with M Mᵀ the matrix: a reversed Cholesky factor."""
    return torch.linalg.cholesky(matrix.flip(1, 2)).flip(1, 2)


def _compensate_shift(
    matrix: Float[Tensor, "groups n n"],
    missing: Float[Tensor, "groups places rows"],
    inputs: Float[Tensor, "groups places n"],
    energy: Float[Tensor, "groups d"],
) -> Float[Tensor, "groups n rows"]:
    """Weight change that reduces the output error, by ridge regression; the remaining error is updated in place.

    The samples are too few to fit all weights, so the ridge is large: at least half of the mean energy.
    """
    places = inputs.shape[1]
    ridge = SHRINK * max(1.0, inputs.shape[2] / places) * energy.mean(1)
    shrunk = matrix + ridge[:, None, None] * torch.eye(matrix.shape[1])
    found = torch.cholesky_solve((inputs.mT @ missing).double() / places, torch.linalg.cholesky(shrunk)).float()
    missing -= inputs @ found
    return found


def quantize_in_turn(
    problem: Problem,
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    restart: int,
    integers: Int32[np.ndarray, "cols all_rows"],
    ticks: Iterator[object],
) -> None:
    """Quantize column by column; each column compensates the errors of those before it.

    Args:
        problem: The quadratic loss.
        step: Step Δ [weight].
        price: λ times the bits of each level [loss].
        restart: Number of rows after which each path starts again.
        integers: Integers of the previous turn, which give the class of the level to the left; replaced.
        ticks: Advanced before each panel of columns; may raise to cancel.

    Source: Frantar et al. 2023 (GPTQ, arXiv:2210.17323); Chee et al. 2023 (QuIP, arXiv:2307.13304) for this form of it.
    """
    for block in problem.blocks:
        off = torch.zeros_like(problem.target[:, block.columns])
        for part in _panels(off.shape[1], ticks):
            carried = block.factor[:, : part.start, part].mT @ off[:, : part.start]
            within = block.factor[:, part, part]
            curvature = within.diagonal(dim1=1, dim2=2).square()
            _choose(problem, block, part, carried, within, curvature, off, step, price, restart, integers)


def sweep(
    problem: Problem,
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    restart: int,
    integers: Int32[np.ndarray, "cols all_rows"],
    ticks: Iterator[object],
) -> None:
    """Choose every column again given all others; loss plus price of the choices never rise.

    Args:
        problem: The quadratic loss.
        step: Step Δ [weight].
        price: λ times the bits of each level [loss].
        restart: Number of rows after which each path starts again.
        integers: Integers of the columns; replaced.
        ticks: Advanced before each panel of columns; may raise to cancel.

    Source: Behdin et al. 2023 (QuantEase, arXiv:2309.01885).
    """
    value = values_of(problem, integers, step)
    for block in problem.blocks:
        off = problem.target[:, block.columns] - value[:, block.columns]
        for part in _panels(off.shape[1], ticks):
            within = block.inputs[:, part, part]
            curvature = within.diagonal(dim1=1, dim2=2)
            carried = block.inputs[:, part] @ off - curvature[..., None] * off[:, part]
            _choose(problem, block, part, carried, within, curvature, off, step, price, restart, integers)


def values_of(
    problem: Problem, integers: Int32[np.ndarray, "cols all_rows"], step: float
) -> Float[Tensor, "groups d rows"]:
    """Compute the values of the weights, in the layout of the targets."""
    groups, d, rows = problem.target.shape
    if problem.stacked is not None:
        return (torch.from_numpy(integers[problem.stacked]) * step).float().permute(2, 0, 1)
    return (torch.from_numpy(integers) * step).float().reshape(d, groups, rows).transpose(0, 1)


def _panels(n: int, ticks: Iterator[object]) -> Iterator[slice]:
    for start in range(0, n, PANEL):
        next(ticks, None)
        yield slice(start, min(start + PANEL, n))


def _choose(
    problem: Problem,
    block: Block,
    part: slice,
    carried: Float[Tensor, "groups n rows"],
    within: Float[Tensor, "groups n n"],
    curvature: Float[Tensor, "groups n"],
    off: Float[Tensor, "groups d rows"],
    step: float,
    price: Float[np.ndarray, "2 neighbours 3 levels"],
    restart: int,
    integers: Int32[np.ndarray, "cols all_rows"],
) -> None:
    """Quantize one panel and add its errors to ``off``. In a stack, outputs are separate: paths run across matrices."""
    numbers = block.columns[part]
    zero = np.zeros((0, 0), np.uint8) if problem.zero is None else problem.zero.numpy().view(np.uint8)
    target, outputs = problem.target[:, numbers], 0.5 * problem.outputs
    pieces = [(slice(None), numbers)]
    if problem.stacked is not None:
        pieces = [(slice(o, o + 1), problem.stacked[numbers, o]) for o in range(target.shape[2])]
    for rows, columns in pieces:
        now, before = off[:, part, rows].contiguous(), carried[..., rows].contiguous()
        dispatch.compensate(
            target[..., rows], before, within, curvature, outputs[:, rows], now, step, price, columns, restart, zero,
            integers,
        )  # fmt: skip
        off[:, part, rows] = now
