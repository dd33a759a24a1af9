"""Square the gradients of runs: by the formulas of layers, and by autograd for all other parameters."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nbquant.sensitivity.layers import squared_gradients
from nbquant.sensitivity.loss import Block
from nbquant.sensitivity.problem import Problem
from nbquant.sensitivity.taps import Run, Tap, ordered

_CHUNK = 1 << 25  # entries of layers' inputs that are held for one pass over vectors


def add_squares(
    squares: dict[str, Tensor],
    problem: Problem,
    taps: Sequence[Tap],
    others: Sequence[str],
    runs: Sequence[Run],
    attached: Sequence[Sequence[Tensor]],
    blocks: Iterable[Block],
    axes: Sequence[int | None] | None,
    start: int = 0,
) -> None:
    """Go back with every vector of the blocks; runs share the samples along the axes of their outputs.

    Each gradient of a layer's output is squared as soon as autograd has it, and not kept until the others are known.
    The last pass through a run frees its graph and what was seen of its layers, so that a run can be used once only.

    Args:
        squares: Sums to add to.
        problem: Whose parameters they are of.
        taps: Layers with formulas.
        others: Parameters without.
        runs: Of consecutive samples.
        attached: Outputs of each run.
        blocks: Vectors of the outputs of a batch.
        axes: Dimension of each output that counts the samples; None if one run has them all.
        start: Number of the first sample.
    """
    parameters = [problem.parameters[name] for name in others]
    ways = [_Way(taps, r, parameters) for r in runs]
    for (sign, block), is_last in _marked(blocks):
        count = next(len(v) for v in block if v is not None)
        position = start
        for r, outputs, way in zip(runs, attached, ways, strict=True):
            step = max(1, _CHUNK // max(1, way.entries))
            for first in range(0, count, step):
                stop = min(first + step, count)
                for i in range(first, stop):
                    keep = not (is_last and i == count - 1)  # the graph, for another vector
                    way.ready, way.keep = i == stop - 1, keep
                    with way.watched(squares, sign):
                        gradients = _gradients(outputs, way.ends, block, i, axes, position, r.size, keep)
                    way.take(squares, sign, gradients[: len(way.last)])
                    _square(squares, others, gradients[len(way.last) :], sign)
            position += r.size


class _Way:
    """The way back through one run, past its taps.

    Attributes:
        last: Taps behind which the way leads to no other tap or parameter; autograd returns their gradients.
        ends: Where it leads to.
        entries: Entries of the inputs of all layers.
        ready: Whether the vector at hand is the last one to wait for, before gradients are squared.
        keep: Whether other vectors follow.
    """

    def __init__(self, taps: Sequence[Tap], run: Run, parameters: Sequence[Tensor]) -> None:
        self._taps, self._sights = taps, run.sights
        met = [k for k, sight in enumerate(run.sights) if sight.calls]
        leads_on = _leading_to(run.outputs, {run.sights[k].output_edge.node for k in met}, {id(p) for p in parameters})
        self.last = [k for k in met if run.sights[k].output_edge.node not in leads_on]
        self._passed = [k for k in met if run.sights[k].output_edge.node in leads_on]
        self.ends = [*(run.sights[k].output_edge for k in self.last), *parameters]
        self.entries = sum(run.sights[k].inputs[0].numel() for k in met)
        self.ready = self.keep = True
        self._waiting: dict[int, list[Tensor]] = {}

    @contextmanager
    def watched(self, squares: dict[str, Tensor], sign: float) -> Iterator[None]:
        """Take the gradients of the taps on the way while autograd passes them."""

        def taken(k: int) -> Callable[[Sequence[Tensor | None]], None]:
            place = self._sights[k].output_edge.output_nr
            return lambda gradients: self._take(squares, sign, k, gradients[place])

        handles = [self._sights[k].output_edge.node.register_prehook(taken(k)) for k in self._passed]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, squares: dict[str, Tensor], sign: float, gradients: Sequence[Tensor | None]) -> None:
        """Take the gradients of the last taps, and square what no gradient of the last vector reached."""
        for k, g in zip(self.last, gradients, strict=True):
            self._take(squares, sign, k, g)
        if self.ready:
            for k in list(self._waiting):
                self._take(squares, sign, k, None)

    def _take(self, squares: dict[str, Tensor], sign: float, k: int, g: Tensor | None) -> None:
        waiting = self._waiting.setdefault(k, [])
        if g is not None:
            waiting.append(g)
        if not self.ready:
            return
        del self._waiting[k]
        tap, sight = self._taps[k], self._sights[k]
        if waiting:
            vectors = torch.stack(waiting) if len(waiting) > 1 else waiting[0].unsqueeze(0)
            found = squared_gradients(tap.layer, sight.inputs, vectors, frozenset(tap.names))
            for short, square in found.items():
                squares[tap.names[short]].add_(square.to(squares[tap.names[short]].dtype), alpha=sign)
        if not self.keep:
            sight.inputs = ()


def _leading_to(outputs: Sequence[Tensor], nodes: Set[Any], leaves: Set[int]) -> set[Any]:
    """Operations of a graph behind which one of the nodes, or a leaf, is met."""
    found: set[Any] = set()
    for node in reversed(ordered(outputs)):
        for following, _ in node.next_functions:
            if following in nodes or following in found or id(getattr(following, "variable", None)) in leaves:
                found.add(node)
                break
    return found


def _marked(blocks: Iterable[Block]) -> Iterator[tuple[Block, bool]]:
    """Blocks, and whether each is the last."""
    found = iter(blocks)
    block = next(found, None)
    while block is not None:
        following = next(found, None)
        yield block, following is None
        block = following


def _gradients(
    outputs: Sequence[Tensor],
    ends: Sequence[Any],
    vectors: Sequence[Tensor | None],
    number: int,
    axes: Sequence[int | None] | None,
    start: int,
    size: int,
    keep: bool,
) -> list[Tensor | None]:
    """Jᵀ vector of one run."""
    starts, cotangents = [], []
    for k, (z, v) in enumerate(zip(outputs, vectors, strict=True)):
        if v is None or not z.requires_grad:
            continue
        vector = v[number]
        axis = axes[k] if axes is not None else None
        if axis is not None:
            vector = vector.narrow(axis, start, size)
        if vector.numel() != z.numel():
            raise ValueError(
                f"outputs of {size} samples must have {vector.numel()} entries, as those of a whole batch do, but have "
                f"{z.numel()}: pass one sample a batch."
            )
        starts.append(z)
        cotangents.append(vector.reshape(z.shape).to(z.dtype))
    if not starts or not ends:
        return [None] * len(ends)
    return list(torch.autograd.grad(starts, ends, cotangents, retain_graph=keep, allow_unused=True))


def _square(squares: dict[str, Tensor], names: Sequence[str], gradients: Sequence[Tensor | None], sign: float) -> None:
    for name, g in zip(names, gradients, strict=True):
        if g is not None:
            g = (g.to_dense() if g.is_sparse else g).to(squares[name].dtype)
            squares[name].addcmul_(g, g, value=sign)
