"""The recipe of a file: the record of its quantizer, sensitivities and fine-tuning, in plain values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np

from nbquant.quantization import methods
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.quantizer import Quantizer
from nbquant.quantization.selection import SensitivityRecord
from nbquant.storage.errors import CorruptFileError
from nbquant.version import VERSION

ADDED: dict[str, dict[str, Any]] = {
    "uniform": {"steps": "joint", "mean": None},
    "feedback": {"output_damping": 0.1},
    "blocks": {"layer_formats": ()},
}  # by method; omitted at these values, as older readers do not know them


def recipe_of(quantized: Quantized) -> dict[str, Any]:
    """Make the recipe of a quantized selection; null stands for numbers that are not finite."""
    quantizer = quantized.quantizer
    values: dict[str, Any] = asdict(quantizer) if is_dataclass(quantizer) and not isinstance(quantizer, type) else {}
    added = ADDED.get(quantizer.method, {})
    said = {key: value for key, value in _plain(values).items() if key not in added or value != added[key]}
    recipe: dict[str, Any] = {"quantizer": {"method": quantizer.method, **said}}
    if quantized.record is not None:
        recipe["sensitivity"] = _plain(asdict(quantized.record))
    if quantized.finetuned:
        recipe["finetuned"] = _plain(quantized.finetuned)
    recipe |= _plain({"distortion": quantized.distortion})
    recipe["nbquant"] = VERSION
    return recipe


def quantizer_of(recipe: Mapping[str, Any]) -> Quantizer:
    """Parse the quantizer.

    Raises:
        CorruptFileError: An unknown method, or other parameters.
    """
    said = recipe.get("quantizer")
    if not isinstance(said, dict) or not isinstance(said.get("method"), str) or said["method"] not in methods.names():
        raise _unknown(
            f"a quantizer with one of the methods {', '.join(methods.names())} is required, but {said!r} came"
        )
    kind = methods.named(said["method"]).make
    try:
        return kind(**{key: value for key, value in said.items() if key != "method"})
    except (TypeError, ValueError, OverflowError) as error:
        raise _unknown(f"parameters of {kind.__name__} are required, but {said!r} came ({error})") from None


def record_of(recipe: Mapping[str, Any]) -> SensitivityRecord | None:
    """Parse the record of the sensitivities; None if there were none.

    Raises:
        CorruptFileError: Another structure.
    """
    said = recipe.get("sensitivity")
    if said is None:
        return None
    types = {"method": str, "samples": int, "damping": float, "offset": float}
    assert types.keys() == {f.name for f in fields(SensitivityRecord)}
    if not isinstance(said, dict):
        raise _unknown(f"an object is required for the sensitivity, but {said!r} came")
    known = {key: _number(value) for key, value in said.items() if key in types}
    for key, value in known.items():
        if isinstance(value, bool) or not isinstance(value, (float, int) if types[key] is float else types[key]):
            raise _unknown(f"a {types[key].__name__} is required as {key} of the sensitivity, but {value!r} came")
    return SensitivityRecord(**known)


def finetuned_of(recipe: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Parse the record of the fine-tuning.

    Raises:
        CorruptFileError: Another structure.
    """
    said = recipe.get("finetuned", {})
    if not isinstance(said, dict):
        raise _unknown(f"an object is required for the fine-tuning, but {said!r} came")
    found = {key: _number(value) for key, value in said.items()}
    for key, value in found.items():
        if not isinstance(value, str | int | float):
            raise _unknown(f"a plain value is required as {key} of the fine-tuning, but {value!r} came")
    return found


def distortion_of(recipe: Mapping[str, Any]) -> float:
    """Parse the distortion; NaN if it is unknown.

    Raises:
        CorruptFileError: Not a number.
    """
    value = _number(recipe.get("distortion"))
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise _unknown(f"a finite number or null is required as distortion, but {value!r} came")
    return float(value)


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def _unknown(reason: str) -> CorruptFileError:
    return CorruptFileError("recipe", reason + ": the tensors can still be read by state_dict().")
