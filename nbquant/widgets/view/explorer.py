"""The explorer: controls, tables and linked pictures of an :class:`ExplorerState`."""

import os
from html import escape
from typing import Any

import ipywidgets as w
from IPython.display import display
from torch import nn

from nbquant.models.evaluate import Loss
from nbquant.models.select import Sensitivities
from nbquant.views.notebook_figure import png
from nbquant.widgets.panels import panels
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.actions import Actions
from nbquant.widgets.view.controls import Controls
from nbquant.widgets.view.link import PanelLink
from nbquant.widgets.view.pictures import picture_of
from nbquant.widgets.view.readout import STYLE
from nbquant.widgets.view.still_output import HIDING, StillOutput
from nbquant.widgets.view.tables import codebook_table, layers_table, pins_table
from nbquant.widgets.view.train_and_save import TrainAndSaveBar
from nbquant.widgets.view.while_busy import answer_while_busy


class Explorer(w.VBox):
    """The view of an :class:`ExplorerState`.

    Attributes:
        state: Inputs and results; setting its traits moves the controls.
        controls: What chooses a quantizer and sensitivities.
        actions: Undo, pins, code, session, download.
        keep: Prune, measure, fine-tune, save.
        panel: Sliders, read-outs and figures.
        layers: Table of the layers.
        codebook: Table of the codewords.
        pins: Table of pinned operating points.
    """

    def __init__(self, state: ExplorerState) -> None:
        """Link all parts to ``state``."""
        self.state = state
        # Before the panel: a front end makes widgets in this order, and the panel is large.
        self.layers, self.codebook, self.pins = layers_table(state), codebook_table(state), pins_table(state)
        self.panel = panels.figure_panel()
        self.controls, self.keep, self.actions = Controls(state), TrainAndSaveBar(state), Actions(state, self.panel)
        self._error = w.HTML()
        self._still = StillOutput(self._png, "The explorer: histogram, heat map, rate-distortion curves and ledger")
        self._link = PanelLink(state, self.panel, self._still.update)
        top = w.HBox([self.layers, self.controls], layout=w.Layout(flex_flow="row wrap", align_items="flex-start"))
        bottom = w.HBox([self.codebook, self.pins], layout=w.Layout(flex_flow="row wrap", align_items="flex-start"))
        super().__init__(
            [w.HTML(f"<style>{STYLE}{HIDING}</style>"), top, self.actions, self.keep, self._error, self.panel, bottom]
        )
        self.add_class("nbquant-explorer")
        state.observe(lambda change: self._show_error(), "error")
        state.observe(lambda change: self._show_size(), "size")
        self._show_error()
        self._show_size()

    def _ipython_display_(self) -> None:
        answer_while_busy(self)
        display(self._repr_mimebundle_(), raw=True)
        self._still.display()

    def _png(self) -> bytes:
        found = picture_of(self.state)
        return b"" if found is None else png(found)

    def _show_error(self) -> None:
        text = self.state.error
        self._error.value = f'<div class="nbquant-error" role="alert">{escape(text)}</div>' if text else ""

    def _show_size(self) -> None:
        for size in ("compact", "projection"):
            (self.add_class if self.state.size == size else self.remove_class)(f"nbquant-{size}")
        for part in (self.panel, self.layers, self.codebook, self.pins):
            part.size = self.state.size


def explore(
    model: nn.Module | str | os.PathLike[str],
    data: Any = None,
    *,
    sensitivity: Sensitivities | None = None,
    loss: Loss | None = None,
    **inputs: Any,
) -> Explorer:
    """Explore the quantization of a model, or of a checkpoint on disk.

    Args:
        model: Any module; or the path of a checkpoint, as for :func:`nbquant.select`, which is mapped and may be larger
            than memory.
        data: Something with ``calibration`` and ``test`` batches, and ``train`` to fine-tune on, as
            :func:`nbquant.zoo.load` gives; or one iterable of (inputs, target) batches for all. None, as for a
            checkpoint: nothing can be estimated, fine-tuned or measured, but all else works.
        sensitivity: From :func:`nbquant.sensitivity`, or the path of a file of them; None estimates it in the
            background, or weighs all weights alike without a module and data.
        loss: loss(output, target), the mean over a batch; None is cross-entropy.
        **inputs: First values of the state's inputs, for instance ``method="kmeans"``, ``ratio=15.0``,
            ``layers=("fc1",)``: see :class:`~nbquant.widgets.state.ExplorerState`.

    Returns:
        The widget; as the last line of a cell it is shown.

    Raises:
        TypeError: What is no module, path or data, or an input of a name or type that there is not.
        ValueError: Layers that cannot be selected, an input out of its range, data that can be read only once or come
            with a checkpoint.
        OSError: Files that are not there or cannot be read.
    """
    return Explorer(ExplorerState(model, data, sensitivity=sensitivity, loss=loss, **inputs))
