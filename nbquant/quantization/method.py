"""The record of a quantization method: its class of quantizers, names, options and curve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
from jaxtyping import Float

from nbquant.progress import Progress
from nbquant.quantization.clusters import Clusters
from nbquant.quantization.histogram import Cells
from nbquant.quantization.parameter import Parameter
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import Selection
from nbquant.registry import nearest

Groups = Mapping[str, Cells]
"""Group name -> cells of its histogram: one group "all", or one per layer."""
Tabulated = tuple[Sequence[Quantizer], Sequence[Mapping[str, Clusters]]]
"""Quantizers along a curve, coarse to fine, each with its clusters by group."""


@dataclass(frozen=True)
class Method:
    """A quantization method: everything the rest of the package needs to know about it.

    A new method is one file with its class of quantizers and its record, and one line in
    :mod:`nbquant.quantization.methods`.

    Attributes:
        make: The class: a frozen dataclass with the parameter and the options as fields, see
            :class:`~nbquant.quantization.quantizer.Quantizer`.
        labels: Names in legends and menus, unweighted and weighted by sensitivity.
        quantize: quantize(quantizer, selection, progress) quantizes a selection.
        curve: curve(family, groups, pruned) computes the whole curve from histograms; None if the rate is known only
            after running on the weights.
        place: place(quantizer, groups, pruned) sets open arguments of a quantizer from the histograms; None if there
            are none.
        boundaries: boundaries(quantizer, codebook) returns the k − 1 boundaries between cells, or None if unknown;
            None if they depend on more than the codebook.
        corners: corners(quantizer, selection, progress) lists all values of λ that give different results, from coarse
            to fine; None if there is no end of them.
        estimate_rate: estimate_rate(quantizer, selection) returns a function that estimates the rate [bit/weight] at
            any λ in a fraction of the time of a run; None if there is none.
        needs_calibration: Whether it uses :func:`nbquant.calibrate`.
        code_moves_clusters: Whether the clusters of its curve depend on the code of the indices; if not, curves for
            several codes share them.
    """

    make: type[Any]
    labels: tuple[str, str]
    quantize: Callable[[Any, Selection, Progress], Quantized]
    curve: Callable[["Family", Groups, bool], Tabulated] | None = None
    place: Callable[[Any, Groups, bool], Quantizer] | None = None
    boundaries: Callable[[Any, Float[np.ndarray, " k"]], Float[np.ndarray, " k-1"] | None] | None = None
    corners: Callable[[Any, Selection, Progress], Sequence[float]] | None = None
    estimate_rate: Callable[[Any, Selection], Callable[[float], float]] | None = None
    needs_calibration: bool = False
    code_moves_clusters: bool = True

    def __repr__(self) -> str:
        return f"Method({self.name!r})"

    @property
    def name(self) -> str:
        """Name of the method, as in :func:`nbquant.fit`."""
        return str(self.make.method)

    @property
    def parameter(self) -> Parameter:
        """The argument that sets the rate."""
        found = self.make.parameter
        assert isinstance(found, Parameter)
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Names of the options with their defaults, read from the class."""
        known = {f.name: f.default for f in fields(self.make) if f.name != self.parameter.name}
        assert MISSING not in known.values(), f"options of {self.name} must have defaults"
        return known

    @property
    def title(self) -> str:
        """Name without mention of weighting: the shorter of both labels."""
        return min(self.labels, key=len)

    def label(self, weighted: bool) -> str:
        """Name in legends and menus."""
        return self.labels[bool(weighted)]

    def family(self, **asked: Any) -> "Family":
        """Make the family of all quantizers of this method with some options.

        Args:
            **asked: Options by name; None means the default, unless None is a value of the option. Without
                ``per_layer`` the default of ``steps`` is "joint", as steps per layer need a codebook per layer.

        Raises:
            TypeError: An unknown option (names the nearest).
            ValueError: An option of other methods only, or an invalid value.
        """
        options = self.options
        kinds = get_type_hints(self.make)
        given = {n: v for n, v in asked.items() if v is not None or NoneType in get_args(kinds.get(n))}
        for name, value in given.items():
            if name not in options and getattr(self.make, name, None) != value:
                raise self._unknown(name)
        options |= {name: value for name, value in given.items() if name in options}
        if "steps" in options and "steps" not in given and not options["per_layer"]:
            options["steps"] = "joint"
        return Family(self, tuple(options.items()))

    def _unknown(self, name: str) -> Exception:
        options = self.options
        always = getattr(self.make, name, None)
        if isinstance(always, bool):
            return ValueError(f"{name} of {self.name} is always {always}: leave it out")
        near = nearest(name, list(options))
        return TypeError(f"options of {self.name} are {', '.join(options)}, but got {name!r}{near}")


@dataclass(frozen=True)
class Family:
    """Quantizers that differ only in their parameter: the points of one curve.

    Attributes:
        method: The method.
        options: All options, by name.
    """

    method: Method
    options: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        return f"{self.method.name}({', '.join(f'{name}={value!r}' for name, value in self.options)})"

    def __call__(self, value: float) -> Quantizer:
        """Make the quantizer with this value of the parameter."""
        parameter = self.method.parameter
        made: Quantizer = self.method.make(
            **dict(self.options), **{parameter.name: int(value) if parameter.whole else value}
        )
        return made

    def __getattr__(self, name: str) -> Any:
        """Look up an option, or an attribute shared by all quantizers of the method."""
        if name.startswith("__"):
            raise AttributeError(name)
        options = dict(self.options)
        return options[name] if name in options else getattr(self.method.make, name)
