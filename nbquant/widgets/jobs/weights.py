"""Select weights of a module or checkpoint with their sensitivities, and keep their statistics."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from nbquant.analysis.statistics import Statistics, tensor_statistics
from nbquant.duplicate import duplicate
from nbquant.models.checkpoint import Checkpoint
from nbquant.models.layers import Layers, owner
from nbquant.models.select import Sensitivities, select
from nbquant.progress import Progress
from nbquant.quantization.selection import Selection
from nbquant.sensitivity.files import load_sensitivity
from nbquant.sensitivity.result import Sensitivity
from nbquant.tensorfile import FLOATS


class Weights:
    """Where selections are taken from; what was seen once is not looked at again.

    Attributes:
        origin: What is selected from: a copy of the module, so that no cell of the user's changes it, or the path of a
            checkpoint, which is mapped.
        layers: Names of all its layers with weights.
        first: What was asked for at the start.
        sensitivity: Sensitivities in use, undamped; None while there are none, then h is 1.
    """

    def __init__(
        self,
        source: nn.Module | str | os.PathLike[str],
        sensitivity: Sensitivities | None = None,
        layers: Layers = None,
    ) -> None:
        """Select for the first time; arguments and errors as of :func:`nbquant.select`."""
        self.first: Selection = select(source, None, layers)
        self.origin: nn.Module | Path
        if isinstance(source, nn.Module):
            self.origin = duplicate(source)
            parameters = [name for name, _ in source.named_parameters()]
        else:
            self.origin = Path(source)
            checkpoint = Checkpoint.open(source)
            parameters = [name for name in checkpoint.files if checkpoint.is_quantizable(name)]
        self._parameters = {layer: [n for n in parameters if owner(n) == layer] for layer in map(owner, parameters)}
        self.layers = tuple(self._parameters)
        self.sensitivity = None if sensitivity is None else _opened(sensitivity)
        # By its path the selection knows that it is on disk, and need not be read to be known again.
        self._given: Sensitivities | None = self.sensitivity if isinstance(sensitivity, Mapping) else sensitivity
        self._known = self._selected(self._given, self.first.layers)  # all that was ever selected
        self._seen = Statistics(())  # of those of them that were looked at

    def weighed(self, sensitivity: Mapping[str, Tensor], layers: Sequence[str]) -> "Weights":
        """The same with other sensitivities; ``layers`` are selected with them."""
        other = copy.copy(self)
        other._known = self._selected(sensitivity, layers)
        other.sensitivity, other._given, other._seen = _opened(sensitivity), sensitivity, Statistics(())
        return other

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of weights of each layer."""
        sizes = dict.fromkeys(self.layers, 0)
        for tensor in select(self.origin, None, list(self.layers)):
            sizes[tensor.layer] += tensor.weight.numel()
        return sizes

    def select(self, layers: Sequence[str]) -> Selection:
        """Some of the layers.

        Raises:
            ValueError: As :func:`nbquant.select`.
        """
        new = [name for name in layers if name not in self._known.layers]
        if new or not layers:
            self._known = self._selected(self._given, [*self._known.layers, *new] if layers else [])
        return self._known.part(layers)

    def asked_for(self, layers: Sequence[str]) -> tuple[str, ...] | None:
        """What :func:`nbquant.select` must be asked for to select these layers and no others; None is all.

        A layer's name means all below it too. Where not all of that is meant, its parameters are named.
        """
        if set(layers) == set(self.layers):
            return None
        asked: list[str] = []
        for layer in layers:
            below = {name for name in self.layers if not layer or name.startswith(layer + ".")}
            asked += [layer] if below <= set(layers) else self._parameters[layer]
        return tuple(asked)

    def _selected(self, sensitivity: Sensitivities | None, layers: Sequence[str]) -> Selection:
        named = [name for layer in layers for name in self._parameters.get(layer, [layer])]
        return replace(select(self.origin, sensitivity, named), left_out=self.first.left_out)

    def looking_at(self, selection: Selection) -> Callable[[Progress], Statistics]:
        """What finds the statistics of a selection of these, undamped; tensors that were seen are not looked at."""
        known = self._known

        def look(progress: Progress) -> Statistics:
            seen = self._seen
            found = {t.name: t for t in seen.tensors}
            missing = [t for t in selection if t.name not in found]
            if missing:
                found |= {t.name: t for t in tensor_statistics(missing, progress)}
                # In the order of all that is known; sums over tensors are shared by all parts.
                seen = self._seen = Statistics(tuple(found[t.name] for t in known if t.name in found))
            return seen.part(selection.layers)

        return look


def _opened(sensitivity: Sensitivities) -> Sensitivity:
    if isinstance(sensitivity, Sensitivity):
        return sensitivity
    if isinstance(sensitivity, Mapping):
        return Sensitivity(dict(sensitivity), "given", samples=0)
    if Path(sensitivity).is_file() and Path(sensitivity).suffix == ".safetensors":
        return load_sensitivity(sensitivity)
    stored = Checkpoint.open(sensitivity)
    return Sensitivity({n: stored.tensor(n) for n in stored.files if stored.stored(n).dtype in FLOATS}, "file", 0)
