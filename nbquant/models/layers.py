"""Layer names, and resolution of requested layers to parameters."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from nbquant.listed import listed

Layers = str | nn.Module | Iterable[str | nn.Module] | None
"""Layer or parameter names, globs of them, or modules; one or several; None for all."""

ROOT_LABEL = "(model)"
"""Label of the model itself as owner of parameters (name ""), such as a class token or a bare layer."""


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """List the modules that own parameters, in the model's order; tied parameters belong to the first."""
    return tuple(dict.fromkeys(owner(name) for name, _ in model.named_parameters()))


def owner(parameter: str) -> str:
    """Name of the module that owns a parameter; the model itself is ""."""
    return parameter.rpartition(".")[0]


def layer_label(layer: str) -> str:
    """Label a layer for people: the model itself, whose name is "", needs a word."""
    return layer or ROOT_LABEL


def layers_label(layers: Sequence[str]) -> str:
    """Name several layers in a title: by name where that is short, else by their number."""
    names = ", ".join(map(layer_label, layers))
    return names if len(names) <= 60 else f"{len(layers)} layers"


def resolve(model: nn.Module, layers: Layers) -> tuple[set[str], set[str]]:
    """Resolve requested layers to parameters.

    Args:
        model: The model.
        layers: See :data:`Layers`. A module, by its name or itself, means all parameters below it; a glob is matched
            against the names of all modules and parameters, with case and dots as ordinary characters.

    Returns:
        Names of all requested parameters, and of those among them that were requested explicitly: by their own name or
        as direct parameters of a module that was named without a glob. Tied parameters are listed under all names.

    Raises:
        TypeError: Neither a name nor a module.
        ValueError: A name or module that is not in the model, or without parameters; or nothing requested.
    """
    # With duplicates, so that the second name of a tied parameter or a shared module is known, too.
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None:
        return set(parameters), set()
    kinds = {name: type(module).__name__ for name, module in modules.items()}
    items = [_name_of(model, modules, item) if isinstance(item, nn.Module) else item for item in _items(layers)]
    return _resolve(parameters, kinds, layer_names(model), items, "the model")


def resolve_names(parameters: Iterable[str], layers: Layers) -> tuple[set[str], set[str]]:
    """Resolve requested layers of a checkpoint from its parameter names.

    Raises:
        TypeError: Not a name, such as a module.
        ValueError: As :func:`resolve`.
    """
    parameters = list(parameters)
    if layers is None:
        return set(parameters), set()
    items = []
    for item in _items(layers):
        if isinstance(item, nn.Module):
            raise TypeError(
                f"layers of a checkpoint must be names or globs, but got a {type(item).__name__}: pass its name."
            )
        items.append(item)
    kinds = {"": "checkpoint"}
    for name in parameters:
        parts = name.split(".")
        kinds |= {".".join(parts[:depth]): "container" for depth in range(1, len(parts))}
    names = tuple(dict.fromkeys(owner(name) for name in parameters))
    return _resolve(parameters, kinds, names, items, "the checkpoint")


def _items(layers: Layers) -> tuple[str | nn.Module, ...]:
    if isinstance(layers, str | nn.Module):
        return (layers,)
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers must be names, globs or modules, but got a {type(layers).__name__}: {layers!r}.")
    items = tuple(layers)
    for item in items:
        if not isinstance(item, str | nn.Module):
            raise TypeError(f"layers must be names, globs or modules, but {item!r} is a {type(item).__name__}.")
    return items


def _resolve(
    parameters: list[str], kinds: Mapping[str, str], layers: tuple[str, ...], items: Iterable[str], where: str
) -> tuple[set[str], set[str]]:
    asked: set[str] = set()
    in_person: set[str] = set()
    known = set(parameters)
    for item in items:
        if item in known:
            asked.add(item)
            in_person.add(item)
        if item in kinds:
            below = {name for name in parameters if _is_below(name, item)}
            if not below:
                raise ValueError(
                    f"a layer with parameters is required, but {item!r} ({kinds[item]}) has none: "
                    f"choose from {listed(layers)}."
                )
            asked |= below
            in_person |= {name for name in below if owner(name) == item}
        elif item not in known:
            asked |= _matching(parameters, kinds, layers, item, where)
    if not asked:
        raise ValueError(
            f"at least one layer is required, but got layers={tuple(items)!r}: pass None for all, or some of "
            f"{listed(layers)}."
        )
    return asked, in_person


def _is_below(parameter: str, module: str) -> bool:
    return not module or parameter.startswith(module + ".")


def _matching(
    parameters: list[str], kinds: Mapping[str, str], layers: tuple[str, ...], pattern: str, where: str
) -> set[str]:
    hits = tuple(name + "." for name in kinds if name and fnmatchcase(name, pattern))
    found = {name for name in parameters if fnmatchcase(name, pattern) or name.startswith(hits)}
    if not found:
        known = [name for name in dict.fromkeys((*kinds, *parameters)) if name]
        nearest = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
        advice = (
            f"did you mean {listed(nearest)}?"
            if nearest
            else f"choose from {listed([*filter(None, layers)] or known)}."
        )
        kind = "pattern" if any(sign in pattern for sign in "*?[") else "name"
        raise ValueError(f"layers must be in {where}, but no layer or parameter has the {kind} {pattern!r}: {advice}")
    return found


def _name_of(model: nn.Module, modules: Mapping[str, nn.Module], module: nn.Module) -> str:
    for name, candidate in modules.items():
        if candidate is module:
            return name
    raise ValueError(
        f"layers must be in the model, but this {type(module).__name__} is none of the modules of this "
        f"{type(model).__name__} (is it a copy's?): pass its name, one of {listed(layer_names(model))}."
    )
