"""Write the quantized model to a file in the background."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nbquant.coding.ledger import Ledger
from nbquant.quantization.quantized import Quantized
from nbquant.storage.write import file_ledger, save
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.weights import Weights
from nbquant.widgets.jobs.workbench import Workbench


@dataclass(frozen=True)
class Saved:
    """A file that was written.

    Attributes:
        path: Where it is.
        quantized: What is in it.
        ledger: Every bit of the file by its part.
    """

    path: Path
    quantized: Quantized
    ledger: Ledger

    @property
    def size(self) -> int:
        """Size of the file [bytes]."""
        return self.ledger.total // 8

    @property
    def compression_ratio(self) -> float:
        """Bits of all the model's tensors before, over those of the file."""
        return (self.quantized.source_bits + self.quantized.unselected_bits) / self.ledger.total


def save_file(bench: Workbench, path: Path, show: Callable[[Saved], None]) -> None:
    """Save what is kept at this target to a file; ``show`` gets what was written."""
    origin, keep = bench.weights.origin, bench.kept("save")
    if keep is None:
        return

    def work(report: Report) -> Saved:
        quantized = keep(report)
        return Saved(path, quantized, save(quantized, path, origin, progress=report))

    bench.jobs.start("save", "Saving", work, show)


def deliver_file(bench: Workbench, name: str, take: Callable[[str, bytes], None]) -> None:
    """Make the same file; ``take`` gets its name and content."""
    origin, keep = bench.weights.origin, bench.kept("deliver")
    if keep is None:
        return

    def work(report: Report) -> bytes:
        with TemporaryDirectory() as folder:
            file = Path(folder) / (name or "model.nbq")
            save(keep(report), file, origin, progress=report)
            return file.read_bytes()

    bench.jobs.start("deliver", "Writing the file", work, lambda content: take(name, content))


def ledger_of_file(weights: Weights, quantized: Quantized) -> Ledger | None:
    """Compute the ledger of the file; None where it cannot be saved, which is told when that is tried."""
    try:
        return file_ledger(quantized, weights.origin)
    except (ValueError, OSError):
        return None
