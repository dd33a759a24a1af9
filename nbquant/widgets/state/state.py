"""The explorer's state, which runs without a browser: inputs, results, and what the user can ask for."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nbquant.analysis.by_hand import with_centre_at
from nbquant.models.evaluate import Loss
from nbquant.models.select import Sensitivities
from nbquant.quantization.block_quantizer import BLOCKS_METHOD
from nbquant.views.region import Region
from nbquant.widgets.jobs.breaks import find_breaks
from nbquant.widgets.jobs.finetune import SLOT as FINETUNE
from nbquant.widgets.jobs.finetune import finetune
from nbquant.widgets.jobs.measure import measure
from nbquant.widgets.jobs.prune import SLOT as PRUNE
from nbquant.widgets.jobs.prune import prune_module
from nbquant.widgets.jobs.save import deliver_file, save_file
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.trace import at_index, at_place, nearest_to
from nbquant.widgets.state import code, session
from nbquant.widgets.state.pins import require_density
from nbquant.widgets.state.steps import Steps


class ExplorerState(Steps):
    """Inputs and results of the explorer; see :class:`Inputs` and :class:`Results` for their names.

    Setting an input updates the results: the target at once from ready curves; selection, coding and damping in the
    background, where the newest setting wins, from histograms that are made once. The exact pass over the weights
    follows when the target has come to rest. What fails is told in ``error`` and leaves the last results standing; an
    input that cannot have its new value goes back to what it was.

    Attributes:
        available_layers: Names of all layers, selected or not.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        data: Any = None,
        *,
        sensitivity: Sensitivities | None = None,
        loss: Loss | None = None,
        **inputs: Any,
    ) -> None:
        """Make a state and start on its first results.

        Args:
            model: Any module, which is copied and never changed; or the path of a checkpoint, which is mapped.
            data: See :meth:`Data.of`; None for a checkpoint, or where nothing is to be estimated or measured.
            sensitivity: Sensitivities to use, or the path of a file of them; None estimates them in the background,
                with h = 1 until they are there, or for good without a module or data.
            loss: loss(output, target), the mean over a batch; None is cross-entropy.
            **inputs: First values of the inputs; ``layers`` as for :func:`nbquant.select`; of ``ratio``, ``rate``,
                ``levels``, ``lmbda`` and ``step`` at most one.

        Raises:
            TypeError: What is no module, path or data, or an input of a name or type that there is not.
            ValueError: Layers that cannot be selected, an input out of its range, several targets, data that can be
                read only once or come with a checkpoint.
            OSError: Files that are not there or cannot be read.
        """
        super().__init__(model, data, sensitivity, loss, inputs)
        self._given = code.Given(model, data, sensitivity, loss is not None)

    # Settings.

    def drive(self, name: str, value: float) -> None:
        """Ask for a ratio, rate, number of levels, λ or step; what cannot be is told in ``error``."""
        with self._deciding():
            self._accept(self.settings.at(name, value), name)

    def choose_point(self, method: str, weighted: bool, driver: str, value: float) -> None:
        """Go to a point of any curve, as one step."""
        with self._deciding():
            self._accept(self.settings.at(driver, value, method=method, weighted=weighted))

    def choose_format(self, name: str, search: bool, ratio: float) -> None:
        """Go to a block format for all layers, at a ratio, as one step."""
        with self._deciding():
            changes = {"formats": (name,), "layer_formats": (), "search": search}
            self._accept(self.settings.at("ratio", ratio, method=BLOCKS_METHOD.name, **changes))

    def set_layer_format(self, layer: str, name: str | None) -> None:
        """Give a layer a block format of its own; None lets it be chosen again."""
        with self._deciding():
            own = dict(self.settings.layer_formats)
            own.pop(layer, None)
            if name is not None:
                own[layer] = name
            self._accept(replace(self.settings, layer_formats=tuple(own.items())), f"format of {layer}")

    def free_layers(self) -> None:
        """Let the formats of all layers be chosen."""
        with self._deciding():
            self._accept(replace(self.settings, layer_formats=()))

    # Pins and sessions.

    def pin(self, label: str = "") -> None:
        """Pin the operating point that is shown, under a label or the next letter."""
        with self._deciding():
            self._pins.add([self._pinned(label or self._pins.name())])

    def unpin(self, index: int) -> None:
        """Remove a pin."""
        with self._deciding():
            self._pins.remove(index)
            self.compared = -1

    def go_to(self, index: int) -> None:
        """Take up all settings of a pin."""
        with self._deciding():
            pin = self._pins[index]
            require_density(f"pin {pin.label}", pin.pruned, self.pruned_to)
            self._weights.select(pin.inputs.layers)
            self._accept(pin.inputs)

    def session(self) -> dict[str, Any]:
        """All inputs, pins and the view, as plain values for JSON."""
        with self._jobs.lock:
            values = {name: getattr(self, name) for name in (*session.ALONGSIDE, *session.VIEW)}
            return session.session(self.settings, values, self.pins, self.pruned_to)

    def save_session(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, or replace it as a whole."""
        with self._deciding():
            session.write_session(self.session(), path)

    def restore(self, source: Mapping[str, Any] | bytes | str | os.PathLike[str]) -> None:
        """Take up a session, its JSON, or the path of a file of it; unless all fits only ``error`` changes."""
        with self._deciding():
            found = session.read_session(source, self.settings, self._checked, self._weights.select, self.pruned_to)
            self._accept(found.settings)
            for name, value in found.alongside.items():
                self.set_trait(name, value)
            if found.pins is not None:
                self.compared = -1
                self._pins.replace_all(found.pins)

    def code(self) -> str:
        """Lines of Python that give what is shown here."""
        with self._jobs.lock:
            return code.lines(
                self._given,
                self.settings,
                layers=self._weights.asked_for(self.selection.layers),
                estimated=self._weights is not self._estimates.given,
                weighs=self.sensitivity is not None,
                offset=self.damping * self.sensitivity.mean if self.sensitivity is not None else 0.0,
                density=self.pruned_to,
                epochs=None if self.finetuned is None else len(self.finetuned.history) - 1,
                path=None if self.file is None else str(self.file.path),
            )

    # Centres and regions.

    def move_centre(self, index: int, value: float) -> None:
        """Put a centre of the group in focus elsewhere, the others staying; what it costs is ``by_hand``."""
        with self._deciding():
            request = self._request()
            if isinstance(index, bool) or not isinstance(index, int):
                raise ValueError(f"the index of a centre must be a whole number, but is {index!r}")
            self.set_trait(
                "by_hand", with_centre_at(self.by_hand or request.point, request.statistics, self.group, index, value)
            )

    def release(self) -> None:
        """Put all centres back that were moved by hand."""
        with self._deciding():
            self.set_trait("by_hand", None)

    def brush(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Brush the places of the map of the parameter in focus that a box touches, in units of its axes."""
        self._brush.take(self.focused, lambda shape: Region.of(shape, x, y))

    def brush_text(self, text: str) -> None:
        """Brush rows and columns given as in "0:10, 5:20"; an empty text is none."""
        if not text.strip():
            self.unbrush()
        else:
            self._brush.take(self.focused, lambda shape: Region.parse(text, shape))

    def unbrush(self) -> None:
        """Forget the brushed region."""
        self._brush.clear()

    def trace_at(self, x: float, y: float) -> None:
        """Trace the weight at a point of the map of the parameter in focus, in units of its axes, into the file."""
        self._trace(at_place(x, y))

    def trace_value(self, value: float) -> None:
        """Trace the weight of the parameter in focus that is nearest to a value into the file."""
        self._trace(nearest_to(value))

    def trace_text(self, text: str) -> None:
        """Trace the weight of the parameter in focus at an index given as in "3, 17" into the file."""
        self._trace(at_index(text))

    def _trace(self, find: Callable[[Tensor], int]) -> None:
        with self._deciding():
            if self.focused is None:
                raise ValueError("a parameter of the selection must be in focus to trace a weight of it: choose one")
            self._tracer.take(self._workbench(), self.focused, find)

    # Background jobs.

    def finetune(self) -> None:
        """Fine-tune what the weights give at the target, in the background; from there, not from the last time."""
        if self._jobs.wanted(PRUNE):
            self._jobs.tell(FINETUNE, "the model is being pruned: fine-tune when that is done")
            return
        finetune(self._workbench(), self.epochs, self._take_finetuned)

    def find_breaks(self) -> None:
        """Find test samples whose answer differs from the original's, in the background."""
        find_breaks(self._workbench(), self.selection, self.focus, lambda found: self.set_trait("breaks", found))

    def measure(self) -> None:
        """Measure the accuracy of what would be saved, in the background, and what was predicted of the loss."""
        measure(self._workbench(), self._show_measurement)

    def prune(self) -> None:
        """Prune the module that was given to the chosen density, in the background; all then starts from the result.

        With data what is left is trained in between, and sensitivities are estimated again; without, they stay.
        """
        density = self.density
        prune_module(self._workbench(), self._original, density, lambda pruned: self._start_from(pruned, density))

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write what the weights give at the target, fine-tuned if they were, to a file, in the background.

        Args:
            path: Replaces the input of this name.
        """
        if path is not None:
            self.tell("inputs", "")
            self.path = os.fspath(path)
            if self.path != os.fspath(path):
                return  # refused, which was told
        save_file(self._workbench(), Path(self.path), lambda saved: self.set_trait("saved", saved))

    def deliver(self, take: Callable[[str, bytes], None]) -> None:
        """Hand the file that :meth:`save` would write to ``take``, its name first, in the background."""
        deliver_file(self._workbench(), Path(self.path).name, take)

    def run_beside(self, slot: str, activity: str, work: Callable[[Report], Any], done: Callable[[Any], None]) -> None:
        """Run a job of the view's in the background.

        Args:
            slot: One of the state's slots.
            activity: What it does, in words.
            work: Does it, in a thread of its own.
            done: Takes over the result.
        """
        self._jobs.start(slot, activity, work, done)

    def tell(self, source: str, message: str) -> None:
        """Say in ``error`` what went wrong with something that a view does by itself; "" takes it back."""
        with self._jobs.lock:
            self._jobs.tell(source, message)

    def cancel(self) -> None:
        """Stop all that is under way in the background; what is shown stays."""
        with self._jobs.lock:
            self._cancelled = True
            self.set_trait("cancelled", self._jobs.any_wanted or self.cancelled)
            self._jobs.cancel()

    def resume(self) -> None:
        """Go on with what was cancelled: what the settings ask for."""
        with self._deciding():
            if self._network is not None and self._estimates.in_use != (self.settings.estimator, self.settings.samples):
                self.estimate()
            self._go(self.settings)

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is under way in the background; False if ``timeout`` [s] ran out."""
        return self._jobs.wait(timeout)

    # What was given.

    @property
    def layer_sizes(self) -> dict[str, int]:
        """Number of weights of each layer, selected or not."""
        return self._weights.sizes

    @property
    def is_prunable(self) -> bool:
        """Whether there is a module to prune."""
        return isinstance(self._original, nn.Module)
