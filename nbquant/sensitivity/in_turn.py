"""Calibrated networks whose layers are quantized in order, each with the inputs from the quantized layers before it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nbquant.nested import call
from nbquant.quantization.moments import Choice, LayerMoments, Part, Shift
from nbquant.sensitivity.batch import Batch
from nbquant.sensitivity.gram import CHUNK, PLACES, Gram, some_places
from nbquant.sensitivity.lockstep import Runs, Stop
from nbquant.sensitivity.loss import wide
from nbquant.sensitivity.problem import undisturbed
from nbquant.sensitivity.recurrent import unrolled
from nbquant.sensitivity.uses import Use, Watch
from nbquant.sensitivity.weight_views import Weights, attention_chunks

RUN_PLACES = 2000  # mean number of uses of a weight in the run behind quantized layers
LEAST_SAMPLES = 4  # of that run
MOST_TOLD = 4  # layers named individually
SHIFT_PLACES = 2048  # places of that run at which a layer compensates the shift of its inputs
SHIFT_ENTRIES = 1 << 22  # most entries of outputs there


@dataclass(frozen=True, eq=False)
class _BeforeQuantizing:
    """Inputs and products of a weight before any layer was quantized, at some places."""

    places: Tensor
    products: Float[Tensor, "groups places rows"]
    sum: Float[Tensor, "groups d"]
    squares: Float[Tensor, "groups d"]


@dataclass(frozen=True, eq=False, repr=False)
class ModelCalibration:
    """A network with the moments of its layers; see :class:`nbquant.quantization.moments.Calibration`.

    Attributes:
        model: The network; it is read each time its layers are quantized in order.
        inputs: Some of the samples, on the model's device, for the run behind quantized layers.
        outputs: Mean squared gradients s of each layer's outputs [loss/output²], in the order of execution.
        parts: The weights of these layers.
        left_out: Weights without moments, by parameter name, with the reason; they get no error feedback.
        left_out_share: Their share of the network's weights.
        samples: Number of samples.
        diagonals: For embedding tables, by parameter name: the curvature is the product of a factor per row, its
            frequency in the look-ups, and one per column.
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
    _unquantized: Mapping[tuple[int, str], _BeforeQuantizing] = field(default_factory=dict)

    def moments(self, layer: str, changed: Mapping[str, Float[Tensor, "..."]]) -> LayerMoments:
        """Compute the moments of a layer.

        Args:
            layer: A name in ``outputs``.
            changed: Parameter name to value: moments with these values, from ``inputs``. If empty, the known moments of
                all samples.
        """
        known = self._moments[layer]
        if not changed:
            return known
        part, gram = self.parts[layer], Gram(self.parts[layer].groups, max(b.shape[1] for b in known.blocks))
        parameters = dict(self.model.named_parameters())

        def before(use: Use) -> None:
            gram.add(use.seen, some_places(use.count, PLACES, self._device), use.within, whole=False)

        with _watchable(self.model), _replaceable(parameters) as replace, torch.no_grad():
            replace(changed)
            with Watch(Weights({part.weight: parameters[part.weight]}, attention_chunks(self.model)), before):
                for inputs in self.inputs:
                    call(self.model, inputs)
        return gram.moments(known.outputs, known.mean is not None)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def in_turn(self, choose: Choice, changed: Mapping[str, Float[Tensor, "..."]]) -> None:
        """Quantize the layers in the order of execution, each after the layers before it.

        The network runs once. At the first use of a layer the run pauses until it is quantized.

        Args:
            choose: Quantizes a layer, given the change of its inputs (None if unknown), and returns
                the new values of its parameters.
            changed: Values of parameters that were quantized before all layers.
        """
        position = {key: i for i, key in enumerate(self.outputs)}
        names = {part.weight: key for key, part in self.parts.items()}
        parameters = dict(self.model.named_parameters())
        watched = {name: parameters[name] for name in names if name in parameters}
        pending, chunks = dict.fromkeys(self.outputs), attention_chunks(self.model)
        with _watchable(self.model), _replaceable(parameters) as replace:
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

    @property
    def few_places(self) -> dict[str, tuple[int, int]]:
        """Layers with fewer places than inputs, by name: numbers of places and of inputs.

        Places are samples, words, pixels; with groups, of the group with the fewest. Inputs are those of a block of the
        second moments. Such moments are damped more, so that error feedback gains less.
        """
        found = {}
        for key, moments in self._moments.items():
            held = 0 if moments.held_back is None else moments.held_back.shape[1]
            places = int(torch.as_tensor(moments.places).min()) + held
            inputs = max(block.shape[1] for block in moments.blocks)
            if places < inputs:
                found[key] = places, inputs
        return found

    def __repr__(self) -> str:
        said = f"ModelCalibration({len(self.outputs)} layers, {self.samples:,} samples"
        if few := self.few_places:
            said += f", too few for {len(few)} of the layers: {describe_few_places(few)}"
        if self.left_out:
            said += f", no error feedback for {self.left_out_share:.0%} of the weights: {', '.join(self.left_out)}"
        return said + ")"


