"""Registry of quantization methods."""

from typing import Any

from nbquant import registry
from nbquant.quantization.block_quantizer import BLOCKS_METHOD
from nbquant.quantization.ecsq import ECSQ_METHOD
from nbquant.quantization.feedback import FEEDBACK_METHOD
from nbquant.quantization.kmeans import KMEANS_METHOD
from nbquant.quantization.method import Family, Method
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.trellis import TRELLIS_METHOD
from nbquant.quantization.uniform import UNIFORM_METHOD

METHODS: tuple[Method, ...] = (
    KMEANS_METHOD,
    UNIFORM_METHOD,
    ECSQ_METHOD,
    TRELLIS_METHOD,
    FEEDBACK_METHOD,
    BLOCKS_METHOD,
)
"""All methods, in the order of menus and legends. Read as ``methods.METHODS``, so that additions are seen."""
DEFAULT = ECSQ_METHOD


def names() -> tuple[str, ...]:
    """List the names of all methods."""
    return tuple(method.name for method in METHODS)


def option_names() -> tuple[str, ...]:
    """List the names of the options of all methods."""
    return tuple(dict.fromkeys(name for method in METHODS for name in method.options))


def tabulated() -> tuple[Method, ...]:
    """List the methods whose whole curve can be computed from histograms."""
    return tuple(method for method in METHODS if method.curve is not None)


def named(name: str) -> Method:
    """Look up a method by its name.

    Raises:
        ValueError: An unknown name (names the nearest).
    """
    return registry.find(METHODS, name, "method")


def of(quantizer: Quantizer) -> Method:
    """Find the method of a quantizer."""
    return named(quantizer.method)


def family(method: str, **options: Any) -> Family:
    """Make the family of quantizers of a method with some options; see :meth:`Method.family`.

    Raises:
        ValueError: An unknown method, or an option of other methods only, unless it is None or False.
    """
    chosen = named(method)
    for name in [name for name in options if name not in chosen.options and not hasattr(chosen.make, name)]:
        owners = [m.name for m in METHODS if name in m.options]
        if owners and options[name] not in (None, False):
            raise ValueError(f"{name} is an option of {', '.join(owners)}, but the method is {method!r}: leave it out")
        if owners:
            del options[name]
    return chosen.family(**options)


def family_of(quantizer: Quantizer) -> Family:
    """Make the family of quantizers that differ from one only in the parameter."""
    method = of(quantizer)
    return Family(method, tuple((name, getattr(quantizer, name)) for name in method.options))
