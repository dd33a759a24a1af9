"""Declare the explorer's inputs as traits, and set them from settings and operating points."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import PurePath
from threading import get_ident
from typing import Any

import traitlets

from nbquant.analysis.operating_point import OperatingPoint
from nbquant.quantization import methods
from nbquant.quantization.block_quantizer import USUAL, BlockQuantizer
from nbquant.quantization.kmeans import KMeans
from nbquant.registry import nearest
from nbquant.sensitivity import estimators
from nbquant.widgets.kinds import MOST, Kind, check
from nbquant.widgets.settings import DRIVERS, SIZES, TARGETS, Settings

SETTINGS = tuple(field.name for field in fields(Settings) if field.name not in ("driver", "value"))
"""Inputs that results follow from, beside those of :data:`TARGETS`."""


AXES = ("predicted", "accuracy", "divergence")
"""What the rate-distortion figure can show; the last two only of points that were measured."""
CHECKED = {"path": Kind("the name of a file that ends in .nbq", lambda value: PurePath(value).suffix == ".nbq")}
"""Kinds of inputs that have another type and no part in the results."""


class Names(traitlets.Tuple):
    """Names, of which one may stand alone."""

    def validate(self, obj: Any, value: Any) -> Any:
        """Take a name alone as a tuple of it; otherwise as traitlets."""
        return super().validate(obj, (value,) if isinstance(value, str) else value)


class Finite(traitlets.Float):
    """A number that is neither infinite nor NaN, which no bound excludes."""

    def validate(self, obj: Any, value: Any) -> Any:
        """Reject other numbers; otherwise as traitlets."""
        found = super().validate(obj, value)
        if not math.isfinite(found):
            self.error(obj, value)
        return found


class Inputs(traitlets.HasTraits):
    """Inputs as traits.

    One of ``ratio``, ``rate``, ``levels``, ``lmbda``, ``step`` and ``accuracy_loss`` is asked for, the one that was set
    last; the others follow the point, but for ``accuracy_loss``, which stays.

    Attributes:
        layers: Names of the selected layers.
        method: Name of a method. Those without a curve run on the weights at several λ, in the background.
        weighted: Weigh by sensitivity.
        coding: Name of a code. It and ``per_layer`` start as the method has them by default, and do so again on a
            change of method, unless they had been changed.
        per_layer: A codebook for each layer, or one for all.
        pinned_zero: For k-means: one of the levels is exactly zero.
        formats: For block formats: names of those that each layer may have, also as text with commas.
        layer_formats: For block formats: formats of single layers, as a mapping or pairs; they are not chosen.
        search: For block formats: search the best scales, or round as the library does.
        ratio: Compression ratio of the selection; asked for, it is the least.
        rate: R [bit/weight]; asked for, it is the largest.
        levels: Number of reconstruction values; asked for, it is the largest.
        lmbda: λ of ECSQ [loss/bit]; 0 for other methods.
        step: Δ of uniform quantization [weight]; 0 for other methods.
        accuracy_loss: Accuracy that may be lost [percentage points]; asked for, the highest ratio that loses no more is
            searched by measuring.
        estimator: Name of the sensitivity estimator.
        samples: Calibration samples that it sees; 0 is all.
        damping: ε of h + ε·mean(h). Without it ECSQ sets many weights of small h to zero at high ratios, whose errors
            point the same way, so that far more accuracy is lost than the diagonal predicts.
        focus: Parameter whose sensitivities are shown.
        density: Part of the weights that pruning keeps.
        epochs: Passes over the training batches that fine-tuning makes.
        measure_at_rest: Whether a point that has come to rest is measured on as many samples as take about a second.
        path: File that is saved to, ending in ``.nbq``.
        bars: What the histogram's bars hold: "weights", their number, or "h", the sum of their damped sensitivities,
            by which the centres are weighted.
        log_count: Whether the histogram's axis of counts is logarithmic.
        axis: Vertical axis of the rate-distortion figure: "predicted" loss, "accuracy" lost or KL "divergence".
        pooling: "max" or "mean" of the entries that share a pixel of a map.
        size: "standard", "compact" (half a screen) or "projection" (for a class).
        all_formats: Whether the rate-distortion figure shows all block formats of other libraries.
        quantized_file: Path of a file that another library has quantized, which is inspected; "" for none.
        file_tensor: Name of the tensor of that file whose codes are shown; "" for none.
        compared: Place of the pin to be compared with; −1 for none.
        driver: Which of ``ratio``, ``rate``, ``levels``, ``lmbda``, ``step`` and ``accuracy_loss`` is asked for.
    """

    layers = Names()
    method = traitlets.Unicode(KMeans.method)
    weighted = traitlets.Bool(KMeans.weighted)
    coding = traitlets.Unicode(KMeans.coding)
    per_layer = traitlets.Bool(KMeans.per_layer)
    pinned_zero = traitlets.Bool(KMeans.pinned_zero)
    formats = traitlets.Any(USUAL)
    layer_formats = traitlets.Any(())
    search = traitlets.Bool(BlockQuantizer.search)
    ratio = traitlets.Float(14.0)
    rate = traitlets.Float(0.0)
    levels = traitlets.Int(0)
    lmbda = traitlets.Float(0.0)
    step = traitlets.Float(0.0)
    accuracy_loss = traitlets.Float(0.5)
    estimator = traitlets.Unicode(estimators.DEFAULT.name)
    samples = traitlets.Int(0, min=0)
    damping = traitlets.Float(0.1, min=0.0)
    focus = traitlets.Unicode()
    epochs = traitlets.Int(1, min=1)
    density = Finite(0.1, min=0.0, max=1.0)
    measure_at_rest = traitlets.Bool(True)
    path = traitlets.Unicode("model.nbq")
    bars = traitlets.Enum(("weights", "h"), "weights")
    log_count = traitlets.Bool(False)
    axis = traitlets.Enum(AXES, "predicted")
    pooling = traitlets.Enum(("max", "mean"), "max")
    size = traitlets.Enum(SIZES, "standard")
    all_formats = traitlets.Bool(False)
    quantized_file = traitlets.Unicode("")
    file_tensor = traitlets.Unicode("")
    compared = traitlets.Int(-1)
    driver = traitlets.Enum(TARGETS, "ratio", read_only=True)

    _writer: int | None = None  # thread in which settings or a point move the inputs

    @property
    def _is_following(self) -> bool:
        """Whether inputs change now, in this thread, because settings or a point move them."""
        return self._writer == get_ident()

    def _first_settings(self, inputs: Mapping[str, Any], layers: tuple[str, ...]) -> Settings:
        """Set the first values of inputs, and collect them as settings.

        Raises:
            TypeError: An unknown name.
            ValueError: A value that an input cannot have, or several targets.
        """
        known = [name for name, trait in self.traits().items() if not trait.read_only]
        usual = methods.named(inputs["method"]).options if inputs.get("method") in methods.names() else {}
        for name, value in ({name: usual[name] for name in usual if name in SETTINGS} | dict(inputs)).items():
            if name not in known:
                raise TypeError(
                    f"the explorer's inputs are {', '.join(known)}, but {name!r} came{nearest(name, known)}"
                )
            try:
                self.set_trait(name, value)
            except traitlets.TraitError:
                raise ValueError(self.refusal(name, value)) from None
        for name, kind in CHECKED.items():
            check({name: getattr(self, name)}, {name: kind})
        if self.compared != -1:
            raise ValueError(f"compared must be -1 at first, as there are no pins yet, but is {self.compared}")
        asked = [name for name in TARGETS if name in inputs] or ["ratio"]
        if len(asked) > 1:
            raise ValueError(f"at most one of {', '.join(TARGETS)} can be asked for, but {' and '.join(asked)} came")
        own = {name: getattr(self, name) for name in SETTINGS}
        return Settings(**{**own, "layers": layers}, driver=asked[0], value=getattr(self, asked[0]))

    def _checked(self, name: str, value: Any) -> Any:
        """Convert a value as the input of this name does, or reject it with a ValueError."""
        try:
            if isinstance(value, float) and not -MOST < value < MOST:
                raise traitlets.TraitError("it is not finite")
            found = self.traits()[name]._validate(self, value)
        except traitlets.TraitError:
            raise ValueError(self.refusal(name, value)) from None
        if name in CHECKED:
            check({name: found}, {name: CHECKED[name]})
        return found

    def refusal(self, name: str, value: Any) -> str:
        """Say what the input of a name must be, where a value has another type or is out of its bounds."""
        trait = self.traits()[name]
        if isinstance(trait, traitlets.Enum):
            names = [str(each) for each in trait.values or ()]
            return f"{name} must be one of {', '.join(names)}, but is {value!r}{nearest(value, names)}"[:400]
        bounds = [(getattr(trait, end, None), word) for end, word in (("min", "at least"), ("max", "at most"))]
        said = [f"{word} {bound:g}" for bound, word in bounds if isinstance(bound, int | float) and abs(bound) < MOST]
        kinds = {
            traitlets.Bool: "true or false",
            traitlets.Int: "a whole number",
            traitlets.Float: "a finite number",
            traitlets.Unicode: "a text",
            traitlets.Tuple: "a list of names",
        }
        kind = next(text for known, text in kinds.items() if isinstance(trait, known))
        return f"{name} must be {', '.join([kind, *said])}, but is {value!r}"[:400]

    def _put(self, settings: Settings, point: OperatingPoint | None) -> None:
        """Set all inputs from settings, and the quantities that are not asked for from the point."""
        with self._following():
            self.set_trait("driver", settings.driver)
            for name in SETTINGS:
                self.set_trait(name, getattr(settings, name))
            self.set_trait(settings.driver, settings.value)
            if point is not None:
                self._follow(point)

    def _follow(self, point: OperatingPoint) -> None:
        """Set the quantities that are not asked for to those of the point."""
        own = {"levels": point.levels, "rate": point.rate, "ratio": point.compression_ratio, "lmbda": 0.0, "step": 0.0}
        own |= (
            {point.quantizer.parameter.name: point.parameter}
            if point.quantizer.parameter.name in ("lmbda", "step")
            else {}
        )
        with self._following():
            for name in DRIVERS:
                if name != self.driver:
                    self.set_trait(name, own[name])

    @contextmanager
    def _following(self) -> Iterator[None]:
        outer, self._writer = self._writer, get_ident()
        try:
            yield
        finally:
            self._writer = outer
