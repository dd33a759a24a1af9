"""Names of a model's layers, and how layers are asked for."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

Layers = str | nn.Module | Iterable[str | nn.Module] | None
"""Layer or parameter names, globs of them, or modules; one or several; None is all."""


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that own parameters, in the model's order; tied parameters belong to the first."""
    return tuple(dict.fromkeys(owner(name) for name, _ in model.named_parameters()))


def owner(parameter: str) -> str:
    """Name of the module that owns a parameter; the model itself is ""."""
    return parameter.rpartition(".")[0]


def resolve(model: nn.Module, layers: Layers) -> tuple[set[str], set[str]]:
    """Find the parameters that are asked for.

    Args:
        model: The model.
        layers: See :data:`Layers`. A module, by its name or itself, means all parameters below it; a glob is compared
            with the names of all modules and parameters, case and dots being ordinary characters.

    Returns:
        Names of all parameters asked for, and of those among them that were asked for in person: by their own name or
        as direct parameters of a module that was named without a glob. Tied parameters go by all their names.

    Raises:
        TypeError: Something that is neither a name nor a module.
        ValueError: A name or module that the model does not have, or that has no parameters; or nothing at all.
    """
    # With duplicates, so that the second name of a tied parameter or a shared module is known too.
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None:
        return set(parameters), set()
    if isinstance(layers, str | nn.Module):
        layers = (layers,)
    elif not isinstance(layers, Iterable):
        raise TypeError(f"layers must be names, globs or modules, but a {type(layers).__name__} came: {layers!r}.")
    asked: set[str] = set()
    in_person: set[str] = set()
    items = tuple(layers)
    for item in items:
        if isinstance(item, nn.Module):
            item = _name_of(model, modules, item)
        elif not isinstance(item, str):
            raise TypeError(f"layers must be names, globs or modules, but {item!r} is a {type(item).__name__}.")
        if item in modules:
            below = {name for name in parameters if _is_below(name, item)}
            if not below:
                raise ValueError(
                    f"a layer with parameters is required, but {item!r} ({type(modules[item]).__name__}) has none: "
                    f"choose from {_some(layer_names(model))}."
                )
            asked |= below
            in_person |= {name for name in below if owner(name) == item}
        elif item in parameters:
            asked.add(item)
            in_person.add(item)
        else:
            asked |= _matching(model, parameters, modules, item)
    if not asked:
        raise ValueError(
            f"at least one layer is required, but layers={items!r} came: pass None for all, or some of "
            f"{_some(layer_names(model))}."
        )
    return asked, in_person


def _is_below(parameter: str, module: str) -> bool:
    return not module or parameter.startswith(module + ".")


def _matching(model: nn.Module, parameters: list[str], modules: dict[str, nn.Module], pattern: str) -> set[str]:
    hits = [name for name in modules if name and fnmatchcase(name, pattern)]
    found = {name for name in parameters if fnmatchcase(name, pattern) or any(_is_below(name, hit) for hit in hits)}
    if not found:
        known = [name for name in dict.fromkeys((*modules, *parameters)) if name]
        nearest = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
        advice = f"did you mean {_some(nearest)}?" if nearest else f"choose from {_some(layer_names(model))}."
        kind = "pattern" if any(sign in pattern for sign in "*?[") else "name"
        raise ValueError(f"layers must be in the model, but no layer or parameter has the {kind} {pattern!r}: {advice}")
    return found


def _name_of(model: nn.Module, modules: dict[str, nn.Module], module: nn.Module) -> str:
    for name, candidate in modules.items():
        if candidate is module:
            return name
    raise ValueError(
        f"layers must be in the model, but this {type(module).__name__} is none of the modules of this "
        f"{type(model).__name__} (is it a copy's?): pass its name, one of {_some(layer_names(model))}."
    )


def _some(names: Iterable[str], most: int = 8) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if len(quoted) > most else "")
