"""Shared trainable codebook values: written into a network's weights, and updated by the weights' gradients."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nbquant.kernels import dispatch
from nbquant.quantization.parametrize import movable, sum_by_codeword
from nbquant.quantization.quantized import Quantized


@dataclass(frozen=True, eq=False)
class Member:
    """A parameter of the network whose weights are values of a group.

    Attributes:
        parameter: The parameter.
        group: Name of its group.
        assignment: Index of each weight's value; −1 where it stays zero.
        stored: Stored dtype of its values; the parameter's may differ.
    """

    parameter: nn.Parameter
    group: str
    assignment: Int[Tensor, " n"]
    stored: torch.dtype


@dataclass(frozen=True, eq=False)
class SharedValues:
    """The values of all groups, as separate parameters, in float32 or wider.

    The network's weights are plain parameters that the values are written into. So any module works, even one that
    bypasses parametrizations, as recurrent layers do.

    Attributes:
        values: Values by group name.
        members: Parameters they are written into; tied parameters once.
        weight: Factor on each value's summed gradient.
        mean_members: Number of trained weights over the number of trained values.
    """

    values: dict[str, nn.Parameter]
    members: tuple[Member, ...]
    weight: dict[str, Float[Tensor, " k"]]
    mean_members: float

    @staticmethod
    def of(quantized: Quantized, network: nn.Module, mean: bool) -> "SharedValues":
        """Set up the values of a quantized selection, and a network in which only the quantized weights train.

        Raises:
            ValueError: All values are zero.
        """
        network.requires_grad_(False)
        # Of tied parameters the last name counts, as in apply().
        named = {id(parameter): (name, parameter) for name, parameter in quantized.parameters_of(network).items()}
        members = []
        for name, parameter in named.values():
            group, tensor = quantized.group_of(name), quantized.tensors[name]
            assignment = movable(quantized.codebooks[group].value, tensor.assignment).to(parameter.device)
            members.append(Member(parameter, group, assignment, tensor.codebook.dtype))
            parameter.requires_grad_()
        values, weight = {}, {}
        moving, moved = 0, 0
        for group, book in quantized.codebooks.items():
            of_group = [member for member in members if member.group == group]
            device = of_group[0].parameter.device if of_group else book.value.device
            wide = torch.promote_types(book.value.dtype, torch.float32)
            values[group] = nn.Parameter(book.value.to(device, wide, copy=True))
            count = torch.zeros(len(book.value), dtype=torch.float64, device=device)
            for m in of_group:
                ones = torch.ones((), device=m.parameter.device).expand(len(m.assignment))
                count += sum_by_codeword(ones, m.assignment, len(count)).to(device)
            moving, moved = moving + int(count.count_nonzero()), moved + int(count.sum())
            weight[group] = 1 / count.clamp(min=1) if mean else torch.ones_like(count)
        if not moving:
            raise ValueError("at least one value other than zero is required, but all are zero: nothing can be trained")
        return SharedValues(values, tuple(members), weight, moved / moving)

    @property
    def trained(self) -> Iterable[nn.Parameter]:
        """The values' parameters, without empty groups."""
        return [value for value in self.values.values() if len(value)]

    @torch.no_grad()
    def write(self) -> None:
        """Write the values into the weights, rounded as stored."""
        for m in self.members:
            value = self.values[m.group].to(m.stored).to(m.parameter.device, m.parameter.dtype)
            m.parameter.copy_(dispatch.gather(value, m.assignment).view_as(m.parameter))

    @torch.no_grad()
    def collect(self) -> None:
        """Move the gradients of the weights to the values."""
        total = {group: torch.zeros_like(weight) for group, weight in self.weight.items()}
        for m in self.members:
            if m.parameter.grad is not None:
                own = total[m.group]
                own += sum_by_codeword(m.parameter.grad, m.assignment, len(own)).to(own.device)
                m.parameter.grad = None
        for group, value in self.values.items():
            value.grad = (total[group] * self.weight[group]).to(value.dtype)

    def snapshot(self) -> dict[str, Float[Tensor, " k"]]:
        """Copy the values."""
        return {group: value.detach().clone() for group, value in self.values.items()}
