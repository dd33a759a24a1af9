"""What a method's options are if nobody says otherwise: the defaults of its class, which stand nowhere else."""

from dataclasses import fields
from typing import Any

OPTIONS = ("weighted", "coding", "per_layer", "pinned_zero", "offset", "steps")
"""Options of methods; each method has some of them."""


def defaults_of(method: type[Any]) -> dict[str, Any]:
    """The options of a method with their defaults.

    Args:
        method: The class of a quantizer, such as :class:`nbquant.Trellis`.
    """
    known = {field.name: field.default for field in fields(method)}
    return {name: known[name] for name in OPTIONS if name in known}


def options_of(method: type[Any], **asked: Any) -> dict[str, Any]:
    """The options of a method, some of which are asked for.

    Steps a layer need a codebook a layer: without it, and unless they are asked for, steps are joint.

    Args:
        method: The class of a quantizer.
        **asked: Values by name; None is the default, and options that the method does not have are left out.
    """
    options = defaults_of(method)
    options |= {name: value for name, value in asked.items() if value is not None and name in options}
    if "steps" in options and asked.get("steps") is None and not options["per_layer"]:
        options["steps"] = "joint"
    return options
