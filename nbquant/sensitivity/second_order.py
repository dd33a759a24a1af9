"""Gradients that can be differentiated again."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.problem import Problem


@contextmanager
def second_order() -> Iterator[None]:
    """Compute attention by its definition: the fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def loss_gradient(problem: Problem, batch: Batch, first: bool, create_graph: bool = True) -> tuple[list[Tensor], float]:
    """Compute the gradient of a batch's mean loss for every chosen parameter, and the number of terms it averages.

    Zeros where the loss does not depend on a parameter, or where no label of the batch counts.

    Args:
        problem: The problem.
        batch: The batch.
        first: Whether to check that the loss is a mean.
        create_graph: Whether the gradient is to be differentiated again.
    """
    output = problem.call(batch)
    loss, mass = problem.mean_loss(output, batch)
    if first:
        problem.check_mean(output, batch)
    parameters = list(problem.parameters.values())
    if not loss.requires_grad or not mass:
        return [torch.zeros_like(p, requires_grad=False) for p in parameters], mass
    gradients = list(
        torch.autograd.grad(loss, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )
    return gradients, mass
