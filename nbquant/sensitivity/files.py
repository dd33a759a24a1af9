"""Safetensors files of sensitivities."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nbquant.required import require_path
from nbquant.sensitivity.result import Sensitivity
from nbquant.tensorfile import FLOATS, TensorFile, refuse_pickle, write_tensors

_FORMAT = "nbquant sensitivity 1"


def save_sensitivity(sensitivity: Mapping[str, Float[Tensor, "..."]], path: str | os.PathLike[str]) -> None:
    """Write sensitivities with their record to a safetensors file.

    If writing fails, an existing file stays unchanged and no other file is left behind.

    Args:
        sensitivity: Result of :func:`nbquant.sensitivity`, or any mapping from parameter names to tensors.
        path: The file, ending in ``.safetensors``, in a folder that exists.

    Raises:
        TypeError: Not a mapping to floating-point tensors.
        ValueError: No tensors, or another ending.
        OSError: A folder that does not exist, is read-only or full.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the file must end in .safetensors, but is {path.name!r}: rename it.")
    if not isinstance(sensitivity, Mapping):
        raise TypeError(f"sensitivity must map names to tensors, but a {type(sensitivity).__name__} came.")
    if not sensitivity:
        raise ValueError("at least one sensitivity is required, but the mapping is empty: estimate them first.")
    for name, h in sensitivity.items():
        if not isinstance(h, Tensor) or h.dtype not in FLOATS.values():
            came = str(h.dtype) if isinstance(h, Tensor) else type(h).__name__
            raise TypeError(f"sensitivity of {name!r} must be a floating-point tensor, but is {came}: convert it.")
    write_tensors(path, sensitivity, _metadata(sensitivity) if isinstance(sensitivity, Sensitivity) else {})


def load_sensitivity(path: str | os.PathLike[str]) -> Sensitivity:
    """Read sensitivities from a file of :func:`save_sensitivity`, or from any other safetensors file.

    Only the header is read: the tensors are read from disk when accessed.

    Args:
        path: The file. One without a record gets the method "file".

    Raises:
        ValueError: A damaged file, tensors that are not floating-point, or invalid metadata.
        OSError: A file that does not exist or cannot be read.
    """
    require_path("path", path)
    path = Path(path)
    refuse_pickle(path)
    file = TensorFile.open(path)
    others = [name for name, stored in file.tensors.items() if stored.dtype not in FLOATS]
    if others:
        raise ValueError(
            f"sensitivities must be {', '.join(FLOATS)}, but {len(others)} of {len(file.tensors)} in {str(path)!r} "
            f"are not ({others[0]!r} is {file.tensors[others[0]].dtype}): is it a file of sensitivities?"
        )
    tensors = {name: file.tensor(name) for name in file.tensors}
    if file.metadata.get("format") != _FORMAT:
        return Sensitivity(tensors, "file", samples=0)
    try:
        return Sensitivity(tensors, **_fields(file.metadata))
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the metadata of {str(path)!r} must say how the sensitivities came about, but do not ({error!r}): "
            "write the file again with nbquant.save_sensitivity."
        ) from None


def _metadata(sensitivity: Sensitivity) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "method": sensitivity.method,
        "samples": str(sensitivity.samples),
        "clamped": json.dumps(sensitivity.clamped),
        "damping": repr(float(sensitivity.damping)),
        "inactive": json.dumps(sensitivity.inactive),
    }


def _fields(metadata: Mapping[str, str]) -> dict[str, Any]:
    clamped, inactive = json.loads(metadata["clamped"]), json.loads(metadata["inactive"])
    if not isinstance(clamped, dict) or not all(type(n) is int for n in clamped.values()):
        raise ValueError("'clamped' is not a table of numbers")
    if not isinstance(inactive, list) or not all(isinstance(name, str) for name in inactive):
        raise ValueError("'inactive' is not a list of names")
    return {
        "method": metadata["method"],
        "samples": int(metadata["samples"]),
        "clamped": clamped,
        "damping": float(metadata["damping"]),
        "inactive": tuple(inactive),
    }
