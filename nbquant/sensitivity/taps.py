"""Forward hooks (taps) that keep a layer's input and output edge, for its squared gradients by formula."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from nbquant.sensitivity.attention import input_projection, separated
from nbquant.sensitivity.backward_pass import ordered, pull_back
from nbquant.sensitivity.batch import Axes, Batch, repeated
from nbquant.sensitivity.layers import is_supported, parameters_of, samples_of
from nbquant.sensitivity.layout import Layout, floating
from nbquant.sensitivity.problem import Problem


@dataclass
class Tap:
    """A tap on a layer with a formula.

    Attributes:
        layer: The layer.
        names: Its own chosen parameters covered by the formula: short -> full name.
        attention: The attention whose input projection the layer is; None for a layer of the model.
    """

    layer: nn.Module
    names: dict[str, str]
    attention: nn.MultiheadAttention | None = None


@dataclass
class Sight:
    """Record of a tap in one forward pass.

    Attributes:
        calls: Number of calls of the layer.
        inputs: Its positional and named arguments, in order.
        versions: Version counters of these tensors: a later in-place change would invalidate them.
        edge: Graph edge of its output; None if no gradient reaches it.
    """

    calls: int = 0
    inputs: tuple[Any, ...] = ()
    versions: tuple[int, ...] = ()
    edge: GradientEdge | None = None

    @property
    def output_edge(self) -> GradientEdge:
        """The graph edge of the output, if there is one."""
        assert self.edge is not None
        return self.edge

    def is_usable(self, tap: Tap, uses: Counter[int], size: int) -> bool:
        """Whether the layer was called once, on rows of samples, and its parameters were used nowhere else."""
        if self.calls != 1 or self.edge is None or not self.inputs or not isinstance(self.inputs[0], Tensor):
            return False
        if samples_of(tap.layer, self.inputs) != size:
            return False
        if any(t._version != v for t, v in zip(_tensors(self.inputs), self.versions, strict=True)):
            return False
        return all(uses[id(tap.layer.get_parameter(short))] <= 1 for short in tap.names)


@dataclass
class Run:
    """A forward pass.

    Attributes:
        output: The model's output.
        outputs: Its floating-point tensors, attached to the graph.
        size: Number of samples.
        sights: Record of each tap.
    """

    output: Any
    outputs: list[Tensor]
    size: int
    sights: list[Sight] = field(default_factory=list)


def run(problem: Problem, batch: Batch, taps: Sequence[Tap]) -> Run:
    """Run the model on a batch with taps."""
    with _looking(taps) as sights:
        output = problem.call(batch)
    return Run(output, floating(output), batch.size, sights)


@contextmanager
def _looking(taps: Sequence[Tap]) -> Iterator[list[Sight]]:
    sights = [Sight() for _ in taps]

    def keep(sight: Sight) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            sight.calls += 1
            sight.inputs = (*args, *kwargs.values())
            sight.versions = tuple(t._version for t in _tensors(sight.inputs))
            # The edge, not the tensor: an in-place activation would change the tensor's meaning.
            known = isinstance(output, Tensor) and output.requires_grad
            sight.edge = get_gradient_edge(output) if known else None

        return hook

    handles = []
    stack = ExitStack()
    try:
        for tap, sight in zip(taps, sights, strict=True):
            if tap.attention is not None:
                assert isinstance(tap.layer, nn.Linear)
                stack.enter_context(separated(tap.attention, tap.layer))
            # Before all other hooks, to see the layer's own output.
            handles.append(tap.layer.register_forward_hook(keep(sight), prepend=True, with_kwargs=True))
        yield sights
    finally:
        stack.close()
        for handle in handles:
            handle.remove()


def _tensors(inputs: Sequence[Any]) -> list[Tensor]:
    return [t for t in inputs if isinstance(t, Tensor)]


def find_taps(problem: Problem, batch: Batch, layout: Layout) -> list[Tap]:
    """Find the layers whose formulas hold, by running two samples of a batch."""
    names = {id(p): name for name, p in problem.parameters.items()}
    owners = Counter(id(p) for _, p in problem.model.named_parameters(remove_duplicate=False))
    taps = []
    for layer in problem.model.modules():
        own = {short: names[id(p)] for short, p in layer.named_parameters(recurse=False) if id(p) in names}
        own = {short: name for short, name in own.items() if short in parameters_of(layer)}
        if isinstance(layer, nn.MultiheadAttention) and (projection := input_projection(layer)) is not None:
            packed = {"weight": layer.in_proj_weight, "bias": layer.in_proj_bias}
            inner = {short: names[id(p)] for short, p in packed.items() if id(p) in names}
            if inner and all(owners[id(packed[short])] == 1 for short in inner):
                taps.append(Tap(projection, inner, layer))
        if own and is_supported(layer) and all(owners[id(layer.get_parameter(short))] == 1 for short in own):
            taps.append(Tap(layer, own))
    if not taps or batch.axes is None or layout.outputs is None:
        return []
    pair = batch.part(0, 2)
    if pair.size < 2:
        pair = Batch(repeated(pair.inputs, batch.axes), batch.target, 2, batch.axes)
    seen = run(problem, pair, taps)
    uses = count_uses(seen.outputs)
    chosen = [i for i, (tap, sight) in enumerate(zip(taps, seen.sights, strict=True)) if sight.is_usable(tap, uses, 2)]
    chosen = _of_own_rows(seen, chosen, layout.outputs)
    return [taps[i] for i in chosen]


def count_uses(outputs: Sequence[Tensor]) -> Counter[int]:
    """Count the uses of each parameter in the graph of some tensors."""
    uses: Counter[int] = Counter()
    for node in ordered(outputs):
        for following, _ in node.next_functions:
            if following is not None and hasattr(following, "variable"):
                uses[id(following.variable)] += 1
    return uses


def graph_size(outputs: Sequence[Tensor]) -> int:
    """Count the operations in the graph of some tensors."""
    return len(ordered(outputs))


def _of_own_rows(seen: Run, chosen: list[int], axes: Axes) -> list[int]:
    """Layers for which sample n of the outputs depends only on row n of the layer's output.

    A length of 2 may be chance (two words, first): the gradients of one sample's output must be in its row only.
    """
    good = list(chosen)
    for sample in (0, 1):
        if not good:
            break
        outputs, probes = [], []
        for z, axis in zip(seen.outputs, axes, strict=True):
            if axis is None or not z.requires_grad:
                continue
            probe = torch.zeros_like(z)
            own = probe.select(axis, sample)
            # Unequal, as a final softmax or normalisation would hide equal ones.
            own.copy_(torch.linspace(1, 2, own.numel(), device=z.device).cos().reshape(own.shape))
            outputs.append(z)
            probes.append(probe)
        if not outputs:
            return []
        edges = [seen.sights[i].output_edge for i in good]
        gradients = pull_back(outputs, edges, probes, keep_graph=True)
        good = [
            i
            for i, g in zip(good, gradients, strict=True)
            if g is not None and len(g) == 2 and g[sample].any() and not g[1 - sample].any()
        ]
    return good
