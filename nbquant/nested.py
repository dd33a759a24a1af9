"""Mapping over nested inputs, targets and outputs: tensors in tuples, lists, mappings and dataclasses."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply ``function`` to every tensor of a nest, in order; containers keep their types, other values are unchanged.

    Containers are tuples (named ones too), lists, mappings (such as the ``ModelOutput`` and ``BatchEncoding`` of
    transformers) and dataclass instances.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        items = {key: map_tensors(function, item) for key, item in value.items()}
        if type(value) is dict:
            return items
        try:
            made = copy.copy(value)
            for key, item in items.items():
                made[key] = item  # type: ignore[index]
        except (TypeError, AttributeError):  # a read-only mapping
            return items
        return made
    if isinstance(value, tuple | list):
        parts = [map_tensors(function, item) for item in value]
        if type(value) in (tuple, list):
            return type(value)(parts)
        try:
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        except TypeError:
            return tuple(parts) if isinstance(value, tuple) else parts
    if is_dataclass(value) and not isinstance(value, type):
        same = copy.copy(value)
        for field in fields(value):
            item = getattr(value, field.name, None)
            changed = map_tensors(function, item)
            if changed is not item:
                object.__setattr__(same, field.name, changed)
        return same
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors of a nest, in the order of :func:`map_tensors`."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, value)
    return found


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model: a mapping of inputs is passed by name, a tuple or list by position, anything else alone."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)
