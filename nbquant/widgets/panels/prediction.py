"""Panel: measured against predicted loss increase."""

from nbquant.views.prediction import PredictedPoint, PredictionData, draw_prediction, prediction_data, prediction_table
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState


def data(state: ExplorerState, whole: bool) -> PredictionData | None:
    """Losses that were predicted and measured; None before the first."""
    points = [
        PredictedPoint(
            f"{m.point.compression_ratio:.1f}× {m.point.quantizer.method}"
            + " fine-tuned" * bool(m.quantized.finetuned),
            m.quantized.compression_ratio,
            m.prediction.gradient,
            m.prediction.diagonal,
            m.prediction.quadratic,
            m.prediction.measured,
        )
        for m in state.measured
        if m.prediction is not None
    ]
    return prediction_data(points) if points else None


PREDICTION = Panel(
    name="prediction",
    title="Prediction",
    kind="result",
    data=data,
    draw=lambda found, state, whole: draw_prediction(found),
    table=prediction_table,
    describe=lambda state: f"Measured against predicted loss increase at {len(state.measured)} operating points.",
    follows=("measured",),
    late=True,
)
