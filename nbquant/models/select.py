"""Selection of the tensors of a model or checkpoint that are to be quantized."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nbquant.formats.packed import refuse_packed_modules
from nbquant.hooked import require_unmasked
from nbquant.listed import listed
from nbquant.models.checkpoint import BUFFERS, Checkpoint
from nbquant.models.layers import Layers, owner, resolve, resolve_names
from nbquant.models.ranks import local_part, part_like, shards_of
from nbquant.quantization.moments import Calibration
from nbquant.quantization.selection import LeftOut, Selection, SensitivityRecord
from nbquant.quantization.tensor import SelectedTensor
from nbquant.quantization.validate import (
    QUANTIZABLE,
    checked_sensitivity,
    dtype_name,
    dtype_names,
    fitting_sensitivity,
    require_finite_weight,
    require_positive_somewhere,
)
from nbquant.quantization.workers import Workers
from nbquant.tensorfile import FLOATS, FileSlice

Sensitivities = Mapping[str, Float[Tensor, "..."]] | str | os.PathLike[str]
"""Sensitivities by parameter name, or the path of a checkpoint with them."""


def select(
    source: nn.Module | str | os.PathLike[str],
    sensitivity: Sensitivities | None = None,
    layers: Layers = None,
    calibration: Calibration | None = None,
    executor: Any = None,
) -> Selection:
    """Select weights of a model, with their sensitivities.

    The weights are not copied: the selection sees later changes of the model. A checkpoint is mapped rather than read,
    so it may be larger than memory; its values are checked when their histograms are made. Treat mapped tensors as
    read-only: writes stay in memory, and are noticed only if torch counts them, which it does not through
    ``.data``. Do not truncate the file while it is in use: replace it instead of writing into it.

    Args:
        source: A module, in which tied parameters are one, under their first name; or the path of a checkpoint: a
            ``.safetensors`` file, the ``.safetensors.index.json`` of several, or a folder with one of these.
        sensitivity: Hessian diagonal h [loss/weight²], non-negative, by parameter name, as
            :func:`nbquant.sensitivity` returns; it may hold more than is selected. Or the path of a safetensors
            file written by :func:`nbquant.save_sensitivity`; it is mapped, too.
        layers: Layers to select: layer names ("fc1"; a container's name means all below it), parameter names
            ("fc1.weight"), globs of either ("conv*"), or modules of the model; one or several. None for all.
        calibration: Result of :func:`nbquant.calibrate`, for the method "feedback".
        executor: A ``dask.distributed.Client`` whose workers sweep over a checkpoint, one task per file;
            all workers must find its files under the same paths. None for this process.

    If parameters are sharded over ranks as DTensors (FSDP2), each rank selects its own parts, without communication;
    fits to them equal those of one process, see :class:`nbquant.quantization.shards.Shards`.

    Returns:
        The requested floating-point parameters, in the order of the model, file or index; the others count as
        unselected, with the buffers in the model's state. In a checkpoint, the running statistics of batch
        norms are recognised as buffers by name, and components of quantized weights by the names in
        :mod:`nbquant.formats.packed`. Requested weights that are already quantized are in ``left_out``, and a
        warning states their share of the model.

    Raises:
        ValueError: An unknown or empty selection, a module that another library has quantized, a parameter that cannot
            be quantized or that ``torch.nn.utils.prune`` masks, weights or sensitivities that are not finite,
            sensitivities that are missing, negative, all zero or of another shape, weights on several devices, or
            damaged files.
        TypeError: Arguments of other types.
        OSError: Files that do not exist or cannot be read.
    """
    if not isinstance(source, nn.Module | str | os.PathLike):
        raise TypeError(
            f"source must be a torch.nn.Module or the path of a safetensors checkpoint, but {_described(source)}"
        )
    if sensitivity is not None and not isinstance(sensitivity, Mapping | str | os.PathLike):
        raise TypeError(
            "sensitivity must map parameter names to tensors or be the path of a safetensors file, but a "
            f"{type(sensitivity).__name__} came: pass the result of nbquant.sensitivity(model, …)."
        )
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor must be a dask.distributed.Client or None, but a {type(executor).__name__} came.")
    if not isinstance(source, nn.Module) and not os.fspath(source):
        raise ValueError(
            "the path of a checkpoint is required, but an empty text came: pass a .safetensors file, its folder, or a "
            "torch.nn.Module."
        )
    if isinstance(source, nn.Module):
        selection = _select_of_model(source, sensitivity, layers)
    else:
        selection = _select_of_checkpoint(Checkpoint.open(source), sensitivity, layers)
    if executor is not None and any(
        t.weight_source is None or (t.sensitivity is not None and t.sensitivity_source is None) for t in selection
    ):
        raise ValueError(
            "weights and sensitivities must be in files for workers to read them, but are in memory: select from the "
            "paths of checkpoints, or leave executor out."
        )
    return replace(selection, calibration=calibration, workers=Workers(executor) if executor is not None else None)


def _select_of_model(model: nn.Module, sensitivity: Sensitivities | None, layers: Layers) -> Selection:
    _require_values(model)
    aliases = _aliases(model)
    asked, in_person = resolve(model, layers)
    refuse_packed_modules(model, None if layers is None else asked)
    parameters = dict(model.named_parameters())
    chosen: list[SelectedTensor] = []
    for name, parameter in parameters.items():
        names = aliases[id(parameter)]
        if asked.isdisjoint(names) or not parameter.numel():
            continue
        if parameter.dtype in QUANTIZABLE:
            chosen.append(SelectedTensor(name, owner(name), parameter.detach()))
        elif not in_person.isdisjoint(names):
            raise ValueError(
                f"weights to quantize must be {dtype_names()}, but {name!r} is {dtype_name(parameter)}: "
                "leave it out of layers."
            )
    left = {n: p for n, p in parameters.items() if p.dtype not in QUANTIZABLE and asked & {*aliases[id(p)]}}
    left_out = _left_out(
        {name: (dtype_name(parameter), parameter.numel()) for name, parameter in left.items()},
        sum(parameter.numel() for parameter in parameters.values() if parameter.dtype in QUANTIZABLE),
    )
    _require_any(chosen, layers, "the model", left_out)
    require_unmasked(model, {name for tensor in chosen for name in aliases[id(parameters[tensor.name])]})
    whole = {tensor.name: tensor.weight for tensor in chosen}
    shards = shards_of(whole)
    chosen = [replace(tensor, weight=local_part(tensor.name, tensor.weight)) for tensor in chosen]
    _require_one_device(chosen)
    for tensor in chosen:
        require_finite_weight(tensor.weight, tensor.name)
    if sensitivity is not None:
        known = {t.name: aliases[id(parameters[t.name])] for t in chosen}
        chosen = _with_sensitivity(chosen, sensitivity, known, whole if shards else None)
    unselected = _unselected(model, {tensor.name for tensor in chosen})
    _warn(left_out, left)
    return Selection(tuple(chosen), *unselected, _record(sensitivity), shards=shards, left_out=left_out)


def _select_of_checkpoint(checkpoint: Checkpoint, sensitivity: Sensitivities | None, layers: Layers) -> Selection:
    buffers = {name for name in checkpoint.files if name.rpartition(".")[2] in BUFFERS}
    asked, in_person = resolve_names((name for name in checkpoint.files if name not in buffers), layers)
    packed = checkpoint.packed
    chosen: list[SelectedTensor] = []
    bits = count = 0
    for name in checkpoint.files:
        stored = checkpoint.stored(name)
        if not stored.count:
            continue
        if name in asked and checkpoint.is_quantizable(name):
            weight = checkpoint.tensor(name)
            chosen.append(SelectedTensor(name, owner(name), weight, weight_source=stored.source))
        elif name in in_person and packed.parts.get(name) != "":
            codes = packed.parts.get(name)
            came = stored.dtype if codes is None else f"part of {codes!r}, which is quantized already"
            raise ValueError(
                f"weights to quantize must be {dtype_names()}, but {name!r} is {came}: leave it out of layers."
            )
        else:
            bits += 8 * stored.source.size
            count += 0 if name in buffers else stored.count
    left = {name: checkpoint.stored(name) for name in checkpoint.files if name in packed.codes and name in asked}
    left_out = _left_out(
        {name: (stored.dtype, stored.count) for name, stored in left.items()},
        sum(checkpoint.stored(name).count for name in checkpoint.files if checkpoint.is_quantizable(name)),
    )
    _require_any(chosen, layers, "the checkpoint", left_out)
    if sensitivity is not None:
        chosen = _with_sensitivity(chosen, sensitivity, {t.name: [t.name] for t in chosen})
    _warn(left_out, left)
    return Selection(tuple(chosen), bits, count, _record(sensitivity), left_out=left_out)


def _left_out(weights: Mapping[str, tuple[str, int]], quantizable: int) -> LeftOut | None:
    """Types and numbers of the weights that cannot be quantized, relative to all weights."""
    if not weights:
        return None
    count = sum(count for _, count in weights.values())
    dtypes = tuple(dict.fromkeys(dtype for dtype, _ in weights.values()))
    return LeftOut(len(weights), count, count + quantizable, dtypes)


def _warn(left_out: LeftOut | None, names: Iterable[str]) -> None:
    if left_out is not None:
        warnings.warn(
            f"{left_out} will stay unchanged ({listed(names, 3)}), as they are already quantized or of a type that "
            "cannot be. The ratio of the whole model counts them, that of the selection does not. To quantize them, "
            "start from the unquantized model, or dequantize it first.",
            stacklevel=4,
        )


def _described(source: object) -> str:
    if isinstance(source, Mapping):
        return (
            f"a {type(source).__name__} came: load a state dict into its module by load_state_dict(…) and pass that, "
            "or write it by safetensors.torch.save_file(…) and pass the path of the file."
        )
    return f"a {type(source).__name__} came."


def _record(sensitivity: Sensitivities | None) -> SensitivityRecord | None:
    if sensitivity is None:
        return None
    if isinstance(sensitivity, Mapping):
        # Results of estimators have a record; a plain mapping does not.
        return getattr(sensitivity, "record", None) or SensitivityRecord()
    said = next(iter(Checkpoint.open(sensitivity).files.values())).metadata
    try:
        return SensitivityRecord(said["method"], int(said["samples"]), float(said["damping"]))
    except (KeyError, ValueError):
        return SensitivityRecord("file")


def _aliases(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter, the first one first."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _unselected(model: nn.Module, selected: set[str]) -> tuple[int, int]:
    """Bits of the unselected tensors, and the number of parameters in them."""
    parameters = [parameter for name, parameter in model.named_parameters() if name not in selected]
    # A buffer registered with persistent=False is computed, not stored: it is in no file.
    stored = model.state_dict(keep_vars=True).keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in stored]
    bits = 8 * sum(tensor.numel() * tensor.element_size() for tensor in (*parameters, *buffers))
    return bits, sum(parameter.numel() for parameter in parameters)


def _with_sensitivity(
    chosen: Sequence[SelectedTensor],
    sensitivity: Sensitivities,
    aliases: Mapping[str, Sequence[str]],
    spread: Mapping[str, Tensor] | None = None,
) -> list[SelectedTensor]:
    stored = None if isinstance(sensitivity, Mapping) else Checkpoint.open(sensitivity)
    given = sensitivity if isinstance(sensitivity, Mapping) else {}
    names = given.keys() if stored is None else stored.files.keys()
    keys = {tensor.name: next((n for n in aliases[tensor.name] if n in names), None) for tensor in chosen}
    missing = [name for name, key in keys.items() if key is None]
    if missing:
        raise ValueError(
            f"a sensitivity is required for each of the {len(chosen)} selected tensors, but {len(missing)} are missing "
            f"({listed(missing, 3)}) among the {len(names)} given: compute it for the same model, frozen parameters "
            "by name (parameters=…), or select fewer layers."
        )
    result = []
    for t in chosen:
        key = keys[t.name] or t.name
        h, source = (given[key], None) if stored is None else _mapped(stored, key, t.name)
        if spread is not None:
            h, source = local_part(t.name, part_like(h, spread[t.name])), None
        # Both on disk: no entry is read here.
        check = fitting_sensitivity if t.weight_source and source else checked_sensitivity
        result.append(replace(t, sensitivity=check(h, t.weight, t.name), sensitivity_source=source))
    # On disk no entry is read here, and with shards the non-zero entries may be on another rank.
    if spread is None and not all(t.weight_source and t.sensitivity_source for t in result):
        require_positive_somewhere([t.sensitivity for t in result if t.sensitivity is not None])
    return result


def _mapped(stored: Checkpoint, key: str, name: str) -> tuple[Float[Tensor, "..."], FileSlice]:
    entry = stored.stored(key)
    if entry.dtype not in FLOATS:
        raise ValueError(
            f"sensitivity of {name!r} must be floating-point, but is {entry.dtype} in {str(stored.path)!r}: "
            "pass a file written by nbquant.save_sensitivity."
        )
    return stored.tensor(key), entry.source


def _require_any(chosen: Sequence[SelectedTensor], layers: Layers, where: str, left_out: LeftOut | None) -> None:
    if sum(tensor.weight.numel() for tensor in chosen) == 0:
        came = f"{where} has none" if layers is None else f"layers={layers!r} has none"
        if left_out is not None:
            came += f", but {left_out}, which are already quantized or of a type that cannot be quantized"
        raise ValueError(f"at least one weight in {dtype_names()} is required, but {came}: choose other layers.")


def _require_one_device(chosen: Sequence[SelectedTensor]) -> None:
    devices = dict.fromkeys(str(tensor.weight.device) for tensor in chosen)
    if len(devices) > 1:
        raise ValueError(
            f"the weights of a selection must be on one device, but are on {', '.join(devices)}: "
            "select them separately, or move the model."
        )


def _require_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta:
            raise ValueError(
                f"weights must have values, but {name!r} has none yet ({'lazy' if not parameter.is_meta else 'meta'}): "
                "load a checkpoint, or run one batch through a lazy model."
            )
