"""Read the weights that were brushed in a map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nbquant.quantization.tensor import SelectedTensor
from nbquant.views.region import Region
from nbquant.widgets.jobs.jobs import Jobs

SLOT = "brush"


@dataclass(frozen=True, eq=False)
class Brushed:
    """A region of a parameter's map.

    Attributes:
        parameter: Name of the parameter.
        region: Which places.
        weight: The weights there, on the CPU.
    """

    parameter: str
    region: Region
    weight: Float[Tensor, " n"]

    @property
    def label(self) -> str:
        """What was brushed, in words."""
        return f"{self.region.label} of {self.parameter}"


class Brush:
    """Reads the weights of a region in the background."""

    def __init__(self, jobs: Jobs, show: Callable[[Brushed | None], None]) -> None:
        """Run in the slot "brush" of ``jobs``; ``show`` gets what was read, None takes it back."""
        self._jobs, self._show = jobs, show

    def take(self, tensor: SelectedTensor | None, region_of: Callable[[Sequence[int]], Region]) -> None:
        """Brush a region of a tensor, given by its shape; what is none is told."""
        with self._jobs.lock, self._jobs.reporting(SLOT):
            if tensor is None:
                raise ValueError("a parameter of the selection must be in focus to brush it: choose one")
            region = region_of(tensor.weight.shape)
            self._jobs.start(
                SLOT,
                "Reading the region",
                lambda report: Brushed(tensor.name, region, region.weights(tensor.weight).detach().cpu().clone()),
                self._show,
                quiet=0.5,
            )

    def clear(self) -> None:
        """Forget what was brushed, and what is being read."""
        with self._jobs.lock:
            self._jobs.cancel(SLOT)
            self._jobs.tell(SLOT, "")
            self._show(None)
