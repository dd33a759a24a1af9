"""Second moments of what layers see, with the layers before them as they are or as they were quantized."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.hooked import require_parameters
from nbquant.losses import Loss
from nbquant.progress import Progress
from nbquant.quantization.moments import LayerMoments
from nbquant.sensitivity.layers import windows
from nbquant.sensitivity.layout import floating
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import Problem, undisturbed
from nbquant.substitute import call_with

PLACES = 1 << 17  # of all samples, that moments are taken of; more say hardly anything new …
PLACES_OF_EACH = 32  # … beside so many for each input
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False, repr=False)
class ModelCalibration:
    """A network with inputs that show what its layers see; see :class:`nbquant.quantization.moments.Calibration`.

    Attributes:
        model: The network; it is read each time that moments are asked for.
        inputs: Batches of inputs, on the model's device.
        outputs: Mean squared gradients s of each layer's outputs [loss/output²], in the order of execution.
        calls: How often a layer is met in a run.
        samples: Number of samples.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    outputs: Mapping[str, Float[Tensor, " rows"]]
    calls: Mapping[str, int]
    samples: int
    _unchanged: dict[str, LayerMoments] = field(default_factory=dict)

    def moments(self, layer: str, changed: Mapping[str, Float[Tensor, "..."]]) -> LayerMoments:
        """Moments of a layer, with other values of some parameters of the layers before it.

        Args:
            layer: One that ``outputs`` has.
            changed: Parameter name to value. Moments without any are kept, so that they are computed once.
        """
        if not changed and layer in self._unchanged:
            return self._unchanged[layer]
        module = self.model.get_submodule(layer)
        inputs = cross = torch.zeros(())
        seen = 0
        with undisturbed(self.model, ()), torch.no_grad():
            for batch in self.inputs:
                was = torch.cat(self._seen(layer, {}, batch), 1)
                now = torch.cat(self._seen(layer, changed, batch), 1) if changed else was
                inputs = inputs + (now.transpose(1, 2) @ now).double()
                cross = cross + (was.transpose(1, 2) @ now).double() if changed else inputs
                seen += was.shape[1]
        found = LayerMoments(inputs / seen, cross / seen, self.outputs[layer], module.bias is not None)
        if not changed:
            self._unchanged[layer] = found
        return found

    def _seen(self, layer: str, changed: Mapping[str, Tensor], batch: Any) -> list[Float[Tensor, "groups places d"]]:
        """What each row of a layer's weights is multiplied by, each time that the layer is met in a run."""
        module, found = self.model.get_submodule(layer), []
        wanted = max(PLACES, PLACES_OF_EACH * module.get_parameter("weight")[0].numel())
        most = -(-wanted // (len(self.inputs) * self.calls[layer]))

        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            found.append(unfolded(module, args[0], most))
            if len(found) == self.calls[layer]:
                raise _Enough

        handle = module.register_forward_pre_hook(hook)
        args, kwargs = ((), dict(batch)) if isinstance(batch, Mapping) else (batch, {})
        try:
            call_with(self.model, changed, args, kwargs)
        except _Enough:
            pass
        finally:
            handle.remove()
        return found

    def __repr__(self) -> str:
        return f"ModelCalibration({len(self.outputs)} layers, {self.samples:,} samples)"


class _Enough(Exception):  # noqa: N818  (nothing is wrong: the layers behind need not run)
    pass


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    draws: int = 1,
    seed: int = 0,
    progress: Progress = True,
) -> ModelCalibration:
    """What error feedback needs of a network: inputs to run, and how much the loss minds errors of each output.

    The curvature of the loss in a layer's weights is E[g gᵀ ⊗ x xᵀ] in the Gauss-Newton sense, with x the layer's input
    and g the gradients of its output under drawn labels. It is taken as a product of E[x xᵀ] and the diagonal s of
    E[g gᵀ], as if gradients of different places and outputs went together by chance only. Linear layers and
    convolutions are looked at, but for those that share their weights with another layer. The model is left as it was
    found; the inputs are kept.

    Args:
        model: Any network.
        batches: Pairs (inputs, target), as for :func:`nbquant.sensitivity`. A few samples for each input of a layer
            are enough: places of a convolution count as samples.
        loss: Loss of a batch from (output, target), the mean over its samples; cross-entropy if None.
        draws: Random draws a sample.
        seed: Of those draws.
        progress: See :data:`nbquant.progress.Progress`.

    Raises:
        ValueError: A weight that a hook computes, no linear layer or convolution, no batches, or a loss that is at
            fault.
        nbquant.progress.Cancelled: By ``progress``.

    Source: Martens and Grosse 2015 (K-FAC); Grosse and Martens 2016 for convolutions.
    """
    require_parameters(model)
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) in KINDS and module.weight.is_floating_point() and users[id(module.weight)] == 1
    }
    if not layers:
        raise ValueError(
            "the model must have a linear layer or a convolution with weights of its own, but has none: select without "
            "a calibration."
        )
    parameters = {f"{name}.weight": module.weight for name, module in layers.items()}
    problem = Problem(model, parameters, batches, loss or functional.cross_entropy, draws, seed, None, progress)
    sums: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    inputs, samples, mass, generator = [], 0, 0.0, problem.generator()
    with undisturbed(model, parameters.values()):
        for batch in problem:
            with _watched(layers) as met:
                output = problem.call(batch)
            outputs = floating(output)
            loss_at = problem.output_loss(output, outputs, None, batch)
            problem.check(loss_at.recorded, batch, loss_at.mass)
            samples, mass = samples + batch.size, mass + loss_at.mass
            inputs.append(batch.inputs)
            for name, _ in met:
                sums.setdefault(name, torch.zeros((), dtype=torch.float64))
                calls[name] = sum(name == other for other, _ in met)
            for sign, block in loss_at.draws(draws, generator):
                pairs = [(z, v[0]) for z, v in zip(outputs, block, strict=True) if v is not None and z.requires_grad]
                if pairs:
                    ends = [end for _, end in met]
                    gradients = torch.autograd.grad(
                        [z for z, _ in pairs],
                        ends,
                        [v.to(z.dtype) for z, v in pairs],
                        retain_graph=True,
                        allow_unused=True,
                    )
                    for (name, _), g in zip(met, gradients, strict=True):
                        if g is not None:
                            sums[name] = sums[name] + sign * _squares(layers[name], g)
    known = {name: (total / mass).clamp(min=0) for name, total in sums.items() if total.ndim}
    return ModelCalibration(model, tuple(inputs), known, calls, samples)


