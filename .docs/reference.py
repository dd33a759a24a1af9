"""The page of the reference: all public names, and a table of what the lists of methods, codes and the like hold."""

import inspect

import nbquant
from nbquant.coding import codes
from nbquant.formats import formats
from nbquant.quantization import methods
from nbquant.sensitivity import estimators

MODULES = {"plot": "nbquant.plot", "zoo": "nbquant.models.zoo", "course": "nbquant.course"}


def api_page() -> str:
    """Write the page in MyST Markdown."""
    public = [name for name in nbquant.__all__ if name not in MODULES]
    quantizers = {method.make.__name__: method.make for method in methods.METHODS}
    classes = [name for name in public if inspect.isclass(getattr(nbquant, name)) and name not in quantizers]
    functions = [name for name in public if inspect.isfunction(getattr(nbquant, name))]
    lines = ["# Reference", "", "## Methods", "", *_table("Name", "Quantizer", "Parameter", "Options", "Curve")]
    for method in methods.METHODS:
        parameter = method.parameter
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        options = ", ".join(f"`{name}={value!r}`" for name, value in method.options.items())
        curve = "runs" if method.curve is None else "from histograms"
        lines.append(
            f"| `{method.name}` | {method.title} | `{parameter.name}`: {parameter.symbol}{unit} | {options} | {curve} |"
        )
    lines += ["", "## Codes", "", *_table("Name", "Code", "Size known from counts")]
    lines += [f"| `{c.name}` | {c.title} | {'yes' if c.known_from_counts else 'no'} |" for c in codes.CODES]
    lines += ["", "## Estimators of sensitivities", "", *_table("Name", "What it is")]
    lines += [f"| `{e.name}` | {e.description} |" for e in estimators.ESTIMATORS]
    lines += ["", "## Formats of checkpoints", "", *(f"* {known.name}" for known in formats.FORMATS), ""]
    lines += ["```{eval-rst}", ".. currentmodule:: nbquant", ""]
    lines += _section("Quantizers and errors")
    for name, kind in quantizers.items():
        path = name if hasattr(nbquant, name) else f"{kind.__module__}.{name}"
        lines += [f".. autoclass:: {path}", "   :members:", ""]
    for name in classes:
        lines += [f".. autoclass:: {name}", "   :members:", ""]
    lines += _section("Functions")
    for name in functions:
        lines += [f".. autofunction:: {name}", ""]
    for name, module in MODULES.items():
        lines += [*_section(f"nbquant.{name}"), f".. automodule:: {module}", "   :members:", ""]
    return "\n".join([*lines, "```", ""])


def _table(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def _section(title: str) -> list[str]:
    return [title, "-" * len(title), ""]
