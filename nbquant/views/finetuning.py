"""Figure of the loss during fine-tuning of codebook values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from nbquant.pipeline.finetune import Epoch
from nbquant.views import theme
from nbquant.views.palette import BLUE, VERMILION

_MOST_POINTS = 800  # no more points than pixels


@dataclass(frozen=True)
class FinetuningData:
    """Numbers behind the loss curve.

    Attributes:
        step: Middle of the steps averaged in each point of the line, counted from 1.
        train_loss: Mean loss of their batches [loss/sample].
        steps_per_point: Largest number of steps per point.
        epoch: Index of each epoch with validation; 0 is before the first.
        epoch_step: Number of steps by its end.
        validation_loss: Mean loss on the validation batches at that time [loss/sample].
        validation_accuracy: Accuracy on them, in [0, 1]; NaN if the network does not classify.
        kept: Epoch whose values were kept.
        validation: Name of the validation batches.
        label: Label of the fine-tuned network.
    """

    step: Float[ndarray, " p"]
    train_loss: Float[ndarray, " p"]
    steps_per_point: int
    epoch: Float[ndarray, " e"]
    epoch_step: Float[ndarray, " e"]
    validation_loss: Float[ndarray, " e"]
    validation_accuracy: Float[ndarray, " e"]
    kept: int
    validation: str
    label: str


def finetuning_data(
    step_loss: Sequence[float],
    history: Sequence[Epoch],
    kept: int,
    *,
    validation: str = "validation",
    label: str = "",
) -> FinetuningData:
    """Gather the losses of a fine-tuning; with very many steps, as means of several in a row.

    Args:
        step_loss: Loss of each step's batch, from :class:`nbquant.pipeline.finetune.FineTuned`.
        history: One record per epoch, with epoch 0 first; epochs have equally many steps.
        kept: Epoch whose values were kept.
        validation: Name of the validation batches.
        label: Label of the fine-tuned network, for the title.

    Raises:
        ValueError: No step, or a history without an epoch.
    """
    if len(step_loss) == 0 or len(history) < 2:
        raise ValueError(
            f"at least one step and one epoch are required, but got {len(step_loss)} steps and {len(history)} records: "
            "pass step_loss and history of a result of nbquant.finetune."
        )
    loss = np.asarray(step_loss, np.float64)
    group = -(-len(loss) // _MOST_POINTS)
    starts = np.arange(0, len(loss), group)
    ends = np.minimum(starts + group, len(loss))
    seen = [e for e in history if e.validation_loss is not None]
    return FinetuningData(
        step=(starts + 1 + ends) / 2,
        train_loss=np.add.reduceat(loss, starts) / (ends - starts),
        steps_per_point=group,
        epoch=np.array([e.epoch for e in seen], np.float64),
        epoch_step=np.array([e.epoch for e in seen]) * len(loss) / (len(history) - 1),
        validation_loss=np.array([e.validation_loss for e in seen], np.float64),
        validation_accuracy=np.array([e.validation_accuracy for e in seen], np.float64),
        kept=kept,
        validation=validation,
        label=label,
    )


def finetuning_table(data: FinetuningData) -> pd.DataFrame:
    """Tabulate the validations, then the points of the training line."""
    seen, trained = len(data.epoch), len(data.step)
    return pd.DataFrame(
        {
            "batches": [data.validation] * seen + ["training"] * trained,
            "step": np.concatenate([data.epoch_step, data.step]),
            "epoch": np.concatenate([data.epoch, np.full(trained, np.nan)]),
            "loss [loss/sample]": np.concatenate([data.validation_loss, data.train_loss]),
            "accuracy": np.concatenate([data.validation_accuracy, np.full(trained, np.nan)]),
            "kept": [bool(e == data.kept) for e in data.epoch] + [False] * trained,
        }
    )


def draw_finetuning(data: FinetuningData) -> theme.Figure:
    """Draw the loss of the training batches as a line, and of the validation batches as dots.

    Args:
        data: From :func:`finetuning_data`.

    Returns:
        The figure as plotly's JSON, unvalidated, as the explorer sends it.
    """
    several = data.steps_per_point > 1
    line = f"training batches, mean of {data.steps_per_point} steps" if several else "training batches"
    traces: list[theme.Trace] = [
        {
            "type": "scatter",
            "x": data.step,
            "y": data.train_loss,
            "mode": "lines" if len(data.step) > 1 else "markers",
            "line": {"color": BLUE, "width": 1.5},
            "marker": {"color": BLUE},
            "name": line,
            "hovertemplate": "step %{x:.0f}<br>loss %{y:.4f}<extra></extra>",
        }
    ]
    if len(data.epoch):
        accuracy = [f", accuracy {100 * a:.2f} %" if np.isfinite(a) else "" for a in data.validation_accuracy]
        when = ["before" if e == 0 else f"after epoch {e:.0f}" for e in data.epoch]
        traces.append(
            {
                "type": "scatter",
                "x": data.epoch_step,
                "y": data.validation_loss,
                "mode": "lines+markers",
                "line": {"color": VERMILION, "width": 1, "dash": "dot"},
                "marker": {
                    "color": VERMILION,
                    "size": np.where(data.epoch == data.kept, 11, 8),
                    "line": {"color": theme.FOREGROUND, "width": np.where(data.epoch == data.kept, 2, 0)},
                },
                "cliponaxis": False,
                "name": f"{data.validation}, after each epoch",
                "text": [f"{data.validation} {w}" for w in when],
                "customdata": accuracy,
                "hovertemplate": "%{text}<br>loss %{y:.4f}%{customdata}<extra></extra>",
            }
        )
    return theme.figure(
        "Fine-tuning" + f" – {data.label}" * bool(data.label),
        _subtitle(data),
        traces,
        xaxis=theme.axis("step", rangemode="tozero", tickformat="d"),
        yaxis=theme.axis("loss per sample"),
        legend={
            "bgcolor": "rgba(0,0,0,0)",
            "orientation": "h",
            "xanchor": "right",
            "x": 1,
            "yanchor": "bottom",
            "y": 1,
        },
        showlegend=True,
        uirevision="fine-tuning",
    )


def _subtitle(data: FinetuningData) -> str:
    if not len(data.epoch):
        return f"training loss {data.train_loss[0]:.4f} → {data.train_loss[-1]:.4f}"
    at = int(np.flatnonzero(data.epoch == data.kept)[0])
    text = f"{data.validation} loss {data.validation_loss[0]:.4f} → {data.validation_loss[at]:.4f}"
    first, last = 100 * data.validation_accuracy[[0, at]]
    return text + (f", accuracy {first:.2f} → {last:.2f} %" if np.isfinite([first, last]).all() else "")
