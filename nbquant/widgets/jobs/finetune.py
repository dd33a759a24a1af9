"""Fine-tune the codebook values in the background."""

from collections.abc import Callable

from nbquant.coding.ledger import Ledger
from nbquant.pipeline.finetune import FineTuned
from nbquant.widgets.jobs.save import ledger_of_file
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "finetune"


def finetune(bench: Workbench, epochs: int, show: Callable[[FineTuned, Ledger | None], None]) -> None:
    """Fine-tune the exact result; ``show`` gets it with its file's ledger, unless the target has changed."""
    network, request = bench.with_network(SLOT, "there is nothing to fine-tune with"), bench.exact.request
    quantize = None if network is None else bench.quantized(SLOT)
    if network is None or quantize is None or request is None:
        return

    def work(report: Report) -> tuple[FineTuned, Ledger | None]:
        found = network.finetune(quantize(report), epochs, report)
        return found, ledger_of_file(bench.weights, found.quantized)

    def done(result: tuple[FineTuned, Ledger | None]) -> None:
        if request.is_at(bench.exact.request):
            show(*result)

    bench.jobs.start(SLOT, "Fine-tuning", work, done)
