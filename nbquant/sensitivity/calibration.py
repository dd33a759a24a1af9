"""What error feedback needs of a network: second moments of the layers' inputs, and sensitivities of their outputs."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.nn.utils import parametrize

from nbquant.nested import call
from nbquant.progress import Progress
from nbquant.quantization.moments import Choice, LayerMoments, Part, Shift
from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.gram import Gram, block_widths, some_places
from nbquant.sensitivity.lockstep import Runs, Stop
from nbquant.sensitivity.loss import hessian_draws
from nbquant.sensitivity.problem import Loss, Problem, undisturbed, wide
from nbquant.sensitivity.uses import Use, Watch, Weights, attention_chunks

PLACES = 1 << 15  # of all samples, that moments are taken of; more say hardly anything new …
PLACES_OF_EACH = 32  # … beside so many for each input of a block
RUN_PLACES = 2000  # at which a weight is used in the run behind quantized layers, on average
LEAST_SAMPLES = 4  # of that run
SHIFT_PLACES = 2048  # of that run, at which a layer compensates the shift of its inputs
SHIFT_ENTRIES = 1 << 22  # of outputs there


@dataclass(frozen=True, eq=False)
class _Before:
    """What a weight met in the run before any layer was quantized, at some places."""

    places: Tensor
    products: Float[Tensor, "groups places rows"]
    sum: Float[Tensor, "groups d"]
    squares: Float[Tensor, "groups d"]


@dataclass(frozen=True, eq=False, repr=False)
class ModelCalibration:
    """A network with what its layers see; see :class:`nbquant.quantization.moments.Calibration`.

    Attributes:
        model: The network; it is read each time that layers are quantized in turn.
        inputs: Some of the samples, on the model's device, for the run behind quantized layers.
        outputs: Mean squared gradients s of each layer's outputs [loss/output²], in the order of execution.
        parts: The weights of these layers.
        left_out: Weights without moments, by parameter name, with the reason; they get no error feedback.
        left_out_share: Share of the network's weights that these are.
        samples: Number of samples.
        diagonals: Of tables of vectors, by parameter name: the curvature is the product of a factor for each row, its
            share of the look-ups, and one for each column.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    outputs: Mapping[str, Float[Tensor, " rows"]]
    parts: Mapping[str, Part]
    left_out: Mapping[str, str]
    left_out_share: float
    samples: int
    diagonals: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _moments: Mapping[str, LayerMoments] = field(default_factory=dict)
    _unquantized: Mapping[tuple[int, str], _Before] = field(default_factory=dict)

    def moments(self, layer: str, changed: Mapping[str, Float[Tensor, "..."]]) -> LayerMoments:
        """Moments of a layer.

        Args:
            layer: One that ``outputs`` has.
            changed: Parameter name to value: moments behind these, of ``inputs``. Without any, they are of all samples
                and known already.
        """
        known = self._moments[layer]
        if not changed:
            return known
        part, gram = self.parts[layer], Gram(self.parts[layer].groups, max(b.shape[1] for b in known.blocks))
        parameters = dict(self.model.named_parameters())

        def before(use: Use) -> None:
            gram.add(use.seen(some_places(use.count, PLACES, self._device)), use.within, whole=False)

        with undisturbed(self.model, ()), _replaceable(parameters) as replace, torch.no_grad():
            replace(changed)
            with Watch(Weights({part.weight: parameters[part.weight]}, attention_chunks(self.model)), before):
                for inputs in self.inputs:
                    call(self.model, inputs)
        return gram.moments(known.outputs, known.mean is not None)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def in_turn(self, choose: Choice, changed: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Have each layer quantized in the order of execution, behind the layers that already are.

        The network runs once. Where a layer is met for the first time, the run pauses until it is quantized.

        Args:
            choose: Quantizes a layer, given how its inputs have changed (None where that is not known), and returns
                the new values of its parameters.
            changed: Values of parameters that were quantized before all layers.
        """
        position = {key: i for i, key in enumerate(self.outputs)}
        names = {part.weight: key for key, part in self.parts.items()}
        parameters = dict(self.model.named_parameters())
        watched = {name: parameters[name] for name in names if name in parameters}
        pending, chunks = dict.fromkeys(self.outputs), attention_chunks(self.model)
        with undisturbed(self.model, ()), _replaceable(parameters) as replace:
            replace(changed)

            def run(i: int, inputs: Any, stop: Stop) -> None:
                def before(use: Use) -> None:
                    key = names.get(use.weight)
                    if key in pending:
                        was = self._unquantized.get((i, key))
                        stop(key, None if was is None else (*_products(use, was.places, parameters[use.weight]), was))

                with torch.no_grad(), Watch(Weights(watched, chunks), before):
                    call(self.model, inputs)

            runs = Runs([lambda stop, i=i, x=x: run(i, x, stop) for i, x in enumerate(self.inputs)])  # type: ignore[misc]
            for key, found in runs.pauses(position.__getitem__):
                if key in pending:
                    shift = _shift_of([pair for pair in found.values() if pair is not None])
                    del pending[key]
                    replace(choose(key, shift))
                if not pending:
                    break
            for key in list(pending):
                replace(choose(key, None))

    def __repr__(self) -> str:
        said = f"ModelCalibration({len(self.outputs)} layers, {self.samples:,} samples"
        if self.left_out:
            said += f", no error feedback for {self.left_out_share:.0%} of the weights: {', '.join(self.left_out)}"
        return said + ")"


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    draws: int = 1,
    seed: int = 0,
    progress: Progress = True,
) -> ModelCalibration:
    """Find what error feedback needs: second moments of the layers' inputs, and the loss's sensitivity to the outputs.

    The curvature of the loss in a layer's weights is E[g gᵀ ⊗ x xᵀ] in the Gauss-Newton sense, with x the layer's input
    and g the gradients of its output under drawn labels. It is taken as a product of E[x xᵀ] and the diagonal s of
    E[g gᵀ], as if gradients of different places and outputs went together by chance only.

    Weights are found by the functions that use them: linear, bilinear, convolutions and transposed convolutions, matrix
    products (so transformers' ``Conv1D``), the projections of attention, and tables of vectors, whose curvature is a
    diagonal. A weight that any other function uses, as the recurrent layers' do, or that takes no part in the
    gradient, is named in ``left_out`` and in a warning; it gets no error feedback. The model is left as it was found;
    some of the inputs are kept.

    Args:
        model: Any network.
        batches: Pairs (inputs, target), as for :func:`nbquant.sensitivity`. A few samples for each input of a layer
            are enough: places of a convolution count as samples. With fewer, moments are damped more.
        loss: Loss of a batch from (output, target), the mean over its samples; cross-entropy if None.
        draws: Random draws a sample.
        seed: Of those draws.
        progress: See :data:`nbquant.progress.Progress`.

    Raises:
        ValueError: No weight that error feedback is for, no batches, or a loss that is at fault.
        nbquant.progress.Cancelled: By ``progress``.

    Source: Martens and Grosse 2015 (K-FAC); Grosse and Martens 2016 for convolutions.
    """
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
    generator = problem.generator()
    with undisturbed(model, parameters.values()), parametrize.cached():
        seen.look_for({**matrices, **_unchanged_by_parametrization(model, parameters)})
        for batch in problem:
            output = seen.run(problem, batch)
            z = output.detach().to(wide(output.dtype))
            problem.mean_loss(z, batch)
            kept.append(Batch(batch.inputs, None, batch.size))
            for sign, block in hessian_draws(problem.loss, z, batch.target, draws, generator):
                for vector in block:
                    seen.add_gradients(output, sign, vector.to(output.dtype))
    return seen.calibration(kept)


def _length(batches: Iterable[Any]) -> int:
    """Number of batches; a guess where it cannot be told."""
    try:
        return max(len(batches), 1)  # type: ignore[arg-type]
    except TypeError:
        return 16


class _Seen:
    """What has been seen of each weight so far."""

    def __init__(self, model: nn.Module, matrices: Mapping[str, Tensor], batches: int) -> None:
        self._model, self._matrices, self._batches = model, matrices, batches
        self._chunks = attention_chunks(model)
        self._watched: Weights
        self._uses: dict[str, Use] = {}  # the last one, for its kind
        self._grams: dict[str, Gram] = {}
        self._squares: dict[str, Tensor] = {}
        self._tables: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._mixed: set[str] = set()
        self._met: list[tuple[Use, GradientEdge]] = []
        self._visits = 0.0
        self._widths = {
            along: block_widths({n: _shape(p, along) for n, p in matrices.items()}) for along in (False, True)
        }

    def look_for(self, weights: Mapping[str, Tensor]) -> None:
        self._watched = Weights(weights, self._chunks)

    def run(self, problem: Problem, batch: Batch) -> Tensor:
        """Run the network on a batch, and look at all inputs of weights."""
        self._met = []
        with Watch(self._watched, self._before, self._after):
            return problem.call(batch)

    def _before(self, use: Use) -> None:
        self._visits += use.count * self._matrices[use.weight].numel()
        if use.rows is not None:
            rows, squares = self._tables.get(use.weight, (torch.zeros_like(use.rows), None))
            self._tables[use.weight] = rows + use.rows, squares
            return
        known = self._uses.setdefault(use.weight, use)
        if (known.along, known.groups) != (use.along, use.groups):
            self._mixed.add(use.weight)
            return
        width = self._widths[use.along][use.weight]
        gram = self._grams.setdefault(use.weight, Gram(use.groups, width))
        most = -(-max(PLACES, PLACES_OF_EACH * width) // self._batches)
        with torch.no_grad():
            index = some_places(use.count, most, self._matrices[use.weight].device)
            gram.add(use.seen(index), use.within, whole=use.within == slice(0, use.groups))

    def _after(self, use: Use, output: Tensor) -> None:
        # The edge, not the tensor: an in-place activation would change what the tensor stands for.
        if output.requires_grad:
            self._met.append((use, get_gradient_edge(output)))

    def add_gradients(self, output: Tensor, sign: float, vector: Tensor) -> None:
        if not self._met:
            return
        edges = [edge for _, edge in self._met]
        gradients = torch.autograd.grad(output, edges, vector, retain_graph=True, allow_unused=True)
        for (use, _), g in zip(self._met, gradients, strict=True):
            if g is None:
                continue
            squares = sign * use.squares(g).double()
            if use.rows is not None:
                rows, known = self._tables[use.weight]
                self._tables[use.weight] = rows, squares if known is None else known + squares
                continue
            total = self._squares.setdefault(use.weight, squares.new_zeros(_outputs(use, self._matrices[use.weight])))
            each = len(total) // use.groups
            total[use.within.start * each : use.within.stop * each] += squares

    def calibration(self, kept: Sequence[Batch]) -> ModelCalibration:
        samples = sum(batch.size for batch in kept)
        parts, outputs, moments, diagonals = {}, {}, {}, {}
        biases = _biases(self._model, self._matrices)
        for name, use in self._uses.items():
            if name not in self._squares or name in self._mixed:
                continue
            key = name.removesuffix(".weight")
            s = (self._squares[name] / samples).clamp(min=0)
            bias = biases.get(name)
            found = self._grams[name].moments(s, bias is not None and not use.along)
            if name in self._tables:
                table = self._table(name, samples)
                if table is not None:
                    found = _with_table(found, *table)
            parts[key] = Part(name, None if use.along else bias, use.along, use.groups)
            outputs[key], moments[key] = found.outputs, found
        for name in self._tables:
            table = self._table(name, samples)
            if table is not None and name not in self._uses:
                diagonals[name] = table
        left_out = self._left_out({*(part.weight for part in parts.values()), *diagonals})
        total = sum(p.numel() for p in self._model.parameters())
        share = sum(self._matrices[name].numel() for name in left_out) / total
        if left_out:
            warnings.warn(
                f"{len(left_out)} of {len(self._matrices)} weight matrices, {share:.0%} of the weights, get no error "
                f"feedback: {', '.join(f'{name} ({why})' for name, why in left_out.items())}. They are quantized by "
                "their sensitivity alone.",
                stacklevel=3,
            )
        visits = self._visits / sum(p.numel() for p in self._matrices.values())
        inputs = _some_inputs(kept, samples, min(1.0, RUN_PLACES / max(visits, 1e-9)))
        unquantized = _unquantized(self._model, parts, inputs)
        return ModelCalibration(
            self._model, inputs, outputs, parts, left_out, share, samples, diagonals, moments, unquantized
        )

    def _table(self, name: str, samples: int) -> tuple[Tensor, Tensor] | None:
        """Share of each row in the look-ups, and squared gradients of each column."""
        rows, squares = self._tables[name]
        if squares is None:
            return None
        return rows / rows.sum().clamp(min=1), (squares / samples).clamp(min=0).cpu()

    def _left_out(self, known: set[str]) -> dict[str, str]:
        found = {}
        for name in self._matrices:
            if name in known or (len(self._matrices[name]) == 1 and name not in self._uses):
                continue  # a row alone is a vector, as a class token
            owner = type(self._model.get_submodule(name.rpartition(".")[0])).__name__
            if name in self._mixed:
                why = f"{owner}, used in more ways than one"
            elif name in self._uses or name in self._tables:
                why = f"{owner}, no gradient reaches it"
            else:
                why = f"{owner}, its inputs are not seen"
            found[name] = why
        return found


def _shape(weight: Tensor, along: bool) -> tuple[int, int, int]:
    """Groups, rows and inputs, as far as the weight alone tells."""
    return (1, weight[0].numel(), len(weight)) if along else (1, len(weight), weight[0].numel())


def _outputs(use: Use, weight: Tensor) -> int:
    return use.groups * weight[0].numel() if use.along else len(weight)


def _biases(model: nn.Module, matrices: Mapping[str, Tensor]) -> dict[str, str]:
    """Biases by the weight that they go with; not those that several modules share."""
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
    """Weights behind a parametrization that gives them as they are stored, under the name of what is stored."""
    found = {}
    for name, module in model.named_modules():
        for short in getattr(module, "parametrizations", {}) if parametrize.is_parametrized(module) else ():
            stored = f"{name}.parametrizations.{short}.original".removeprefix(".")
            value = getattr(module, short)
            if stored in parameters and torch.equal(value, parameters[stored]):
                found[stored] = value
    return found


def _with_table(moments: LayerMoments, rows: Tensor, columns: Tensor) -> LayerMoments:
    """Moments of a matrix that is a table of vectors too: the product nearest to the sum of both curvatures.

    It has the sum's traces over rows and over columns.
    """
    s, blocks = moments.outputs.cpu(), moments.blocks
    mass = float(s.sum())
    energy = float(moments.energy.double().sum())
    total = mass * energy + float(columns.sum())
    whole = mass + 1.0  # the shares of the rows add up to 1
    if not total:
        return moments
    made, first = [], 0
    for block in blocks:
        part = columns[first : first + block.shape[1]].to(block)
        made.append((mass * block + torch.diag(part)) / whole)
        first += block.shape[1]
    outputs = (energy * s + float(columns.sum()) * rows) * whole / total
    return LayerMoments(tuple(made), moments.mean, outputs.to(moments.outputs), moments.places)


def _some_inputs(kept: Sequence[Batch], samples: int, share: float) -> tuple[Any, ...]:
    """Inputs of a share of the samples: whole batches where that is enough of them, else the beginning of one."""
    wanted = max(share * samples, min(LEAST_SAMPLES, samples))
    count = min(max(round(wanted * len(kept) / samples), 1), len(kept))
    chosen = [kept[i * len(kept) // count] for i in range(count)]
    size = sum(batch.size for batch in chosen)
    if count == 1 and size > 2 * wanted:
        return (chosen[0].part(0, round(wanted)).inputs,)
    return tuple(batch.inputs for batch in chosen)


def _unquantized(model: nn.Module, parts: Mapping[str, Part], inputs: Sequence[Any]) -> dict[tuple[int, str], _Before]:
    """What rows of weights give at some places, for each of the runs; not of weights that a run meets twice."""
    parameters = dict(model.named_parameters())
    keys = {part.weight: key for key, part in parts.items() if part.weight in parameters and not part.along}
    found: dict[tuple[int, str], _Before] = {}
    with undisturbed(model, ()), torch.no_grad():
        weights = Weights({name: parameters[name] for name in keys}, attention_chunks(model))
        for i, batch in enumerate(inputs):
            calls = dict.fromkeys(keys, 0)

            def before(use: Use, i: int = i, calls: dict[str, int] = calls) -> None:
                calls[use.weight] += 1
                if calls[use.weight] == 1 and use.rows is None and use.within == slice(0, use.groups):
                    weight = parameters[use.weight]
                    most = min(SHIFT_PLACES, max(SHIFT_ENTRIES // len(weight), 1)) // len(inputs)
                    index = some_places(use.count, max(most, 1), weight.device)
                    x, products = _products(use, index, weight)
                    found[i, keys[use.weight]] = _Before(index, products, x.sum(1), x.square().sum(1))

            with Watch(weights, before):
                call(model, batch)
            for name, count in calls.items():
                if count > 1:
                    found.pop((i, keys[name]), None)
    return found


def _products(use: Use, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs at some places, and what rows of a weight give there."""
    x = use.seen(index)
    x = x.expand(use.groups, -1, -1).to(wide(x.dtype))
    rows = weight.detach().to(x.dtype).reshape(use.groups, -1, x.shape[2])
    return x, x @ rows.mT


def _shift_of(found: Sequence[tuple[Tensor, Tensor, _Before]]) -> Shift | None:
    """The shift from inputs as they are now, what rows of weights give with them, and both as they were."""
    if not found:
        return None
    inputs = torch.cat([x for x, _, _ in found], 1)
    missing = torch.cat([was.products - now for _, now, was in found], 1)
    mean, energy = (
        sum(part) / inputs.shape[1] for part in zip(*((w.sum, w.squares) for _, _, w in found), strict=True)
    )
    return Shift(inputs, missing, mean, energy)


@contextmanager
def _replaceable(parameters: Mapping[str, nn.Parameter]) -> Iterator[Any]:
    """Give parameters other values for a while; they have their own memory again behind it."""
    own: dict[str, Tensor] = {}

    def replace(values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise ValueError(
                    f"{name!r} must be a parameter of the calibrated model, of shape {tuple(value.shape)}, but is not: "
                    "calibrate the model that was selected from"
                )
            p = parameters[name]
            own.setdefault(name, p.data)
            p.data = value.to(p.device, p.dtype)

    try:
        yield replace
    finally:
        for name, value in own.items():
            parameters[name].data = value
