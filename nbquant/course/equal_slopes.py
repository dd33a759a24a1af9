"""Live picture: a format for each of a few layers by one slope, among all combinations."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from nbquant.course.live import Live, slider
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, ORANGE, VERMILION

Table = Mapping[str, Mapping[str, tuple[float, float]]]
"""Bits and loss of each format, by layer and by format; all layers have the same formats."""

PLACES = tuple(range(41))  # of the slider


@dataclass(frozen=True)
class EqualSlopesData:
    """All combinations of formats, and the one that a slope chooses.

    Attributes:
        lmbda: The slope λ [loss/bit].
        formats: Format that it chooses for each layer.
        bits: Bits of each combination.
        loss: Loss of each combination.
        chosen: Index of the combination that λ chooses.
        reachable: Indices of all combinations that some λ chooses, from few bits to many.
    """

    lmbda: float
    formats: Mapping[str, str]
    bits: Float[np.ndarray, " m"]
    loss: Float[np.ndarray, " m"]
    chosen: int
    reachable: Int[np.ndarray, " k"]

    @property
    def summary(self) -> str:
        """The choice, in a sentence."""
        names = ", ".join(f"{layer} {name}" for layer, name in self.formats.items())
        bits = self.bits[self.chosen]
        better = int(((self.bits <= bits) & (self.loss < self.loss[self.chosen])).sum())
        return (
            f"λ = {self.lmbda:.2g} per bit chooses {names}: {bits / 8 / 1024:.1f} KiB, loss "
            f"+{self.loss[self.chosen]:.2g}. Of {len(self.bits)} combinations, {better} have less loss in as many bits "
            f"or fewer."
        )


def cheapest(choices: Mapping[str, tuple[float, float]], lmbda: float) -> str:
    """Find the format of least loss + λ · bits; ties go to the first."""
    return min(choices, key=lambda name: choices[name][1] + lmbda * choices[name][0])


def slopes(table: Table) -> list[float]:
    """List the slopes between any two formats of a layer, from large to small: choices change only there."""
    found = set()
    for choices in table.values():
        for (a, loss), (b, other) in itertools.combinations(choices.values(), 2):
            if a != b and (loss - other) * (b - a) > 0:
                found.add((loss - other) / (b - a))
    return sorted(found, reverse=True)


def lambdas(table: Table) -> Float[np.ndarray, " n"]:
    """List the values of λ on the slider, from large to small."""
    ends = slopes(table)
    return np.geomspace(2 * ends[0], ends[-1] / 2, len(PLACES))


def equal_slopes_data(table: Table, lmbda: float) -> EqualSlopesData:
    """Compute all combinations, and the choice by λ.

    Args:
        table: Bits and loss of each format, by layer.
        lmbda: The slope λ [loss/bit].
    """
    combinations = list(itertools.product(*(list(choices) for choices in table.values())))
    totals = np.array(
        [
            np.sum([choices[name] for choices, name in zip(table.values(), each, strict=True)], axis=0)
            for each in combinations
        ]
    )
    ends = slopes(table)
    between = [2 * ends[0], *(float(np.sqrt(a * b)) for a, b in itertools.pairwise(ends)), ends[-1] / 2]
    place = {each: i for i, each in enumerate(combinations)}
    choose: Sequence[int] = [
        place[tuple(cheapest(choices, each) for choices in table.values())] for each in (lmbda, *between)
    ]
    return EqualSlopesData(
        lmbda,
        dict(zip(table, combinations[choose[0]], strict=True)),
        totals[:, 0],
        totals[:, 1],
        choose[0],
        np.array(list(dict.fromkeys(choose[1:]))),
    )


def draw_equal_slopes(data: EqualSlopesData) -> Figure:
    """Draw all combinations, those that some slope chooses, and the line of the slope."""
    figure = NotebookFigure(figsize=(9.2, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    size = data.bits / 8 / 1024
    axes.plot(size, data.loss, "o", color="0.7", ms=4, label="all combinations")
    x = np.linspace(size.min() * 0.97, size.max() * 1.03, 400)
    corner, height = size[data.reachable], data.loss[data.reachable]
    between = x[(x > corner[0]) & (x < corner[-1])]
    axes.plot(between, np.interp(between, corner, height), color=BLUE, lw=1)  # straight lines, bent by the log axis
    axes.plot(corner, height, "o", color=BLUE, ms=6, label="chosen by some λ")
    line = data.loss[data.chosen] - data.lmbda * 8 * 1024 * (x - size[data.chosen])
    low, high = data.loss.min() / 2, data.loss.max() * 2
    seen = line > low
    axes.plot(x[seen], line[seen], color=ORANGE, ls="--", label="equal loss + λ · bits (bent by the log axis)")
    axes.plot(size[data.chosen], data.loss[data.chosen], "*", color=VERMILION, ms=15, mec="k", label="chosen by this λ")
    axes.set(yscale="log", ylim=(low, high), xlabel="size [KiB]", ylabel="predicted loss increase [nat]")
    axes.set_title(
        "   ".join(f"{layer}: {name}" for layer, name in data.formats.items()), loc="left", fontsize=10, weight="bold"
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=8.5, frameon=False)
    return figure


def show(table: Table, place: int = 20) -> Live:
    """Show the combinations, with a slider for λ.

    Args:
        table: Bits and loss of each format, by layer.
        place: First place of the slider, from few bits to many; one of :data:`PLACES`.
    """
    found = lambdas(table)
    return Live(
        lambda place: equal_slopes_data(table, float(found[place])),
        draw_equal_slopes,
        {"place": slider("λ [loss/bit]", PLACES, place, lambda place: f"{found[place]:.1e}")},
    )
