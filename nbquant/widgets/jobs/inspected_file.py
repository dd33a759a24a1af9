"""Inspect a file that another library has quantized, in the background, and the codes of one of its tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from nbquant.analysis.inspection import inspected
from nbquant.analysis.original import Original
from nbquant.analysis.tensor_codes import TensorCodes, tensor_codes
from nbquant.formats.packed_files import open_packed
from nbquant.formats.packed_tensor import PackedFile
from nbquant.widgets.jobs.slot import Report
from nbquant.widgets.jobs.workbench import Workbench

SLOT = "file"
TENSOR = "tensor"


@dataclass(frozen=True, eq=False)
class InspectedFile:
    """A quantized file.

    Attributes:
        opened: The file, from which tensors are read when they are asked for.
        rows: A row for each tensor, from :func:`nbquant.inspect`.
        is_compared: Whether its tensors have names of the network that is open.
    """

    opened: PackedFile
    rows: pd.DataFrame
    is_compared: bool


def inspect_file(bench: Workbench, path: str, damping: float, show: Callable[[InspectedFile], None]) -> None:
    """Inspect a file, against the network that is open where its tensors have names of it.

    Args:
        bench: What to work with.
        path: The file.
        damping: ε of h + ε·mean(h).
        show: Gets the result.
    """

    def work(report: Report) -> InspectedFile:
        report(0, None)
        opened = open_packed(path)
        source, h = Original.of(bench.weights.origin), bench.weights.sensitivity
        is_compared = bool(source.names_in(opened))
        weighs = None if h is None or not is_compared else h.damped(damping)
        rows = inspected(opened, source if is_compared else None, weighs, (), report)
        return InspectedFile(opened, rows, is_compared)

    bench.jobs.start(SLOT, "Inspecting the file", work, show)


def read_codes(bench: Workbench, file: InspectedFile, name: str, show: Callable[[TensorCodes], None]) -> None:
    """Count the codes of a tensor of the file; ``show`` gets them."""
    packed = file.opened.tensors[name]
    bench.jobs.start(TENSOR, f"Reading {name}", lambda report: tensor_codes(packed, report), show)
