"""Nested inputs and targets: tensors in tuples, lists and mappings, as models and losses take them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply ``function`` to the tensors of a nest of tuples, lists and mappings; the rest stays."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [map_tensors(function, item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's output: a mapping of inputs goes in by name, a tuple or list by position, anything else alone."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)
