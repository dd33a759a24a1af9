"""The one list of quantization methods."""

from typing import Any

from nbquant import registry
from nbquant.quantization.ecsq import ECSQ_METHOD
from nbquant.quantization.feedback import FEEDBACK_METHOD
from nbquant.quantization.kmeans import KMEANS_METHOD
from nbquant.quantization.method import Family, Method
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.trellis import TRELLIS_METHOD
from nbquant.quantization.uniform import UNIFORM_METHOD

METHODS: tuple[Method, ...] = (KMEANS_METHOD, UNIFORM_METHOD, ECSQ_METHOD, TRELLIS_METHOD, FEEDBACK_METHOD)
"""All methods, in the order of menus and legends. Look at ``methods.METHODS``, so that additions are seen."""
DEFAULT = ECSQ_METHOD


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(method.name for method in METHODS)


def option_names() -> tuple[str, ...]:
    """Names of the options of all methods."""
    return tuple(dict.fromkeys(name for method in METHODS for name in method.options))


def tabulated() -> tuple[Method, ...]:
    """Methods whose whole curve is known from histograms."""
    return tuple(method for method in METHODS if method.curve is not None)


def named(name: str) -> Method:
    """Look up a method by its name.

    Raises:
        ValueError: There is none of this name (names the nearest).
    """
    return registry.find(METHODS, name, "method")


def of(quantizer: Quantizer) -> Method:
    """The method of a quantizer."""
    return named(quantizer.method)


def family(method: str, **options: Any) -> Family:
    """The quantizers of a method with some options; see :meth:`Method.family`.

    Raises:
        ValueError: An unknown method, or an option that only others have, unless it is as they have it by default.
    """
    chosen = named(method)
    for name in [name for name in options if name not in chosen.options and not hasattr(chosen.make, name)]:
        owners = {m.name: m.options[name] for m in METHODS if name in m.options}
        if owners and options[name] not in (None, *owners.values()):
            raise ValueError(f"{name} is an option of {', '.join(owners)}, but the method is {method!r}: leave it out")
        if owners:
            del options[name]
    return chosen.family(**options)


def family_of(quantizer: Quantizer) -> Family:
    """The quantizers that differ from one in the parameter only."""
    method = of(quantizer)
    return Family(method, tuple((name, getattr(quantizer, name)) for name in method.options))
