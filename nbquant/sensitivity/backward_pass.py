"""A backward pass that delivers gradients of inner tensors as soon as they are known, rather than at its end."""

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

Taken = Callable[[int, Tensor], None]
"""Called with the index of an edge and its gradient, which is freed unless the callee keeps it."""


class BackwardPass:
    """A backward pass from outputs to some edges of their graph."""

    def __init__(self, outputs: Sequence[Tensor], edges: Sequence[GradientEdge], leaves: Sequence[Tensor] = ()) -> None:
        """Find the operations between them.

        Args:
            outputs: Outputs where it starts.
            edges: Graph edges whose gradients are requested.
            leaves: Parameters whose gradients are requested.
        """
        leads_on = _leading_to(outputs, {edge.node for edge in edges}, {id(p) for p in leaves})
        self._edges = edges
        # No other edge or leaf comes after these: autograd ends there.
        self._last = [k for k, edge in enumerate(edges) if edge.node not in leads_on]
        self._passed = [k for k, edge in enumerate(edges) if edge.node in leads_on]
        self._ends: list[Any] = [*(edges[k] for k in self._last), *leaves]

    def go(
        self, outputs: Sequence[Tensor], vectors: Sequence[Tensor], taken: Taken, keep_graph: bool
    ) -> list[Tensor | None]:
        """Compute Jᵀ vectors.

        Args:
            outputs: Outputs of the vectors.
            vectors: One vector per output.
            taken: Called with the gradients of the edges that are reached.
            keep_graph: Whether another pass follows.

        Returns:
            Gradients of the leaves; None where they are not reached.
        """
        if not outputs or not self._ends:
            return [None] * (len(self._ends) - len(self._last))
        with self._watched(taken):
            found = pull_back(outputs, self._ends, vectors, keep_graph)
        for k, g in zip(self._last, found, strict=False):
            if g is not None:
                taken(k, g)
        return list(found[len(self._last) :])

    @contextmanager
    def _watched(self, taken: Taken) -> Iterator[None]:
        def hook(k: int) -> Callable[[Sequence[Tensor | None]], None]:
            def hand_over(gradients: Sequence[Tensor | None]) -> None:
                g = gradients[self._edges[k].output_nr]
                if g is not None:
                    taken(k, g)

            return hand_over

        handles = [self._edges[k].node.register_prehook(hook(k)) for k in self._passed]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def pull_back(
    outputs: Sequence[Tensor], ends: Sequence[Any], vectors: Sequence[Tensor], keep_graph: bool
) -> tuple[Tensor | None, ...]:
    """Compute Jᵀ vectors at edges and leaves of the graph; None where they are not reached.

    As gradients of zᵀv: given v itself, torch imports sympy, which takes a second, to compare two shapes.
    """
    along = [(z * v).sum() for z, v in zip(outputs, vectors, strict=True)]
    return torch.autograd.grad(along, ends, retain_graph=keep_graph, allow_unused=True)


def ordered(outputs: Sequence[Tensor]) -> list[Any]:
    """Sort the operations of a graph topologically, without the leaves, from the outputs on."""
    found: list[Any] = []
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False) for output in outputs]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            found.append(node)
        elif node is not None and node not in seen and not hasattr(node, "variable"):
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions]
    return found[::-1]


def _leading_to(outputs: Sequence[Tensor], nodes: Set[Any], leaves: Set[int]) -> set[Any]:
    """Operations of a graph that lead to one of the nodes, or to a leaf."""
    found: set[Any] = set()
    for node in reversed(ordered(outputs)):
        for following, _ in node.next_functions:
            if following in nodes or following in found or id(getattr(following, "variable", None)) in leaves:
                found.add(node)
                break
    return found
