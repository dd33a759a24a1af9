"""Inspect a file that another library has quantized, in the background, and the codes of one of its tensors."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from torch import nn

from nbquant.analysis.inspection import inspect
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
        origin = bench.weights.origin
        source = Original.of(origin)
        names = {source.name_of(packed) for packed in opened.tensors.values()} - {None}
        if not names:
            return InspectedFile(opened, inspect(path, methods=(), progress=report), False)
        h = bench.weights.sensitivity
        weighs = None if h is None or names.isdisjoint(h) else h.damped(damping)
        original: nn.Module | os.PathLike[str] = origin
        rows = inspect(path, original, weighs, methods=(), progress=report)
        return InspectedFile(opened, rows, True)

    bench.jobs.start(SLOT, "Inspecting the file", work, show)


def read_codes(bench: Workbench, file: InspectedFile, name: str, show: Callable[[TensorCodes], None]) -> None:
    """Count the codes of a tensor of the file; ``show`` gets them."""
    packed = file.opened.tensors[name]
    bench.jobs.start(TENSOR, f"Reading {name}", lambda report: tensor_codes(packed, report), show)
