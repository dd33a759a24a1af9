"""Run a model with other values in the place of some of its parameters."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_with(
    model: nn.Module, values: Mapping[str, Tensor], args: Any, kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Call a model with other values for some parameters; the model itself stays as it is.

    ``torch.func.functional_call`` puts a value back twice where one module has two names, and leaves a plain tensor in
    the place of the parameter. Here each place is named once.

    Args:
        model: Any module.
        values: By parameter name; parameters that are tied to it have the value too.
        args: Positional arguments.
        kwargs: Arguments by name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    of_parameter = {id(parameters[name]): value for name, value in values.items()}
    places: dict[tuple[int, str], str] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for own, parameter in module._parameters.items():
            if id(parameter) in of_parameter:
                places.setdefault((id(module), own), f"{prefix}.{own}" if prefix else own)
    named = {name: of_parameter[id(parameters[name])] for name in places.values()}
    return functional_call(model, named, args, dict(kwargs or {}), tie_weights=False)
