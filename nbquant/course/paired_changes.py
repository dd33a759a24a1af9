"""Picture: change of loss and accuracy of several networks against one, with paired standard errors."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nbquant.course.outcomes import Outcomes, standard_error
from nbquant.views.notebook_figure import NotebookFigure
from nbquant.views.palette import BLUE, VERMILION


@dataclass(frozen=True)
class PairedChange:
    """Change of a network against the original, on the same labels.

    Attributes:
        label: Name of the network.
        loss: Change of the mean loss [nat].
        loss_error: Its paired standard error.
        accuracy: Change of the accuracy [percentage points].
        accuracy_error: Its paired standard error.
    """

    label: str
    loss: float
    loss_error: float
    accuracy: float
    accuracy_error: float


def paired_changes_data(original: Outcomes, others: Mapping[str, Outcomes]) -> tuple[PairedChange, ...]:
    """Compute the changes with their paired errors.

    Args:
        original: Predictions of the network before quantization.
        others: Predictions of the other networks on the same labels, by name.
    """
    rows = []
    for label, found in others.items():
        loss, accuracy = found.loss - original.loss, 100 * (found.correct - original.correct)
        rows.append(
            PairedChange(
                label, float(loss.mean()), standard_error(loss), float(accuracy.mean()), standard_error(accuracy)
            )
        )
    return tuple(rows)


def table_paired_changes(rows: tuple[PairedChange, ...]) -> pd.DataFrame:
    """Tabulate the changes."""
    return pd.DataFrame(
        {
            "loss": [f"{row.loss:+.4f} ± {row.loss_error:.4f}" for row in rows],
            "accuracy [points]": [f"{row.accuracy:+.2f} ± {row.accuracy_error:.2f}" for row in rows],
        },
        [row.label for row in rows],
    )


def draw_paired_changes(rows: tuple[PairedChange, ...]) -> Figure:
    """Draw both changes with bars of two standard errors, the first network on top."""
    figure = NotebookFigure(figsize=(9.2, 0.9 + 0.42 * len(rows)), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(rows))[::-1]
    for axes, name, colour, label in (
        (left, "loss", BLUE, "change of the loss [nat]"),
        (right, "accuracy", VERMILION, "change of the accuracy [points]"),
    ):
        value, error = ([getattr(row, field) for row in rows] for field in (name, f"{name}_error"))
        axes.errorbar(value, place, xerr=2 * np.array(error), fmt="o", color=colour, ms=5, capsize=3)
        axes.axvline(0, color="k", lw=1)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, axis="x")
    left.set_yticks(place, [row.label for row in rows])
    left.set_title("Bars: ± 2 paired standard errors", loc="left", fontsize=10, weight="bold")
    return figure
