"""Write the explorer as one HTML page that runs without a kernel."""

import os
from pathlib import Path
from typing import Any

from torch import nn

from nbquant.progress import Progress
from nbquant.quantization.selection import Selection
from nbquant.replacing import replacing
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.explorer import Explorer
from nbquant.widgets.view.page import page_of


def export_html(
    source: Explorer | Selection,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    progress: Progress = True,
) -> int:
    """Write the explorer as one HTML page that runs without a kernel and without a network.

    In the page move: method, weighting, coding, codebook, layers (all or each alone), ratio, rate, levels, λ or step,
    focus, pins and undo. It holds the curves of the methods that need no run, computed from histograms; numbers are
    therefore marked as approximate. Weights are not in it: what needs them (fine-tuning, measuring, saving) says how to
    get it.

    Args:
        source: An explorer, or a selection with sensitivities if there are any.
        path: File to write, replaced as a whole.
        title: Title of the page; None names the layers.
        progress: See :data:`nbquant.progress.Progress`; counts curves.

    Returns:
        Size of the file in bytes.

    Raises:
        TypeError: A source of another type.
        ValueError: An explorer without curves, or a page that would be larger than 6 MB however few its points.
        nbquant.progress.Cancelled: By ``progress``.
    """
    if isinstance(source, Selection):
        source = Explorer(ExplorerState(_module(source), sensitivity=_sensitivities(source), damping=0.0))
        source.state.wait(timeout=3600)
    elif not isinstance(source, Explorer):
        raise TypeError(f"an explorer or a selection is required, but got a {type(source).__name__}")
    page = page_of(source, source.state, title, progress)
    with replacing(Path(path)) as file:
        file.write_bytes(page)
    return len(page)


def _module(selection: Selection) -> nn.Module:
    """A module with just these tensors, under their names."""
    root = nn.Module()
    for tensor in selection:
        *path, name = tensor.name.split(".")
        module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, nn.Module())
            module = getattr(module, step)
        module.register_parameter(name, nn.Parameter(tensor.weight, requires_grad=False))
    return root


def _sensitivities(selection: Selection) -> Any:
    found = {t.name: t.sensitivity for t in selection if t.sensitivity is not None}
    return found or None
