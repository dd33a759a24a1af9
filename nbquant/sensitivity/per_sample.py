"""Mean over the samples of squared per-sample gradients, of any network.

Two ways, chosen for each layer by a trial on two samples. Where a layer is met once and has a formula
(:mod:`nbquant.sensitivity.layers`), hooks keep its input and one backward pass through the activations gives the
gradients at its output: no gradient of a weight is ever formed by autograd. Every other parameter (recurrent,
attention, tied, free ones) takes its gradient one sample at a time, vectorised where ``torch.func`` can.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from nbquant.sensitivity.batch import Batch, has_samples, sample_dims
from nbquant.sensitivity.layers import is_supported, squared_gradients
from nbquant.sensitivity.loss import Block
from nbquant.sensitivity.problem import Estimate, Problem, wide
from nbquant.substitute import call_with

Vectors = Callable[[Tensor, Any], Iterable[Block]]
"""From outputs and targets to signed vectors in output space: h = mean over samples of Σ sign · (Jᵀ vector)²."""

_CHUNK = 1 << 25  # entries of per-sample gradients held at once


@dataclass
class _Tap:
    """A layer with a formula, and what its hook saw in the last forward pass."""

    layer: nn.Module
    names: dict[str, str]  # of its own chosen parameters: short -> full
    calls: int = 0
    x: Tensor | None = None
    edge: GradientEdge | None = None

    @property
    def output_edge(self) -> GradientEdge:
        """The place of the output, where there is one."""
        assert self.edge is not None
        return self.edge


@dataclass
class _Route:
    taps: list[_Tap]
    others: list[str] = field(default_factory=list)
    vectorised: bool = True


def mean_squared_gradients(problem: Problem, vectors: Vectors) -> Estimate:
    """Mean over all samples of Σ_v sign_v · (J_nᵀ v_n)², J_n the Jacobian of a sample's output.

    Raises:
        TypeError: The output is no tensor.
        ValueError: The output has no dimension of samples, samples influence each other, or the loss is at fault.
    """
    total, samples = problem.zeros(), 0
    route: _Route | None = None
    for batch in problem:
        if route is None:
            route = _find_route(problem, batch)
        with _tapped(route.taps):
            output = problem.call(batch)
        _check_output(output, batch)
        z = output.detach().to(wide(output.dtype))
        problem.mean_loss(z, batch)
        if samples == 0:
            problem.check_mean(z, batch)
        samples += batch.size
        for sign, block in vectors(z, batch.target):
            _add_tapped(total, route.taps, output, sign, block.to(output.dtype))
            if route.others:
                _add_others(total, problem, route, batch, output, sign, block.to(output.dtype))
    return {name: h / samples for name, h in total.items()}, samples


def _check_output(output: Any, batch: Batch) -> None:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the model must return one tensor for this method, but it returned {type(output).__name__}: "
            'wrap it in a module that picks the output, or use method="hutchinson".'
        )
    if output.ndim < 2 or not has_samples(output, batch.size):
        raise ValueError(
            f"the model's output must have the {batch.size} samples along its first dimension and their outputs along "
            f"others, but its shape is {tuple(output.shape)}: wrap the model so that it has."
        )


@contextmanager
def _tapped(taps: list[_Tap]) -> Iterator[None]:
    """Let every tap keep its layer's input and the place of its output in the graph."""

    def keep(tap: _Tap) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            tap.calls += 1
            tap.x = args[0] if args else next(iter(kwargs.values()))
            # The edge, not the tensor: an in-place activation would change what the tensor stands for.
            tap.edge = get_gradient_edge(output) if output.requires_grad else None

        return hook

    handles = []
    try:
        for tap in taps:
            tap.calls, tap.x, tap.edge = 0, None, None
            # First of all hooks, to see what the layer itself gave.
            handles.append(tap.layer.register_forward_hook(keep(tap), prepend=True, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _find_route(problem: Problem, batch: Batch) -> _Route:
    """Try two samples, and see which layers the formulas hold for."""
    pair = batch.part(0, 2) if batch.size > 1 else batch.twice()
    names = {id(p): name for name, p in problem.parameters.items()}
    owners = Counter(id(p) for _, p in problem.model.named_parameters(remove_duplicate=False))
    taps = []
    for layer in problem.model.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and getattr(layer, "running_mean", None) is None:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                raise ValueError(
                    f"{type(layer).__name__} without running statistics mixes the samples of a batch, so there are no "
                    'per-sample gradients: use method="hutchinson".'
                )
            continue
        own = {short: names[id(p)] for short, p in layer.named_parameters(recurse=False) if id(p) in names}
        if own and is_supported(layer) and all(owners[id(layer.get_parameter(short))] == 1 for short in own):
            taps.append(_Tap(layer, own))
    with _tapped(taps):
        output = problem.call(pair)
    _check_output(output, pair)
    _check_independent(problem, pair, output.detach())
    uses = _count_uses(output)
    good = [tap for tap in taps if _is_met_once(tap, uses)]
    good = _with_samples_first(good, output)
    done = {name for tap in good for name in tap.names.values()}
    return _Route(good, [name for name in problem.parameters if name not in done])


def _check_independent(problem: Problem, pair: Batch, output: Tensor) -> None:
    """Refuse a network whose output for a sample depends on the others of the batch."""
    with torch.no_grad():
        alone = problem.call(pair.part(0, 1))
    scale = output.float().abs().amax().clamp(min=1e-30)
    gap = ((alone[0] - output[0]).float().abs().amax() / scale).item()
    if gap > 0.05:
        raise ValueError(
            f"the output for a sample changes by {gap:.0%} with the other samples of its batch, so there are no "
            'per-sample gradients: use method="hutchinson" or "adam".'
        )


def _count_uses(output: Tensor) -> Counter[int]:
    """How often each parameter enters the graph of ``output``."""
    uses: Counter[int] = Counter()
    seen, stack = set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None and hasattr(following, "variable"):
                uses[id(following.variable)] += 1
            else:
                stack.append(following)
    return uses


def _is_met_once(tap: _Tap, uses: Counter[int]) -> bool:
    if tap.calls != 1 or tap.edge is None or tap.x is None or not has_samples(tap.x, 2):
        return False
    if isinstance(tap.layer, nn.Linear | nn.LayerNorm) and tap.x.ndim < 2:
        return False
    return all(uses[id(tap.layer.get_parameter(short))] == 1 for short in tap.names)


def _with_samples_first(taps: list[_Tap], output: Tensor) -> list[_Tap]:
    """Those layers where sample n of the output depends on row n of the layer's output alone.

    A size of 2 may be chance (two words, first): the gradients of one sample's output have to be in its row only.
    """
    good = set(range(len(taps)))
    for sample in (0, 1):
        probe = torch.zeros_like(output)
        # Unequal, as equal ones are what a softmax or a normalisation at the end does not see.
        probe[sample] = torch.linspace(1, 2, output[0].numel(), device=output.device).cos().reshape(output[0].shape)
        edges = [taps[i].output_edge for i in sorted(good)]
        if not edges:
            break
        gradients = torch.autograd.grad(output, edges, probe, retain_graph=True, allow_unused=True)
        for i, g in zip(sorted(good), gradients, strict=True):
            if g is None or len(g) != 2 or not g[sample].any() or g[1 - sample].any():
                good.discard(i)
    return [tap for i, tap in enumerate(taps) if i in good]


def _add_tapped(total: dict[str, Tensor], taps: list[_Tap], output: Tensor, sign: float, block: Tensor) -> None:
    if not taps:
        return
    edges = [tap.output_edge for tap in taps]
    step = max(1, _CHUNK // max(1, sum(tap.x.numel() for tap in taps if tap.x is not None)))
    for start in range(0, len(block), step):
        passes = [torch.autograd.grad(output, edges, v, retain_graph=True) for v in block[start : start + step]]
        for tap, gradients in zip(taps, zip(*passes, strict=True), strict=True):
            assert tap.x is not None
            g = torch.stack(gradients) if len(gradients) > 1 else gradients[0].unsqueeze(0)
            squares = squared_gradients(tap.layer, tap.x, g, frozenset(tap.names))
            for short, square in squares.items():
                total[tap.names[short]].add_(square, alpha=sign)


def _add_others(
    total: dict[str, Tensor], problem: Problem, route: _Route, batch: Batch, output: Tensor, sign: float, block: Tensor
) -> None:
    if route.vectorised:
        try:
            squares = _vectorised(problem, route.others, batch, block)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError):
            route.vectorised = False  # recurrent layers, data-dependent control flow
    if not route.vectorised:
        squares = _one_by_one(problem, route.others, batch, block)
    for name, square in squares.items():
        total[name].add_(square, alpha=sign)


def _vectorised(problem: Problem, names: list[str], batch: Batch, block: Tensor) -> dict[str, Tensor]:
    values = {name: problem.parameters[name].detach() for name in names}
    sums = {name: torch.zeros_like(p, dtype=wide(p.dtype)) for name, p in values.items()}
    dims = sample_dims(batch.inputs, batch.size)

    def squares(inputs: Any, vectors: Tensor) -> dict[str, Tensor]:
        def forward(values: dict[str, Tensor]) -> Tensor:
            alone = Batch(_restored(inputs, dims), None, 1)
            named = {f"model.{name}": value for name, value in values.items()}
            return call_with(_Caller(problem), named, (alone,))[0]

        pull = torch.func.vjp(forward, values)[1]
        (gradients,) = torch.func.vmap(pull)(vectors)
        return {name: g.to(wide(g.dtype)).square().sum(0) for name, g in gradients.items()}

    count = max(1, sum(p.numel() for p in values.values()))
    vectors = max(1, min(len(block), _CHUNK // count))
    samples = max(1, _CHUNK // (count * vectors))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        for first in range(0, len(block), vectors):
            for start in range(0, batch.size, samples):
                part = batch.part(start, min(start + samples, batch.size))
                mapped = torch.func.vmap(squares, in_dims=(dims, 1), randomness="different")
                found = mapped(part.inputs, block[first : first + vectors, start : start + samples])
                for name, square in found.items():
                    sums[name] += square.sum(0)
    return sums


class _Caller(nn.Module):
    """The model as a module that is called with a batch."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.model = problem.model
        self.problem = problem

    def forward(self, batch: Batch) -> Tensor:
        return self.problem.call(batch)


def _restored(value: Any, dims: Any) -> Any:
    """Give the tensors that ``vmap`` took apart their first dimension back."""
    if isinstance(value, dict):
        return {key: _restored(item, dims[key]) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_restored(item, dim) for item, dim in zip(value, dims, strict=True)]
        return tuple(items) if isinstance(value, tuple) else items
    return value if dims is None else value.unsqueeze(0)


def _one_by_one(problem: Problem, names: list[str], batch: Batch, block: Tensor) -> dict[str, Tensor]:
    parameters = [problem.parameters[name] for name in names]
    sums = [torch.zeros_like(p, dtype=wide(p.dtype), requires_grad=False) for p in parameters]
    for n in range(batch.size):
        output = problem.call(batch.part(n, n + 1))
        if not output.requires_grad:
            continue
        for vector in block[:, n : n + 1]:
            gradients = torch.autograd.grad(output, parameters, vector, retain_graph=True, allow_unused=True)
            for total, g in zip(sums, gradients, strict=True):
                if g is not None:
                    total += (g.to_dense() if g.is_sparse else g).to(total.dtype).square()
    return dict(zip(names, sums, strict=True))
