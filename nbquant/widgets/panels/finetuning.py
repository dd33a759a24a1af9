"""Panel: the loss during fine-tuning."""

from nbquant.views.finetuning import FinetuningData, draw_finetuning, finetuning_data, finetuning_table
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def data(state: ExplorerState, whole: bool) -> FinetuningData | None:
    """Losses of the last fine-tuning; None before the first."""
    training = state.training
    if training is None:
        return None
    return finetuning_data(
        training.step_loss,
        training.history,
        training.kept,
        validation="test",
        label=f"{training.quantized.levels} levels at {training.quantized.compression_ratio:.2f}×",
    )


def _describe(state: ExplorerState) -> str:
    training = state.training
    if training is None:
        return ""
    first, last = training.history[0].validation_loss, training.history[-1].validation_loss
    return (
        f"Loss during fine-tuning of {len(training.step_loss)} steps; on the test batches {first:.4f} before and "
        f"{last:.4f} after."
    )


FINETUNING = Panel(
    name="finetuning",
    title="Fine-tuning",
    kind="wide",
    data=data,
    draw=lambda found, state, whole: draw_finetuning(found),
    table=finetuning_table,
    describe=_describe,
    follows=("training",),
    late=True,
)