@contextmanager
def _watched(layers: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, Tensor]]]:
    """Names and outputs of the layers as they are met."""
    met: list[tuple[str, Tensor]] = []
    names = {layer: name for name, layer in layers.items()}
    handles = [
        layer.register_forward_hook(lambda layer, args, output: met.append((names[layer], output)))
        for layer in layers.values()
    ]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


def _squares(layer: nn.Module, g: Float[Tensor, "batch ..."]) -> Float[Tensor, " rows"]:
    g = g.to(wide(g.dtype))
    rows = g.reshape(-1, g.shape[-1]) if isinstance(layer, nn.Linear) else g.flatten(2).transpose(1, 2).flatten(0, 1)
    return rows.square().sum(0).double()


def unfolded(
    layer: nn.Module, x: Float[Tensor, "batch ..."], most: int | None = None
) -> Float[Tensor, "groups places d"]:
    """What a row of weights is multiplied by at every place of every sample; behind it a 1 where there is a bias.

    Args:
        layer: A linear layer or a convolution.
        x: Its input.
        most: Number of places to take at the most, the same ones of every input of one shape; None is all.
    """
    x = x.detach().to(wide(x.dtype))
    if isinstance(layer, nn.Linear):
        seen = x.reshape(1, -1, x.shape[-1])
    else:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        view = windows(layer, x).flatten(3 + len(layer.kernel_size)).flatten(2, -2)  # [B, groups, d, places]
        seen = view.permute(1, 0, 3, 2).flatten(1, 2)
    if most is not None and most < seen.shape[1]:
        chosen = torch.randperm(seen.shape[1], generator=torch.Generator().manual_seed(0))[:most]
        seen = seen[:, chosen.to(seen.device)]
    return functional.pad(seen, (0, 1), value=1.0) if layer.bias is not None else seen
