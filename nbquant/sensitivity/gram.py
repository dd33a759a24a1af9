"""Running second moments of layer inputs, block-diagonal for wide inputs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nbquant.quantization.moments import LayerMoments
from nbquant.sensitivity.loss import wide

PLACES = 1 << 15  # places used for moments, over all samples; more add hardly any information …
PLACES_OF_EACH = 32  # … beyond this many per input of a block
MOST_BYTES = 3 << 29  # of the blocks of all layers
FACTOR_COST = 6_000  # most multiplications per weight to factor the blocks of all layers
LEAST_WIDTH = 128
HELD_BACK = 10  # one place in so many is held back
MOST_HELD = 256  # most places held back
MOST_HELD_ENTRIES = 1 << 22
CHUNK = 1 << 21  # entries of inputs gathered together


def block_widths(shapes: Mapping[str, tuple[int, int, int]]) -> dict[str, int]:
    """Compute the largest block width of each layer: the full width, unless total time or memory exceed a limit.

    Beyond it, widths are proportional to the square root of the number of rows, so that factoring takes about the same
    time per weight in each layer.

    Args:
        shapes: Groups, rows of a group, and inputs of each layer.
    """
    weights = sum(groups * rows * d for groups, rows, d in shapes.values())
    per_row = max((d * d / rows for _, rows, d in shapes.values()), default=1.0)
    while True:
        widths = {
            name: min(d, max(LEAST_WIDTH, math.isqrt(int(per_row * rows)))) for name, (_, rows, d) in shapes.items()
        }
        sizes = [(groups * d, widths[name]) for name, (groups, _, d) in shapes.items()]
        cost, size = sum(n * width**2 for n, width in sizes), sum(4 * n * width for n, width in sizes)
        if per_row < 1 or (cost <= FACTOR_COST * weights and size <= MOST_BYTES):
            return widths
        per_row *= 0.8


@dataclass(eq=False)
class Gram:
    """Sums over places of x xᵀ in blocks, and of x.

    Attributes:
        groups: Number of groups of rows, each with its own inputs.
        width: Largest width of a block.
    """

    groups: int
    width: int
    _places: Tensor | None = None
    _blocks: list[Tensor] = field(default_factory=list)
    _sum: Tensor | None = None
    _held: list[Tensor] = field(default_factory=list)
    _held_places: int = 0

    def add(
        self,
        seen: Callable[[Int64[Tensor, " n"]], Float[Tensor, "groups n d"]],
        index: Int64[Tensor, " places"],
        within: slice,
        whole: bool,
    ) -> None:
        """Add the inputs at some places, a few at a time.

        Args:
            seen: Function from indices of places to the inputs there.
            index: Indices of the places.
            within: Groups with inputs at these places.
            whole: Whether these are all groups, so that some places may be held back.
        """
        x = seen(index[:1])
        d, dtype = x.shape[2], wide(x.dtype)
        if self._sum is None:
            x = x.to(dtype)
            count = math.ceil(d / self.width)
            sizes = [d * (i + 1) // count - d * i // count for i in range(count)]
            self._blocks = [torch.zeros(self.groups, n, n, dtype=x.dtype, device=x.device) for n in sizes]
            self._sum = torch.zeros(self.groups, d, dtype=torch.float64, device=x.device)
            self._places = torch.zeros(self.groups, dtype=torch.int64, device=x.device)
        room = min(MOST_HELD, MOST_HELD_ENTRIES // (self.groups * d)) - self._held_places
        if whole and len(index) >= 2 * HELD_BACK and room > 0:
            back = torch.arange(len(index), device=index.device) % HELD_BACK == HELD_BACK - 1
            back &= back.cumsum(0) <= room
            self._held.append(seen(index[back]).float())
            self._held_places += self._held[-1].shape[1]
            index = index[~back]
        for places in index.split(max(CHUNK // x[:, 0].numel(), 1)):
            x, first = seen(places).to(dtype), 0
            for block in self._blocks:
                part = x[:, :, first : first + block.shape[1]]
                block[within] += part.mT @ part
                first += block.shape[1]
            self._sum[within] += x.sum(1, dtype=torch.float64)
        assert self._places is not None
        self._places[within] += len(index)

    def moments(self, outputs: Float[Tensor, " rows"], bias: bool) -> LayerMoments:
        """Compute the means, with s of the outputs."""
        assert self._sum is not None
        assert self._places is not None
        places, blocks = self._places.clamp(min=1)[:, None], self._blocks
        held = torch.cat(self._held, 1) if self._held else None
        mean = (self._sum / places).float() if bias else None
        means = tuple(block / places[..., None] for block in blocks)
        reached = self._places > 0
        if reached.any() and not reached.all():  # a group without inputs: white inputs of the others' mean energy
            energy = torch.cat([block[reached].diagonal(dim1=1, dim2=2) for block in means], 1).mean()
            for block in means:
                block[~reached] = energy * torch.eye(block.shape[1]).to(block)
        same = bool((self._places == self._places[0]).all())
        return LayerMoments(means, mean, outputs, int(self._places[0]) if same else self._places.cpu(), held)


def some_places(count: int, most: int, device: torch.device) -> Int64[Tensor, " n"]:
    """Draw indices of places at random, or take all if there are few; reproducible for the same count."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].to(device)
