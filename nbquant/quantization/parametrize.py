"""Trainable codebook look-ups, as torch parametrizations of a model's weights."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from nbquant.kernels import dispatch

CHUNK = 1 << 20  # gradients converted to float64 at a time


class Lookup(nn.Module):
    """A parametrization: each weight is the codebook value of its index; −1 is exactly zero.

    Args:
        codebook: Values of the group; the same Parameter in all look-ups of the group.
        assignment: Index of each weight's value, flattened.
        shape: Shape of the weight.
    """

    def __init__(self, codebook: nn.Parameter, assignment: Int[Tensor, " n"], shape: torch.Size) -> None:
        super().__init__()
        self.codebook = codebook
        self.assignment: Tensor
        self.register_buffer("assignment", assignment)
        self.shape = shape

    def forward(self, original: Float[Tensor, "0"]) -> Float[Tensor, "..."]:
        """Look up the weight, in the dtype of ``original``, which is empty."""
        return _Gather.apply(self.codebook.to(original.dtype), self.assignment).reshape(self.shape)

    def extra_repr(self) -> str:
        """Show levels and shape."""
        return f"{len(self.codebook)} levels, shape={tuple(self.shape)}"


class _Gather(torch.autograd.Function):
    """Values of a codebook by index; the transpose of :class:`_Sum`, so that derivatives of any order exist."""

    @staticmethod
    def forward(ctx: Any, codebook: Tensor, assignment: Tensor) -> Tensor:
        ctx.save_for_backward(assignment)
        ctx.levels = len(codebook)
        return dispatch.gather(codebook, assignment)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], *ctx.saved_tensors, ctx.levels), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, assignment: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(assignment)
        return sum_by_codeword(gradient, assignment, levels).to(gradient.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradients[0], *ctx.saved_tensors), None, None


def sum_by_codeword(
    gradient: Float[Tensor, "..."], assignment: Int[Tensor, " n"], levels: int
) -> Float[Tensor, " levels"]:
    """Sum over the members of each codeword, in float64; entries with index −1 are ignored.

    Args:
        gradient: Entries to sum, n of any shape, possibly sparse.
        assignment: Index of each entry's codeword.
        levels: Number of codewords.
    """
    flat = (gradient.to_dense() if gradient.is_sparse else gradient).reshape(-1)
    total = torch.zeros(1 + levels, dtype=torch.float64, device=flat.device)
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        total.index_add_(0, assignment[part].int() + 1, flat[part].double())
    return total[1:]


def movable(codebook: Float[Tensor, " k"], assignment: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Copy the indices, with −1 for codewords that are exactly zero: zeros stay zero in training."""
    zero = torch.nonzero(codebook == 0).reshape(-1).tolist()
    return assignment.masked_fill(assignment == zero[0], -1) if zero else assignment.clone()


def register_lookups(model: nn.Module, lookups: Mapping[str, Lookup]) -> None:
    """Replace a model's parameters by look-ups, with the parameters tied to them.

    Args:
        model: Changed in place.
        lookups: Look-ups by parameter name; if several names of a tied parameter are given, the last one counts.

    Raises:
        ValueError: A parameter of a recurrent layer.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    of_parameter = {id(parameters[name]): lookup for name, lookup in lookups.items()}
    for name, parameter in parameters.items():
        lookup = of_parameter.get(id(parameter))
        owner, _, own_name = name.rpartition(".")
        module = model.get_submodule(owner)
        if lookup is None or own_name not in module._parameters:  # already done, if a module has two names
            continue
        if isinstance(module, nn.RNNBase):
            raise ValueError(
                f"parameters must be read by name, but {name!r} is in a {type(module).__name__}, "
                "which keeps a list of its own: leave it out of the selection, or use apply() for a dense copy."
            )
        register_parametrization(module, own_name, lookup, unsafe=True)
    for parameter in parameters.values():
        if id(parameter) in of_parameter:
            # It gives the dtype, follows .to(), and becomes the weight again when the parametrization is removed.
            parameter.data = parameter.new_empty(0)


def look_up(
    codebook: nn.Parameter, value: Float[Tensor, " k"], assignment: Int[Tensor, " n"], like: Shaped[Tensor, "..."]
) -> Lookup:
    """Make a look-up in ``codebook`` that starts at ``value``, on the device and in the shape of a parameter."""
    return Lookup(codebook, movable(value, assignment).to(like.device), like.shape)
