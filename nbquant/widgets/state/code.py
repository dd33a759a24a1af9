"""Write the lines of Python that give what the explorer shows."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nbquant.models.select import Sensitivities
from nbquant.sensitivity.result import Sensitivity
from nbquant.widgets.settings import Settings


@dataclass(frozen=True)
class Given:
    """What the explorer was opened with.

    Attributes:
        source: The module or the path of a checkpoint.
        data: The data; None without.
        sensitivity: Sensitivities; None without.
        has_loss: Whether a loss was given.
    """

    source: nn.Module | str | os.PathLike[str]
    data: Any
    sensitivity: Sensitivities | None
    has_loss: bool


def lines(
    given: Given,
    settings: Settings,
    *,
    layers: tuple[str, ...] | None,
    estimated: bool,
    weighs: bool,
    offset: float,
    density: float | None,
    epochs: int | None,
    path: str | None,
) -> str:
    """The code, in which ``model``, ``data``, ``sensitivity`` and ``loss`` are what was given to ``explore``.

    Args:
        given: What was given.
        settings: What follows from what.
        layers: What to ask ``select`` for; None is all.
        estimated: Whether the sensitivities are estimated, or those given.
        weighs: Whether there are sensitivities at all.
        offset: What damping adds to each h [loss/weight²].
        density: To which the module was pruned; None if it was not.
        epochs: Of fine-tuning; None if it was not fine-tuned.
        path: Where it was saved; None if it was not.
    """
    split = hasattr(given.data, "calibration") and hasattr(given.data, "test")
    calibration, test = ("data.calibration", "data.test") if split else ("data", "data")
    train = "data.train" if split and hasattr(given.data, "train") else calibration
    loss = ", loss=loss" if given.has_loss else ""
    found = ["import nbquant as nq"]
    names = ["model"] if isinstance(given.source, nn.Module) else []
    names += ["data"] if given.data is not None else []
    names += ["loss"] if given.has_loss else []
    on_disk = given.sensitivity is not None and not isinstance(given.sensitivity, Mapping)
    names += ["sensitivity"] if weighs and not estimated and not on_disk else []
    if settings.samples and estimated and not _takes(given.data, split):
        found.append("from nbquant.widgets.calibration import first_samples")
    if names:
        found += ["", f"# {_listed(names)}, as given to nq.explore."]
    else:
        found.append("")
    if not isinstance(given.source, nn.Module):
        found.append(f"model = {os.fspath(given.source)!r}")
    if density is not None:
        batches = "" if given.data is None else f", {train}"
        found.append(f"model = nq.prune(model, {density!r}{batches}{loss}).model")
    damped = ""
    if weighs and estimated:
        batches = calibration
        if settings.samples:
            cut = f"{calibration}.take({settings.samples})" if _takes(given.data, split) else None
            batches = cut or f"first_samples({calibration}, {settings.samples})"
        found.append(f"sensitivity = nq.sensitivity(model, {batches}, {settings.estimator!r}{loss})")
    elif weighs and on_disk:
        where = os.fspath(given.sensitivity)  # type: ignore[arg-type]
        single = Path(where).is_file() and Path(where).suffix == ".safetensors"
        found.append(f"sensitivity = {f'nq.load_sensitivity({where!r})' if single else repr(where)}")
    if offset and (estimated or isinstance(given.sensitivity, Sensitivity) or (on_disk and found[-1].endswith(")"))):
        found.append(f"sensitivity = sensitivity.damped({float(settings.damping)!r})")
    elif offset:
        damped = f".damped({offset!r})  # {settings.damping:g} of the mean"
    arguments = ["model", *(["sensitivity"] if weighs else [])]
    if settings.record.needs_calibration and given.data is not None:  # without data it works without
        found.append(f"calibration = nq.calibrate(model, {train}{loss})")
        arguments.append("calibration=calibration")
    arguments += [] if layers is None else [f"layers={layers!r}"]
    found.append(f"selection = nq.select({', '.join(arguments)}){damped}")
    found.append(f"quantized = nq.fit(selection, {', '.join(_options(settings, test, ', loss' * given.has_loss))})")
    if epochs is not None:
        asked = f"epochs={epochs}{loss}, validation={test}"
        found.append(f"quantized = nq.finetune(quantized, model, {train}, {asked}).quantized")
    if path is not None:
        found.append(f"nq.save(quantized, {path!r}, model)")
    return "\n".join(found) + "\n"


def _options(settings: Settings, test: str, loss: str) -> list[str]:
    """Arguments of ``fit`` that are not what they are without being named."""
    usual = settings.record.options
    chosen = settings.options
    if chosen.get("layer_formats"):
        chosen["layer_formats"] = dict(chosen["layer_formats"])
    named = [f"{name}={value!r}" for name, value in chosen.items() if value != usual[name]]
    target = [f"{settings.driver}={settings.value!r}"]
    target += [f"evaluate=(model, {test}{loss})"] if settings.is_searched else []
    return [repr(settings.method), *target, *named]


def _takes(data: Any, split: bool) -> bool:
    batches = data.calibration if split else data
    return callable(getattr(batches, "take", None)) and isinstance(getattr(batches, "samples", None), int)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
