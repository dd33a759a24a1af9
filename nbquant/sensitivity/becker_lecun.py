"""The paper's diagonal: second derivatives back-propagated layer by layer, without off-diagonal terms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.estimator import Estimator
from nbquant.sensitivity.layout import Layout, sized
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import Estimate, Problem

_ADVICE = 'it supports chains of layers only: use method="gauss_newton" or "gauss_newton_sampled".'
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Compared in lower case and without underscores, so that nn.ReLU, F.relu, torch.relu_ and Tensor.relu are equal.
_ELEMENTWISE = {
    *("relu", "relu6", "leakyrelu", "tanh", "sigmoid", "logsigmoid", "gelu", "silu", "elu", "celu", "selu", "softplus"),
    *("softsign", "hardtanh", "hardsigmoid", "hardswish", "mish", "sin", "cos", "exp", "square", "tanhshrink", "clamp"),
}
_SELECTING = {
    *("flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "unflatten", "pad"),
    *("identity", "dropout", "dropout1d", "dropout2d", "dropout3d", "zeropad2d", "getitem"),
    *("maxpool1d", "maxpool2d", "maxpool3d", "adaptivemaxpool1d", "adaptivemaxpool2d"),
}
_AVERAGING = {"avgpool1d", "avgpool2d", "avgpool3d", "adaptiveavgpool1d", "adaptiveavgpool2d"}


@dataclass(frozen=True)
class _Step:
    """One operation of the chain: y = run(x)."""

    label: str
    kind: str
    run: Callable[[Tensor], Tensor]
    layer: nn.Module | None = None


def becker_lecun(problem: Problem) -> Estimate:
    """Back-propagate s = diag ∂²ℓ/∂y² with the gradient g, keeping only the diagonal at every layer.

    A linear map y = Wx + b gives h_W = s x², h_b = s and s ← (W²)ᵀ s (summed over places where W is shared); an
    activation z = f(a) gives s ← f′(a)² s + f″(a) g. Exact for one linear layer, approximate beyond: it drops
    the coupling of units that share an input.

    Raises:
        ValueError: The network is not a chain of linear, convolution, batch norm, activation, pooling and reshaping;
            names the first unsupported operation.

    Source: Becker & Le Cun, "Improving the convergence of back-propagation learning with second order methods", 1988.
    """
    total, samples, counted = problem.zeros(), 0, 0.0
    layout = Layout()
    names = {id(p): name for name, p in problem.parameters.items()}
    inner = getattr(problem.model, "_orig_mod", problem.model)  # of a compiled model
    model = nn.Sequential(inner)  # so that a network that is a single layer contains it
    graph = _trace(model)
    for batch in sized(problem, layout):
        steps, values = _run(graph, model, batch)
        z = values[-1].to(wide(values[-1].dtype))
        axes = (layout.outputs[0] or 0,) if layout.outputs else None
        loss = problem.output_loss(z, [z], axes, batch)
        problem.check(loss.recorded, batch, loss.mass)
        if samples == 0:
            problem.check_mean(z, batch)
        samples, counted = samples + batch.size, counted + loss.mass
        if not loss.mass:
            continue
        (g,) = (slope * loss.mass for slope in loss.gradient())
        (s,) = loss.diagonal()
        for step, x, y in zip(reversed(steps), reversed(values[:-1]), reversed(values[1:]), strict=True):
            if step.layer is not None and step.kind in ("linear", "norm"):
                for p, h in _parameters(step, x, s):
                    if id(p) in names:
                        total[names[id(p)]] += h
            s, g = _backward(step, x, y, s, g)
    return {name: h / (counted or 1.0) for name, h in total.items()}, samples


def _trace(model: nn.Sequential) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:  # raised by the model's own code on a symbolic value
        raise ValueError(
            f"becker_lecun must trace the order of the layers, but {type(model[0]).__name__} cannot be traced "
            f"({type(error).__name__}: {error}); {_ADVICE}"
        ) from error


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value.clone() if isinstance(value, Tensor) else value  # an in-place layer may follow
        return value


def _run(graph: fx.GraphModule, model: nn.Module, batch: Batch) -> tuple[list[_Step], list[Tensor]]:
    """The chain from input to output, and the values before, between and after its steps."""
    if not isinstance(batch.inputs, Tensor):
        raise ValueError(
            f"becker_lecun must have one input tensor, but inputs are {type(batch.inputs).__name__}; {_ADVICE}"
        )
    recorder = _Recorder(graph)
    with torch.no_grad():
        recorder.run(batch.inputs)
    values = recorder.values
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    node, chain = output.args[0], []
    if not isinstance(node, fx.Node):
        raise ValueError(f"becker_lecun must have one output tensor, but the model returns several; {_ADVICE}")
    while node.op != "placeholder":
        sources = [n for n in node.all_input_nodes if isinstance(values[n], Tensor)]
        if len(sources) != 1:
            raise ValueError(
                f"becker_lecun does not support {_label(node, model)}, which joins {len(sources)} tensors; {_ADVICE}"
            )
        chain.append((node, sources[0]))
        node = sources[0]
    chain.reverse()
    steps = [_step(node, source, values, model) for node, source in chain]
    return steps, [values[chain[0][1]], *(values[node] for node, _ in chain)] if chain else [values[node]]


def _label(node: fx.Node, model: nn.Module) -> str:
    if node.op == "call_module":
        name = str(node.target).partition(".")[2]  # without that of the wrapper
        return f"{type(model.get_submodule(str(node.target))).__name__} {name!r}"
    return f"{_name(node, model)!r} (node {node.name!r})"


def _name(node: fx.Node, model: nn.Module) -> str:
    if node.op == "call_module":
        name = type(model.get_submodule(str(node.target))).__name__
    elif node.op == "call_method":
        name = str(node.target)
    else:  # the functional poolings are dispatchers, all of one name
        pools = (
            pool for pool in ("max_pool1d", "max_pool2d", "max_pool3d") if node.target is getattr(functional, pool)
        )
        name = next(pools, getattr(node.target, "__name__", str(node.target)))
    return name.lower().replace("_", "")


def _step(node: fx.Node, source: fx.Node, values: dict[fx.Node, Any], model: nn.Module) -> _Step:
    layer = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    name, label = _name(node, model), _label(node, model)
    if isinstance(layer, _LINEAR) and type(layer) in _LINEAR:
        kind = "linear"
    elif isinstance(layer, _NORMS) and layer.running_mean is not None:
        kind = "norm"
    elif name in _ELEMENTWISE or (name in ("mul", "truediv", "add", "sub") and _is_scaled(node)):
        kind = "elementwise"
    elif name in _AVERAGING:
        kind = "averaging"
    elif name in _SELECTING:
        kind = "selecting"
    else:
        raise ValueError(f"becker_lecun does not support {label}; {_ADVICE}")

    def run(x: Tensor) -> Tensor:
        if layer is not None:
            return layer(x)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: x if n is source else values[n])
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return _Step(label, kind, run, layer)


def _is_scaled(node: fx.Node) -> bool:
    return all(isinstance(arg, fx.Node | int | float) for arg in node.args)


def _parameters(step: _Step, x: Tensor, s: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    """Σ_n h of the layer's own parameters."""
    layer: Any = step.layer
    x = x.to(s.dtype)
    if step.kind == "norm":
        x_hat = functional.batch_norm(x, layer.running_mean.to(s.dtype), layer.running_var.to(s.dtype), eps=layer.eps)
        places = [d for d in range(s.ndim) if d != 1]
        found = {"weight": (s * x_hat.square()).sum(places), "bias": s.sum(places)}
        return [(p, found[short]) for short, p in layer.named_parameters(recurse=False)]
    squared, own = _squared(layer, s.dtype)
    y = torch.func.functional_call(layer, squared, (x.square(),))
    found = dict(zip(own, torch.autograd.grad(y, list(squared.values()), s), strict=True))
    return [(p, found[short]) for short, p in layer.named_parameters(recurse=False)]


