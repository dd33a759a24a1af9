"""Follow the point with what stands beside it: a pin, a file, block formats, a traced weight, what breaks."""

from collections.abc import Callable
from functools import partial
from typing import Any

from nbquant.quantization.quantized import Quantized
from nbquant.registry import nearest
from nbquant.widgets.jobs.breaks import SLOT as BREAKS
from nbquant.widgets.jobs.compare import SLOT as COMPARE
from nbquant.widgets.jobs.compare import PinComparison, compare
from nbquant.widgets.jobs.curves import BOUND, CurveInputs, Curves
from nbquant.widgets.jobs.format_points import SLOT as FORMATS
from nbquant.widgets.jobs.format_points import compare_formats, known_points
from nbquant.widgets.jobs.inspected_file import SLOT as FILE
from nbquant.widgets.jobs.inspected_file import TENSOR, InspectedFile, inspect_file, read_codes
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.state.pins import Pin, weights_of
from nbquant.widgets.state.updates import Updates


class Beside(Updates):
    """Results that are shown beside the point."""

    _compared_on: CurveInputs | None = None  # selection that block formats are compared on

    def __init__(self, *given: Any) -> None:
        """Start on the first results; arguments and errors as of :class:`Updates`."""
        super().__init__(*given)
        self.observe(lambda change: self._compare_formats(), ["all_formats"])
        self.observe(lambda change: self.open_file(), ["quantized_file"])
        self.observe(lambda change: self._read_codes(), ["file_tensor", "inspected"])
        self.observe(lambda change: self._forget_breaks(), ["exact", "finetuned"])
        self.observe(lambda change: self._follow_trace(), ["exact", "finetuned", "focus"])
        self.observe(lambda change: self._compare(), ["compared", "exact", "finetuned", "measure_at_rest"])
        if self.quantized_file:
            self.open_file()

    def _show_curves(self, inputs: CurveInputs, curves: Curves) -> None:
        super()._show_curves(inputs, curves)
        self._compare_formats()

    def _compare_formats(self) -> None:
        """Compare block formats on the selection of the curves, if they are asked for and all curves are there."""
        with self._jobs.lock:
            inputs = self._curves_of
            known = () if inputs is None or not self.all_formats else known_points(inputs)
            self.set_trait("format_points", known)
            if inputs is None or not self.all_formats:
                self._jobs.cancel(FORMATS)
            elif BOUND in inputs.statistics.curves and (
                inputs is not self._compared_on or not self._jobs.wanted(FORMATS)
            ):
                self._compared_on = inputs
                compare_formats(self._jobs, inputs, lambda points: self.set_trait("format_points", points))

    def open_file(self) -> None:
        """Inspect the file that another library has quantized, in the background; without a path none is shown."""
        with self._jobs.lock:
            self._jobs.cancel(FILE, TENSOR)
            self._jobs.tell(FILE, "")
            if self.quantized_file:
                inspect_file(self._workbench(), self.quantized_file, self.damping, self._show_file)
            else:
                self.set_trait("inspected", None)

    def _show_file(self, found: InspectedFile) -> None:
        if self.file_tensor not in found.opened.tensors:
            rows = found.rows.sort_values("weights", ascending=False, kind="stable")
            coded = rows[rows["code_entropy"].notna()]
            self.file_tensor = str((coded if len(coded) else rows)["name"].iloc[0])
        self.set_trait("inspected", found)

    def _read_codes(self) -> None:
        """Read the codes of the chosen tensor of the open file."""
        with self._jobs.lock:
            self._jobs.cancel(TENSOR)
            self._jobs.tell(TENSOR, "")
            if self.inspected is None:
                self.set_trait("tensor_codes", None)
            elif self.file_tensor in self.inspected.opened.tensors:
                show = partial(self.set_trait, "tensor_codes")
                read_codes(self._workbench(), self.inspected, self.file_tensor, show)
            else:
                names = self.inspected.opened.tensors
                near = nearest(self.file_tensor, list(names))
                self._jobs.tell(
                    TENSOR, f"file_tensor must be one of {len(names)}, but is {self.file_tensor!r}{near}"[:400]
                )

    def _forget_breaks(self) -> None:
        with self._jobs.lock:
            if self.breaks is not None and self.breaks.quantized is not self.kept:
                self._jobs.cancel(BREAKS)
                self.set_trait("breaks", None)

    def _follow_trace(self) -> None:
        with self._jobs.lock:
            if self.kept is not None:
                self._tracer.follow(self._workbench(), self.focused)

    def _compare(self) -> None:
        """Compare what is kept at this target with the pin of the user's choice, if any."""
        with self._jobs.lock:
            self._jobs.cancel(COMPARE)
            self.set_trait("comparison", None)
            self._jobs.tell(COMPARE, "")
            if self.kept is None or not 0 <= self.compared < len(self._pins):
                return
            pin = self._pins[self.compared]

            def show(found: PinComparison) -> None:
                self._pins.keep(pin, found.other)
                self.set_trait("comparison", found)

            with self._jobs.reporting(COMPARE):
                compare(self._workbench(), pin.label, self._result_of(pin), self.measure_at_rest, show)

    def _result_of(self, pin: Pin) -> Callable[[Report], Quantized]:
        known = self._pins.result(pin)
        if known is not None:
            return lambda report: known
        settings, weights = pin.inputs, weights_of(pin, self.pruned_to, self._estimates)
        quantize = self._curves.quantizing(settings, weights, weights.select(settings.layers), self._curves_of)
        return lambda report: quantize(settings.target, report)
