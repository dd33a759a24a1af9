"""Squared gradients of runs: by the formulas of layers, and by autograd for all other parameters."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from nbquant.sensitivity.backward_pass import BackwardPass
from nbquant.sensitivity.layers import squared_gradients
from nbquant.sensitivity.loss import Block
from nbquant.sensitivity.problem import Problem
from nbquant.sensitivity.taps import Run, Tap

_CHUNK = 1 << 25  # entries of layers' inputs held for one pass over vectors


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
    """Propagate every vector of the blocks back; runs split the samples along the axes of their outputs.

    Each output gradient of a layer is squared as soon as autograd has it, and not kept until the others are known.
    The last pass through a run frees its graph and the inputs of its layers, so that a run can be used only once.

    Args:
        squares: Sums to add to.
        problem: The problem with the parameters.
        taps: Layers with formulas.
        others: Parameters without formulas.
        runs: Runs of consecutive samples.
        attached: Outputs of each run.
        blocks: Vectors in the outputs of a batch.
        axes: Sample dimension of each output; None if one run has them all.
        start: Index of the first sample.
    """
    parameters = [problem.parameters[name] for name in others]
    ways = [_BackwardPasses(taps, r, parameters) for r in runs]
    for (sign, block), is_last in _marked(blocks):
        count = next(len(v) for v in block if v is not None)
        position = start
        for r, outputs, way in zip(runs, attached, ways, strict=True):
            step = max(1, _CHUNK // max(1, way.entries))
            for i in range(count):
                keep = not (is_last and i == count - 1)  # the graph, for another vector
                starts, cotangents = _part(outputs, block, i, axes, position, r.size)
                gradients = way.go(squares, sign, starts, cotangents, (i + 1) % step == 0 or i == count - 1, keep)
                _square(squares, others, gradients, sign)
            position += r.size


class _BackwardPasses:
    """Backward passes through one run, past its taps.

    Attributes:
        entries: Entries of the inputs of all layers.
    """

    def __init__(self, taps: Sequence[Tap], run: Run, parameters: Sequence[Tensor]) -> None:
        self._met = [(tap, sight) for tap, sight in zip(taps, run.sights, strict=True) if sight.calls]
        self._back = BackwardPass(run.outputs, [sight.output_edge for _, sight in self._met], parameters)
        self.entries = sum(sight.inputs[0].numel() for _, sight in self._met)
        self._waiting: dict[int, list[Tensor]] = {}

    def go(
        self,
        squares: dict[str, Tensor],
        sign: float,
        outputs: Sequence[Tensor],
        vectors: Sequence[Tensor],
        is_last: bool,
        keep: bool,
    ) -> list[Tensor | None]:
        """Propagate one vector back.

        Args:
            squares: Sums to add to.
            sign: Sign of the vector.
            outputs: Outputs with a part of the vector.
            vectors: Its part in each.
            is_last: Whether to square it together with the waiting ones, or to wait for more.
            keep: Whether others follow.

        Returns:
            Gradients of the parameters.
        """

        def taken(k: int, g: Tensor) -> None:
            self._waiting.setdefault(k, []).append(g)
            if is_last:
                self._square(squares, sign, k)
                if not keep:
                    self._met[k][1].inputs = ()

        gradients = self._back.go(outputs, vectors, taken, keep)
        if is_last:  # the last vector may not reach everything that others have
            for k in list(self._waiting):
                self._square(squares, sign, k)
        return gradients

    def _square(self, squares: dict[str, Tensor], sign: float, k: int) -> None:
        tap, sight = self._met[k]
        found = self._waiting.pop(k)
        g = torch.stack(found) if len(found) > 1 else found[0].unsqueeze(0)
        for short, square in squared_gradients(tap.layer, sight.inputs, g, frozenset(tap.names)).items():
            squares[tap.names[short]].add_(square.to(squares[tap.names[short]].dtype), alpha=sign)


def _marked(blocks: Iterable[Block]) -> Iterator[tuple[Block, bool]]:
    """Blocks, and whether each is the last."""
    found = iter(blocks)
    block = next(found, None)
    while block is not None:
        following = next(found, None)
        yield block, following is None
        block = following


def _part(
    outputs: Sequence[Tensor],
    vectors: Sequence[Tensor | None],
    number: int,
    axes: Sequence[int | None] | None,
    start: int,
    size: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of one run for which a vector has entries, and these entries."""
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
    return starts, cotangents


def _square(squares: dict[str, Tensor], names: Sequence[str], gradients: Sequence[Tensor | None], sign: float) -> None:
    for name, g in zip(names, gradients, strict=True):
        if g is not None:
            g = (g.to_dense() if g.is_sparse else g).to(squares[name].dtype)
            squares[name].addcmul_(g, g, value=sign)