def _squared(layer: nn.Module, dtype: torch.dtype) -> tuple[dict[str, Tensor], list[str]]:
    """A copy of the layer with squared weights: applied to x², its backward pass propagates s."""
    own = dict(layer.named_parameters(recurse=False))
    return {name: p.detach().to(dtype).square().requires_grad_() for name, p in own.items()}, list(own)


def _backward(step: _Step, x: Tensor, y: Tensor, s: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """(s, g) at the input of a step, from those at its output."""
    leaf = x.detach().to(s.dtype).requires_grad_()
    s, g = s.reshape(y.shape), g.reshape(y.shape)
    if step.kind in ("linear", "norm"):
        assert step.layer is not None
        # y is affine in x: its derivative at any point, once with the weights and once with their squares
        if step.kind == "norm":
            layer: Any = step.layer
            slope = (layer.running_var.to(s.dtype) + layer.eps).rsqrt()
            slope = slope if layer.weight is None else slope * layer.weight.detach().to(s.dtype)
            slope = slope.reshape(1, -1, *([1] * (x.ndim - 2)))
            return slope.square() * s, slope * g
        plain = {name: p.detach().to(s.dtype) for name, p in step.layer.named_parameters(recurse=False)}
        squared, _ = _squared(step.layer, s.dtype)
        (g_in,) = torch.autograd.grad(torch.func.functional_call(step.layer, plain, (leaf,)), leaf, g)
        (s_in,) = torch.autograd.grad(torch.func.functional_call(step.layer, squared, (leaf,)), leaf, s)
        return s_in, g_in
    out = step.run(leaf.clone())  # the step may work in place
    if step.kind == "elementwise":
        (slope,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
        bend = torch.zeros_like(slope)
        if slope.requires_grad:
            (bend,) = torch.autograd.grad(slope.sum(), leaf, materialize_grads=True, allow_unused=True)
        slope = slope.detach()
        return slope.square() * s + bend * g, slope * g
    (g_in,) = torch.autograd.grad(out, leaf, g, retain_graph=True)
    (s_in,) = torch.autograd.grad(out, leaf, s * _entry(step, x) if step.kind == "averaging" else s)
    return s_in, g_in


def _entry(step: _Step, x: Tensor) -> float:
    """The common entry a = 1/count of an average: (a²)ᵀ s = a · aᵀ s.

    Windows are boxes, so looking along every side of the output is enough.
    """
    probe = torch.zeros_like(x[:1]).requires_grad_()
    y = step.run(probe)
    found = set()
    for dim in range(2, y.ndim):
        for place in range(y.shape[dim]):
            index = [0, 0, *(place if d == dim else 0 for d in range(2, y.ndim))]
            weights = torch.autograd.grad(y[tuple(index)], probe, retain_graph=True)[0]
            found.update(weights[weights != 0].unique().tolist())
    if len(found) != 1:
        raise ValueError(f"becker_lecun does not support windows of unequal size in {step.label}; {_ADVICE}")
    return found.pop()


BECKER_LECUN = Estimator(
    becker_lecun, "Becker & Le Cun", "Becker & Le Cun: the paper's back-propagated diagonal, sequential nets"
)
