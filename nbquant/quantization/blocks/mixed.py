"""Mixed formats: a format for each tensor, of least loss within a budget of bits."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from nbquant.quantization.blocks.block_format import BlockFormat

MOST_STATES = 1 << 20  # partial choices kept at a time by the exact search


@dataclass(frozen=True)
class Choice:
    """A tensor in a format.

    Attributes:
        format: Name of the format.
        bits: Stored bits, side information and padding included.
        loss: ½ Σ h (w − ŵ)².
    """

    format: str
    bits: float
    loss: float


@dataclass(frozen=True)
class Allocation:
    """Formats of all tensors.

    Attributes:
        choices: Choice of each tensor, by name.
        slope: Loss per bit at which the last tensor gets a larger format: the Lagrange multiplier.
        bound: No allocation within the budget has a smaller loss.
        exact: Whether this one has the least loss, and not only one near ``bound``.
    """

    choices: Mapping[str, Choice]
    slope: float
    bound: float
    exact: bool

    @property
    def bits(self) -> float:
        """Stored bits of all tensors."""
        return sum(choice.bits for choice in self.choices.values())

    @property
    def loss(self) -> float:
        """Loss of all tensors."""
        return sum(choice.loss for choice in self.choices.values())


def measure(
    formats: Sequence[BlockFormat],
    weight: Float[np.ndarray, "rows columns"],
    sensitivity: Float[np.ndarray, "rows columns"] | None = None,
    search: bool = True,
) -> tuple[Choice, ...]:
    """Encode a tensor in each format, and measure bits and loss.

    Args:
        formats: Formats.
        weight: Weights.
        sensitivity: Hessian diagonal h; None: all 1.
        search: Whether to search for scales, or to round as the libraries do.
    """
    found = []
    h = np.ones(1) if sensitivity is None else sensitivity.astype(np.float64)
    for block_format in formats:
        codes = block_format.encode(weight, sensitivity if search else None, search)
        error = np.atleast_2d(weight).astype(np.float64) - block_format.decode(codes)
        loss = 0.5 * float((h * error * error).sum())
        found.append(Choice(block_format.name, sum(codes.bits().values()), loss))
    return tuple(found)


def choose(
    formats: Sequence[BlockFormat],
    tensors: Mapping[str, Float[np.ndarray, "rows columns"]],
    budget_bits: float,
    sensitivities: Mapping[str, Float[np.ndarray, "rows columns"]] | None = None,
    search: bool = True,
) -> Allocation:
    """Choose a format for each tensor, so that the weighted loss of all is least within a budget.

    Args:
        formats: Formats to choose from.
        tensors: Weights by name.
        budget_bits: Stored bits of all tensors together.
        sensitivities: Hessian diagonals by name; None: all 1.
        search: See :func:`measure`.

    Raises:
        ValueError: No formats or tensors, or a budget below what the smallest formats take.
    """
    given = sensitivities or {}
    return allocate({name: measure(formats, w, given.get(name), search) for name, w in tensors.items()}, budget_bits)


def allocate(choices: Mapping[str, Sequence[Choice]], budget_bits: float) -> Allocation:
    """Choose one of each tensor's choices, so that the sum of losses is least within a budget.

    Equal slope first: from the smallest choices on, each tensor goes up its lower convex hull where a bit saves most.
    The slope at which the budget is spent bounds the least loss from below. Partial choices that this bound does not
    rule out are then enumerated, as a multiple-choice knapsack; if they become too many, the first result stands.

    Args:
        choices: Choices of each tensor, by name.
        budget_bits: Bits of all together.

    Raises:
        ValueError: Nothing to choose from, or a budget below what the smallest choices take.
    """
    if not choices or not all(choices.values()):
        raise ValueError("at least one tensor, and a format for each, is required to choose formats.")
    least = sum(min(choice.bits for choice in of) for of in choices.values())
    if budget_bits < least:
        raise ValueError(f"the smallest formats take {least:.0f} bits, but the budget is {budget_bits:.0f}: raise it.")
    bits = [np.array([choice.bits for choice in of]) for of in choices.values()]
    loss = [np.array([choice.loss for choice in of]) for of in choices.values()]
    first, slope = _equal_slope(bits, loss, budget_bits)
    bound = sum(float((d + slope * r).min()) for r, d in zip(bits, loss, strict=True)) - slope * budget_bits
    best = _enumerated(bits, loss, budget_bits, first, slope)
    picked = first if best is None else best
    named = {name: of[k] for (name, of), k in zip(choices.items(), picked, strict=True)}
    return Allocation(named, slope, max(bound, 0.0), exact=best is not None)


Columns = Sequence[Float64[np.ndarray, " choices"]]


def _hull(bits: Float64[np.ndarray, " n"], loss: Float64[np.ndarray, " n"]) -> list[int]:
    """Choices on the lower convex hull, from the fewest bits to the least loss."""
    hull: list[int] = []
    for k in np.lexsort((loss, bits)):
        if hull and loss[k] >= loss[hull[-1]]:
            continue
        while len(hull) > 1:
            i, j = hull[-2], hull[-1]
            if (loss[i] - loss[j]) * (bits[k] - bits[j]) > (loss[j] - loss[k]) * (bits[j] - bits[i]):
                break
            hull.pop()
        hull.append(int(k))
    return hull


def _equal_slope(bits: Columns, loss: Columns, budget: float) -> tuple[list[int], float]:
    """Take steps along all hulls, the steepest first, while they fit; and the slope of the first that does not."""
    hulls = [_hull(r, d) for r, d in zip(bits, loss, strict=True)]
    steps = []
    for t, hull in enumerate(hulls):
        for position, (i, j) in enumerate(itertools.pairwise(hull)):
            more = bits[t][j] - bits[t][i]
            steps.append(((loss[t][i] - loss[t][j]) / more, t, position + 1, more))
    left = budget - sum(bits[t][hull[0]] for t, hull in enumerate(hulls))
    reached, slope, blocked = [0] * len(hulls), 0.0, set()
    for steepness, t, position, more in sorted(steps, key=lambda step: -step[0]):
        if t in blocked or more > left:
            slope = max(slope, steepness)
            blocked.add(t)
            continue
        left -= more
        reached[t] = position
    return [hull[position] for hull, position in zip(hulls, reached, strict=True)], slope


def _enumerated(bits: Columns, loss: Columns, budget: float, first: list[int], slope: float) -> list[int] | None:
    """Find the choices of least loss, starting from some that fit; None if there are too many to look through."""
    incumbent = sum(float(d[k]) for d, k in zip(loss, first, strict=True)) * (1 + 1e-12)
    rest_bits = np.append(np.cumsum([r.min() for r in bits][::-1])[::-1], 0.0)[1:]
    rest_cost = np.append(np.cumsum([(d + slope * r).min() for r, d in zip(bits, loss, strict=True)][::-1])[::-1], 0.0)[
        1:
    ]
    used, lost = np.zeros(1), np.zeros(1)
    history: list[tuple[Int64[np.ndarray, " s"], Int64[np.ndarray, " s"]]] = []
    for t, (r, d) in enumerate(zip(bits, loss, strict=True)):
        sums, losses = (used[:, None] + r).reshape(-1), (lost[:, None] + d).reshape(-1)
        possible = sums + rest_bits[t] <= budget
        possible &= losses + rest_cost[t] - slope * (budget - sums) <= incumbent
        kept = np.flatnonzero(possible)
        kept = kept[np.lexsort((losses[kept], sums[kept]))]
        best_before = np.minimum.accumulate(np.append(np.inf, losses[kept]))[:-1]
        kept = kept[losses[kept] < best_before]
        if len(kept) == 0:
            return first  # rounding ruled out all but the start
        if len(kept) > MOST_STATES:
            return None
        used, lost = sums[kept], losses[kept]
        history.append((kept // len(r), kept % len(r)))
    at = int(lost.argmin())
    if lost[at] > incumbent:
        return first
    picked = []
    for before, choice in reversed(history):
        picked.append(int(choice[at]))
        at = int(before[at])
    return picked[::-1]
