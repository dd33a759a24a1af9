"""Calibration for error feedback: second moments of layer inputs, and sensitivities of layer outputs."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.nn.utils import parametrize

from nbquant.hooked import require_parameters
from nbquant.losses import Loss, record
from nbquant.progress import Progress
from nbquant.quantization.moments import LayerMoments, Part
from nbquant.required import MODULE, require
from nbquant.sensitivity.backward_pass import BackwardPass
from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.gram import PLACES, PLACES_OF_EACH, Gram, block_widths, some_places
from nbquant.sensitivity.in_turn import ModelCalibration, before_quantizing, some_inputs
from nbquant.sensitivity.layout import floating, sized
from nbquant.sensitivity.loss import OutputLoss, loss_inside
from nbquant.sensitivity.problem import Problem, undisturbed
from nbquant.sensitivity.recurrent import unrolled
from nbquant.sensitivity.uses import Use, Watch
from nbquant.sensitivity.weight_views import Weights, attention_chunks

TOLD = 0.05  # share of weights left out above which a warning is issued


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    draws: int = 1,
    seed: int = 0,
    progress: Progress = True,
) -> ModelCalibration:
    """Calibrate a network for error feedback: second moments of layer inputs, and sensitivities of layer outputs.

    In the Gauss-Newton sense, the curvature of the loss in a layer's weights is E[g gᵀ ⊗ x xᵀ], with x the layer's
    input and g random gradients of its output whose second moments are the loss's curvature there. It is approximated
    by the product of E[x xᵀ] and the diagonal s of E[g gᵀ], as if gradients of different places and outputs were
    uncorrelated.

    Weights are found by the functions that use them: linear, bilinear, convolutions and transposed convolutions, matrix
    products (so transformers' ``Conv1D``), the projections of attention, recurrent layers and cells, which run step by
    step here, stacks of matrices used one by one or all at once, such as experts, and embedding tables, whose
    curvature is diagonal. A weight used by any other function, such as a recurrent layer's on packed sequences, or
    without gradient, is named in ``left_out``, and in a warning if such weights exceed 5 %; it
    gets no error feedback. The model is restored; some of the inputs are kept.

    Args:
        model: Any network.
        batches: Pairs (inputs, target), as for :func:`nbquant.sensitivity`. A few samples per input of a layer
            are enough: places of a convolution count as samples. With fewer, moments are damped more; with less than
            one, ``few_places`` and the repr name the layer.
        loss: Loss of a batch from (output, target), the mean over its samples; cross-entropy if None.
        draws: Number of random draws per sample.
        seed: Seed of the draws.
        progress: See :data:`nbquant.progress.Progress`.

    Raises:
        ValueError: A weight computed by a hook, no weight supported by error feedback, no batches, or an invalid loss.
        nbquant.progress.Cancelled: By ``progress``.

    Source: Martens and Grosse 2015 (K-FAC); Grosse and Martens 2016 for convolutions.
    """
    require("model", model, nn.Module, MODULE)
    require_parameters(model)
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    matrices = {name: p for name, p in parameters.items() if p.ndim > 1 and p.numel()}
    if not matrices:
        raise ValueError(
            "the model must have a weight matrix, such as that of a linear layer or a convolution, but has none: "
            "select without a calibration."
        )
    problem = Problem(model, parameters, batches, loss or functional.cross_entropy, draws, seed, None, progress)
    seen = _Seen(model, matrices, _length(batches))
    kept: list[Batch] = []
    mass, generator = 0.0, problem.generator()
    with undisturbed(model, parameters.values()), unrolled(model), parametrize.cached():
        seen.look_for({**matrices, **_unchanged_by_parametrization(model, parameters)})
        for batch in sized(problem):
            outputs, found = _outputs_and_loss(problem, batch, seen)
            problem.check(found.recorded, batch, found.mass)
            kept.append(Batch(batch.inputs, None, batch.size, batch.axes))
            if not found.mass:
                continue
            mass += found.mass
            for sign, block in found.draws(draws, generator):
                seen.add_gradients(outputs, sign, [None if v is None else v[0] for v in block])
            seen.forget_run()
            del outputs, found  # free the graph before there is another
    return seen.calibration(kept, mass)


def _outputs_and_loss(problem: Problem, batch: Batch, seen: "_Seen") -> tuple[list[Tensor], OutputLoss]:
    """Run the network on a batch: its outputs, in the graph, and the loss as a function of them."""
    output = seen.run(problem, batch)
    outputs = [z for z in floating(output) if z.ndim]
    found = problem.output_loss(output, outputs, None, batch)
    if found.is_elsewhere:
        recorded = record(lambda: problem.loss(seen.run(problem, batch), batch.target))
        inner = loss_inside(recorded, batch.size)
        if inner is not None:
            return list(inner.z), inner
    return outputs, found


def _length(batches: Iterable[Any]) -> int:
    """Number of batches, or a guess if it is unknown."""
    try:
        return max(len(batches), 1)  # type: ignore[arg-type]
    except TypeError:
        return 16


class _Kind(NamedTuple):
    """How a weight is used; see :class:`nbquant.sensitivity.uses.Use`."""

    along: bool
    groups: int
    stacked: bool


class _Seen:
    """Statistics of the uses of each weight so far."""

    def __init__(self, model: nn.Module, matrices: Mapping[str, Tensor], batches: int) -> None:
        self._model, self._matrices, self._batches = model, matrices, batches
        self._chunks = attention_chunks(model)
        self._watched: Weights
        self._kinds: dict[str, _Kind] = {}
        self._grams: dict[str, Gram] = {}
        self._squares: dict[str, Tensor] = {}
        self._tables: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._mixed: set[str] = set()
        self._met: list[tuple[Use, GradientEdge]] = []
        self._visits = 0.0
        self._stacks = _stacks(model, matrices)
        self._widths = {
            along: block_widths({n: _shape(p, along, n in self._stacks) for n, p in matrices.items()})
            for along in (False, True)
        }

    def look_for(self, weights: Mapping[str, Tensor]) -> None:
        self._watched = Weights(weights, self._chunks)

    def run(self, problem: Problem, batch: Batch) -> Any:
        """Run the network on a batch, and record all inputs of weights."""
        self._met = []
        with Watch(self._watched, self._before, self._after):
            return problem.call(batch)

    def forget_run(self) -> None:
        self._met = []

    def _before(self, use: Use) -> None:
        weight = self._matrices[use.weight]
        self._visits += use.count * weight.numel() * (use.within.stop - use.within.start) / use.groups
        if use.rows is not None:
            rows, squares = self._tables.get(use.weight, (torch.zeros_like(use.rows), None))
            self._tables[use.weight] = rows + use.rows, squares
            return
        kind = _Kind(use.along, use.groups, use.stacked)
        if self._kinds.setdefault(use.weight, kind) != kind:
            self._mixed.add(use.weight)
            return
        width = self._widths[use.along][use.weight]
        if use.stacked != (use.weight in self._stacks):
            width = block_widths({"": _shape(weight, use.along, use.stacked)})[""]
        gram = self._grams.setdefault(use.weight, Gram(use.groups, width))
        most = -(-max(PLACES, PLACES_OF_EACH * width) // self._batches)
        with torch.no_grad():
            index = some_places(use.count, most, weight.device)
            gram.add(use.seen, index, use.within, whole=use.within == slice(0, use.groups))

    def _after(self, use: Use, output: Tensor) -> None:
        # The edge, not the tensor: an in-place activation would change the tensor's meaning.
        if output.requires_grad:
            self._met.append((use, get_gradient_edge(output)))

    def add_gradients(self, outputs: Sequence[Tensor], sign: float, vectors: Sequence[Tensor | None]) -> None:
        pairs = [(z, v.to(z.dtype)) for z, v in zip(outputs, vectors, strict=True) if v is not None and z.requires_grad]
        if not self._met or not pairs:
            return
        back = BackwardPass(outputs, [edge for _, edge in self._met])
        back.go([z for z, _ in pairs], [v for _, v in pairs], lambda k, g: self._square(self._met[k][0], sign, g), True)

    def _square(self, use: Use, sign: float, g: Tensor) -> None:
        squares = sign * use.squares(g).double()
        if use.rows is not None:
            rows, known = self._tables[use.weight]
            self._tables[use.weight] = rows, squares if known is None else known + squares
            return
        total = self._squares.setdefault(use.weight, squares.new_zeros(_outputs(use, self._matrices[use.weight])))
        each = len(total) // use.groups
        total[use.within.start * each : use.within.stop * each] += squares

    def calibration(self, kept: Sequence[Batch], mass: float) -> ModelCalibration:
        samples = sum(batch.size for batch in kept)
        parts, outputs, moments, diagonals = {}, {}, {}, {}
        biases = _biases(self._model, self._matrices)
        for name, kind in self._kinds.items():
            if name not in self._squares or name in self._mixed:
                continue
            key = name.removesuffix(".weight")
            s = (self._squares[name] / mass).clamp(min=0)
            bias = biases.get(name)
            found = self._grams[name].moments(s, bias is not None and not kind.along)
            if name in self._tables:
                table = self._table(name, mass)
                if table is not None:
                    found = _with_table(found, *table)
            parts[key] = Part(name, None if kind.along else bias, kind.along, kind.groups, kind.stacked)
            outputs[key], moments[key] = found.outputs, found
        for name in self._tables:
            table = self._table(name, mass)
            if table is not None and name not in self._kinds:
                diagonals[name] = table
        left_out = self._left_out({*(part.weight for part in parts.values()), *diagonals})
        total = sum(p.numel() for p in self._model.parameters())
        share = sum(self._matrices[name].numel() for name in left_out) / total
        if share > TOLD:
            warnings.warn(
                f"{len(left_out)} of {len(self._matrices)} weight matrices, {share:.0%} of the weights, get no error "
                f"feedback: {', '.join(f'{name} ({why})' for name, why in left_out.items())}. They are quantized by "
                "their sensitivity alone.",
                stacklevel=3,
            )
        visits = self._visits / sum(p.numel() for p in self._matrices.values())
        inputs = some_inputs(kept, samples, visits)
        unquantized = before_quantizing(self._model, parts, inputs)
        return ModelCalibration(
            self._model, inputs, outputs, parts, left_out, share, samples, diagonals, moments, unquantized
        )

    def _table(self, name: str, mass: float) -> tuple[Tensor, Tensor] | None:
        """Frequency of each row in the look-ups, and squared gradients of each column."""
        rows, squares = self._tables[name]
        if squares is None:
            return None
        return rows / rows.sum().clamp(min=1), (squares / mass).clamp(min=0).cpu()

    def _left_out(self, known: set[str]) -> dict[str, str]:
        found = {}
        for name in self._matrices:
            if name in known or (len(self._matrices[name]) == 1 and name not in self._kinds):
                continue  # a single row is a vector, such as a class token
            owner = type(self._model.get_submodule(name.rpartition(".")[0])).__name__
            if ".parametrizations." in name:
                why = "behind a parametrization: torch.nn.utils.parametrize.remove_parametrizations makes it a weight"
            elif name in self._mixed:
                why = f"{owner}, used in more ways than one"
            elif name in self._kinds or name in self._tables:
                why = f"{owner}, no gradient reaches it"
            else:
                why = f"{owner}, its inputs are not seen"
            found[name] = why
        return found


def _stacks(model: nn.Module, matrices: Mapping[str, Tensor]) -> set[str]:
    """Weights that may be stacks of matrices: three axes, and owned by no layer of torch's."""
    layers = (nn.modules.conv._ConvNd, nn.Bilinear)
    owners = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    return {n for n, p in matrices.items() if p.ndim == 3 and not isinstance(owners.get(id(p)), layers)}


def _shape(weight: Tensor, along: bool, stacked: bool) -> tuple[int, int, int]:
    """Groups, rows and inputs, as far as the weight alone determines them."""
    if stacked:
        groups, *matrix = weight.shape
        rows, d = matrix[::-1] if along else matrix
        return groups, rows, d
    return (1, weight[0].numel(), len(weight)) if along else (1, len(weight), weight[0].numel())


def _outputs(use: Use, weight: Tensor) -> int:
    if use.stacked:
        return use.groups * weight.shape[2 if use.along else 1]
    return use.groups * weight[0].numel() if use.along else len(weight)


def _biases(model: nn.Module, matrices: Mapping[str, Tensor]) -> dict[str, str]:
    """Biases by their weight, without those shared by several modules."""
    names = {id(p): name for name, p in model.named_parameters()}
    users: dict[int, int] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            users[id(p)] = users.get(id(p), 0) + 1
    found = {}
    for module in model.modules():
        for short, weight in module.named_parameters(recurse=False):
            bias = getattr(module, short.replace("weight", "bias"), None)
            if names.get(id(weight)) not in matrices or not isinstance(bias, nn.Parameter) or bias is weight:
                continue
            if users[id(bias)] == 1 and bias.shape == weight.shape[:1]:
                found[names[id(weight)]] = names[id(bias)]
    return found


def _unchanged_by_parametrization(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that a parametrization passes unchanged, by the name of the stored parameter."""
    found = {}
    for name, module in model.named_modules():
        for short in getattr(module, "parametrizations", {}) if parametrize.is_parametrized(module) else ():
            stored = f"{name}.parametrizations.{short}.original".removeprefix(".")
            value = getattr(module, short)
            if stored in parameters and torch.equal(value, parameters[stored]):
                found[stored] = value
    return found


def _with_table(moments: LayerMoments, rows: Tensor, columns: Tensor) -> LayerMoments:
    """Moments of a matrix that is also an embedding table: the product nearest to the sum of both curvatures.

    It has the sum's traces over rows and over columns.
    """
    s, blocks = moments.outputs.cpu(), moments.blocks
    mass = float(s.sum())
    energy = float(moments.energy.double().sum())
    total = mass * energy + float(columns.sum())
    whole = mass + 1.0  # the frequencies of the rows add up to 1
    if not total:
        return moments
    made, first = [], 0
    for block in blocks:
        part = columns[first : first + block.shape[1]].to(block)
        made.append((mass * block + torch.diag(part)) / whole)
        first += block.shape[1]
    outputs = (energy * s + float(columns.sum()) * rows) * whole / total
    return LayerMoments(tuple(made), moments.mean, outputs.to(moments.outputs), moments.places)
