"""Prune the module in the background."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from nbquant.pipeline.prune import Pruned, prune
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "prune"


def prune_module(bench: Workbench, original: nn.Module | Path, density: float, show: Callable[[Pruned], None]) -> None:
    """Prune a module, training what is left where there are data.

    Args:
        bench: What to work with.
        original: The module as it was given; a checkpoint cannot be pruned, which is told.
        density: Part of the weights to keep.
        show: Gets the pruned module.
    """
    network = bench.network
    if not isinstance(original, nn.Module):
        bench.jobs.tell(SLOT, f"there is nothing to prune: {bench.lacking}")
        return

    def work(report: Report) -> Pruned:
        return prune(original, density, progress=report) if network is None else network.prune(density, report)

    bench.jobs.start(SLOT, "Pruning", work, show)