def describe_few_places(few: Mapping[str, tuple[int, int]]) -> str:
    """Name the layers with the fewest places per input, and count the others."""
    worst = sorted(few, key=lambda key: few[key][0] / few[key][1])
    said = ", ".join(f"{key} ({few[key][0]:,} places for {few[key][1]:,} inputs)" for key in worst[:MOST_TOLD])
    return said + (f" and {len(few) - MOST_TOLD} more" if len(few) > MOST_TOLD else "")


def some_inputs(kept: Sequence[Batch], samples: int, visits: float) -> tuple[Any, ...]:
    """Choose inputs of a share of the samples: whole batches if there are enough, else the beginning of one.

    Args:
        kept: All batches.
        samples: Number of samples in them.
        visits: Mean number of uses of a weight in a run over all of them.
    """
    share = min(1.0, RUN_PLACES / max(visits, 1e-9))
    wanted = max(share * samples, min(LEAST_SAMPLES, samples))
    count = min(max(round(wanted * len(kept) / samples), 1), len(kept))
    chosen = [kept[i * len(kept) // count] for i in range(count)]
    size = sum(batch.size for batch in chosen)
    if count == 1 and size > 2 * wanted and chosen[0].axes is not None:
        return (chosen[0].part(0, round(wanted)).inputs,)
    return tuple(batch.inputs for batch in chosen)


def before_quantizing(
    model: nn.Module, parts: Mapping[str, Part], inputs: Sequence[Any]
) -> dict[tuple[int, str], _BeforeQuantizing]:
    """Record products of weight rows at some places, for each of the runs; not for weights used twice in a run."""
    parameters = dict(model.named_parameters())
    keys = {part.weight: key for key, part in parts.items() if part.weight in parameters and not part.along}
    found: dict[tuple[int, str], _BeforeQuantizing] = {}
    with _watchable(model), torch.no_grad():
        weights = Weights({name: parameters[name] for name in keys}, attention_chunks(model))
        for i, batch in enumerate(inputs):
            calls = dict.fromkeys(keys, 0)

            def before(use: Use, i: int = i, calls: dict[str, int] = calls) -> None:
                calls[use.weight] += 1
                if calls[use.weight] == 1 and use.rows is None and use.within == slice(0, use.groups):
                    weight = parameters[use.weight]
                    most = min(SHIFT_PLACES, max(SHIFT_ENTRIES // len(weight), 1)) // len(inputs)
                    index = some_places(use.count, max(most, 1), weight.device)
                    width = use.seen(index[:1]).shape[2]
                    parts = []
                    for places in index.split(max(CHUNK // (use.groups * width), 1)):
                        x, products = _products(use, places, weight)
                        parts.append((products, x.sum(1, keepdim=True), x.square().sum(1, keepdim=True)))
                    outputs, *sums = (torch.cat(own, 1) for own in zip(*parts, strict=True))
                    found[i, keys[use.weight]] = _BeforeQuantizing(index, outputs, sums[0].sum(1), sums[1].sum(1))

            with Watch(weights, before):
                call(model, batch)
            for name, count in calls.items():
                if count > 1:
                    found.pop((i, keys[name]), None)
    return found


def _products(use: Use, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs at some places, and the products of a weight's rows with them."""
    x = use.seen(index)
    x = x.expand(use.groups, -1, -1).to(wide(x.dtype))
    rows = weight.detach().to(x.dtype).reshape(use.groups, -1, x.shape[2])
    return x, x @ rows.mT


def _shift_of(found: Sequence[tuple[Tensor, Tensor, _BeforeQuantizing]]) -> Shift | None:
    """The shift of the inputs: current inputs, and the products of weight rows before and now."""
    if not found:
        return None
    inputs = torch.cat([x for x, _, _ in found], 1) if len(found) > 1 else found[0][0]
    missing = torch.cat([was.products - now for _, now, was in found], 1)
    mean, energy = (
        sum(part) / inputs.shape[1] for part in zip(*((w.sum, w.squares) for _, _, w in found), strict=True)
    )
    return Shift(inputs, missing, mean, energy)


@contextmanager
def _watchable(model: nn.Module) -> Iterator[None]:
    """Prepare a network for runs in which the uses of its weights are seen."""
    with undisturbed(model, ()), unrolled(model):
        yield


@contextmanager
def _replaceable(parameters: Mapping[str, nn.Parameter]) -> Iterator[Any]:
    """Give parameters temporary values; their own memory is restored afterwards."""
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
