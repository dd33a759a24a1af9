"""Find what breaks by quantization, in the background: samples whose answer flips, filters before and after."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nbquant.models.flips import Flips
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.selection import Selection
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "breaks"
MOST_FILTERS = 24


@dataclass(frozen=True, eq=False)
class Filters:
    """Kernels of a convolution before and after.

    Attributes:
        name: Name of the parameter.
        before: Kernels of the first input channel.
        after: The same, quantized.
    """

    name: str
    before: Float[Tensor, "n height width"]
    after: Float[Tensor, "n height width"]


@dataclass(frozen=True, eq=False)
class Breaks:
    """What quantization breaks.

    Attributes:
        quantized: The result.
        flips: Samples whose answer differs from the original's.
        partial: Whether of some of the test samples, the first.
        filters: Filters before and after; None without a convolution.
    """

    quantized: Quantized
    flips: Flips
    partial: bool
    filters: Filters | None


def find_breaks(bench: Workbench, selection: Selection, focus: str, show: Callable[[Breaks], None]) -> None:
    """Compare the answers of what would be saved with the original's; ``show`` gets what differs.

    Args:
        bench: What to work with.
        selection: The weights before.
        focus: Parameter whose filters are shown, if it has any; otherwise the first that has.
        show: Gets the result.
    """
    network = bench.with_network(SLOT, "answers cannot be compared")
    keep = None if network is None else bench.kept(SLOT)
    if network is None or keep is None:
        return

    def work(report: Report) -> Breaks:
        quantized = keep(report)
        flips, whole = network.flips(quantized, report)
        return Breaks(quantized, flips, not whole, filters_of(selection, quantized, focus))

    bench.jobs.start(SLOT, "Comparing answers", work, show)


def filters_of(selection: Selection, quantized: Quantized, focus: str) -> Filters | None:
    """Take the first filters of the parameter in focus, or of the first one with kernels of 2 × 2 or more."""
    known = [t for t in selection if t.weight.ndim == 4 and min(t.weight.shape[2:]) > 1 and t.name in quantized.tensors]
    known.sort(key=lambda t: t.name != focus)
    if not known:
        return None
    weight = known[0].weight
    after = quantized.tensors[known[0].name].dequantize().reshape(weight.shape)
    first = (slice(MOST_FILTERS), 0)
    return Filters(known[0].name, weight.detach()[first].float().cpu().clone(), after[first].float().cpu().clone())
