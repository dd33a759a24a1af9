"""Live picture: the error of a difference of two networks over the number of samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nbquant.course.live import Live, choice, slider
from nbquant.course.outcomes import standard_error
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, ORANGE, VERMILION

COUNTS = (50, 100, 200, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True)
class SampleCountData:
    """Differences of two networks, measured on disjoint groups of samples.

    Attributes:
        count: Samples in a group.
        difference: Mean difference on all samples.
        groups: Mean difference on each group.
        paired: Standard error with ``count`` samples, if both networks see the same ones.
        unpaired: Standard error if each sees samples of its own.
        unit: Unit of all these.
        spreads: Standard deviations of one sample's difference, paired and unpaired.
    """

    count: int
    difference: float
    groups: Float[np.ndarray, " m"]
    paired: float
    unpaired: float
    unit: str
    spreads: tuple[float, float]

    @property
    def needed(self) -> tuple[float, float]:
        """Samples from which the difference is two standard errors, paired and unpaired; infinite without one."""
        if self.difference == 0:
            return float("inf"), float("inf")
        first, second = ((2 * spread / self.difference) ** 2 for spread in self.spreads)
        return first, second

    @property
    def summary(self) -> str:
        """Both errors, in a sentence."""
        right = float((self.groups * self.difference > 0).mean())
        needed = " and ".join(f"{each:,.0f}" for each in self.needed)
        return (
            f"{self.count:,} samples: the difference has a standard error of {self.paired:.2g} {self.unit} if paired, "
            f"and {self.unpaired:.2g} if not. On all samples it is {self.difference:.3g}; {right:.0%} of the groups "
            f"agree on its sign. It reaches two standard errors with {needed} samples."
        )


def sample_count_data(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], count: int, unit: str = ""
) -> SampleCountData:
    """Compute the differences of groups of samples, and their errors.

    Args:
        first: Result of one network for each sample.
        second: That of the other one, for the same samples.
        count: Samples in a group.
        unit: Unit of the results.

    Raises:
        ValueError: More samples in a group than there are.
    """
    if not 2 <= count <= len(first):
        raise ValueError(f"count must be from 2 to {len(first)} samples, but is {count}: measure more samples.")
    change = second - first
    groups = change[: len(change) // count * count].reshape(-1, count).mean(1)
    root = len(change) ** 0.5
    alone = float(np.hypot(standard_error(first), standard_error(second))) * root
    together = standard_error(change) * root
    return SampleCountData(
        count,
        float(change.mean()),
        groups,
        together / count**0.5,
        alone / count**0.5,
        unit,
        (together, alone),
    )


def draw_sample_count(data: SampleCountData) -> Figure:
    """Draw the differences of the groups with both error bars, and the errors over the number of samples."""
    figure = NotebookFigure(figsize=(9.2, 3.9), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    left.hist(data.groups, bins=min(30, max(5, len(data.groups) // 3)), color=BLUE, alpha=0.5)
    top = left.get_ylim()[1]
    for height, error, colour, label in (
        (1.08, data.paired, BLUE, "± 2 standard errors, paired"),
        (1.2, data.unpaired, VERMILION, "± 2 standard errors, unpaired"),
    ):
        left.errorbar(
            data.difference, height * top, xerr=2 * error, fmt="o", color=colour, capsize=4, ms=5, lw=2, label=label
        )
    left.axvline(0, color="k", lw=1)
    left.set(ylim=(0, 1.3 * top), xlabel=f"difference [{data.unit}]", ylabel="number of groups")
    left.set_title(
        f"{len(data.groups)} group{'s' * (len(data.groups) > 1)} of {data.count:,} samples",
        loc="left",
        fontsize=10,
        weight="bold",
    )
    counts = np.geomspace(COUNTS[0], 4 * COUNTS[-1], 50)
    for spread, colour, style in zip(data.spreads, (BLUE, VERMILION), ("-", "--"), strict=True):
        right.plot(counts, 2 * spread / counts**0.5, color=colour, ls=style)
        right.plot(data.count, 2 * spread / data.count**0.5, "o", color=colour, ms=6)
    right.axhline(abs(data.difference), color=ORANGE, lw=1.5, ls=":", label="the difference")
    right.set(xscale="log", yscale="log", xlabel="samples", ylabel=f"2 standard errors [{data.unit}]")
    right.set_title("The error falls with the root of the samples", loc="left", fontsize=10, weight="bold")
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)
    return figure


def show(
    measures: Mapping[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], str]], count: int = 500
) -> Live:
    """Show the differences, with a slider for the number of samples.

    Args:
        measures: Results of both networks for each sample, and their unit, by the name of the measure.
        count: First number of samples in a group; one of :data:`COUNTS`.
    """
    most = min(len(first) for first, _, _ in measures.values())
    return Live(
        lambda count, measure: sample_count_data(*measures[measure][:2], count, measures[measure][2]),
        draw_sample_count,
        {
            "count": slider("samples", [each for each in COUNTS if each <= most], count),
            "measure": choice("measure", list(measures), next(iter(measures))),
        },
    )
