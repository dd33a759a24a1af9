"""Estimate sensitivities in the background."""

from collections.abc import Callable, Mapping

from torch import Tensor

from nbquant.widgets.jobs.workbench import Workbench

SLOT = "sensitivity"


def estimate(bench: Workbench, estimator: str, samples: int, show: Callable[[Mapping[str, Tensor]], None]) -> None:
    """Estimate the sensitivities of all parameters; ``show`` gets them by name."""
    network = bench.with_network(SLOT, "sensitivities cannot be estimated")
    if network is not None:
        bench.jobs.start(
            SLOT, "Estimating sensitivities", lambda report: network.estimate(estimator, samples, report), show
        )
