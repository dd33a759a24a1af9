"""Square the gradients of runs: by the formulas of layers, and by autograd for all other parameters."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nbquant.sensitivity.layers import squared_gradients
from nbquant.sensitivity.loss import Block
from nbquant.sensitivity.problem import Problem
from nbquant.sensitivity.taps import Run, Tap

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
) -> None:
    """Go back with every vector of the blocks; runs share the samples along the axes of their outputs."""
    parameters = [problem.parameters[name] for name in others]
    entries = sum(s.inputs[0].numel() for r in runs for s in r.sights if s.calls)
    step = max(1, _CHUNK // max(1, entries))
    for (sign, block), is_last in _marked(blocks):
        count = next(len(v) for v in block if v is not None)
        for first in range(0, count, step):
            chunk = [None if v is None else v[first : first + step] for v in block]
            back: list[list[list[Tensor | None]]] = []  # of each vector, run and tap
            for i in range(min(step, count - first)):
                back.append([])
                start = 0
                for r, outputs in zip(runs, attached, strict=True):
                    met = [k for k, sight in enumerate(r.sights) if sight.calls]
                    edges = [r.sights[k].output_edge for k in met]
                    keep = not (is_last and first + i == count - 1)  # the graph, for another vector
                    gradients = _gradients(outputs, [*edges, *parameters], chunk, i, axes, start, r.size, keep)
                    start += r.size
                    _square(squares, others, gradients[len(edges) :], sign)
                    own: list[Tensor | None] = [None] * len(taps)
                    for k, g in zip(met, gradients, strict=False):
                        own[k] = g
                    back[-1].append(own)
            for k, tap in enumerate(taps):
                _add_formula(
                    squares, tap, [(r, [vector[j][k] for vector in back]) for j, r in enumerate(runs)], k, sign
                )


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


def _add_formula(
    squares: dict[str, Tensor], tap: Tap, seen: Sequence[tuple[Run, Sequence[Tensor | None]]], k: int, sign: float
) -> None:
    met = [(r.sights[k], vectors) for r, vectors in seen if r.sights[k].calls and any(g is not None for g in vectors)]
    if not met:
        return
    inputs = tuple(
        torch.cat(parts) if isinstance(parts[0], Tensor) and len(parts) > 1 else parts[0]
        for parts in zip(*(sight.inputs for sight, _ in met), strict=True)
    )
    vectors = []
    for column in zip(*(own for _, own in met), strict=True):
        shape = next(g for g in column if g is not None)
        parts = [
            shape.new_zeros(len(s.inputs[0]), *shape.shape[1:]) if g is None else g
            for g, (s, _) in zip(column, met, strict=True)
        ]
        vectors.append(torch.cat(parts) if len(parts) > 1 else parts[0])
    g = torch.stack(vectors) if len(vectors) > 1 else vectors[0].unsqueeze(0)
    for short, square in squared_gradients(tap.layer, inputs, g, frozenset(tap.names)).items():
        squares[tap.names[short]].add_(square.to(squares[tap.names[short]].dtype), alpha=sign)
