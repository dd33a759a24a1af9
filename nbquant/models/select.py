"""Choose the tensors of a model that are to be quantized."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from nbquant.models.layers import Layers, owner, resolve
from nbquant.quantization.selection import SelectedTensor, Selection
from nbquant.quantization.validate import (
    QUANTIZABLE,
    checked_sensitivity,
    dtype_name,
    dtype_names,
    require_finite_weight,
    require_positive_somewhere,
)


def select(
    model: nn.Module, sensitivity: Mapping[str, Float[Tensor, "..."]] | None = None, layers: Layers = None
) -> Selection:
    """Select weights of a model, with their sensitivities.

    The weights are not copied: the selection sees later changes of the model.

    Args:
        model: Any module. Tied parameters are one, under their first name.
        sensitivity: Hessian diagonal h [loss/weight²], non-negative, by parameter name, as
            :func:`nbquant.sensitivity` returns; it may hold more than is selected.
        layers: What to select: layer names ("fc1"; a container's name means all below it), parameter names
            ("fc1.weight"), globs of either ("conv*"), or modules of the model; one or several. None is all.

    Returns:
        The floating-point parameters asked for, in the model's order; all else is counted as unselected, with those
        buffers that the model's state holds.

    Raises:
        ValueError: An unknown or empty selection, a parameter that cannot be quantized, weights or sensitivities that
            are not finite, sensitivities that are missing, negative, all zero or of another shape, or weights on
            several devices.
        TypeError: Arguments of other types than these.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but a {type(model).__name__} came.")
    if sensitivity is not None and not isinstance(sensitivity, Mapping):
        raise TypeError(
            f"sensitivity must map parameter names to tensors, but a {type(sensitivity).__name__} came: "
            "pass what nbquant.sensitivity(model, …) returned."
        )
    _require_values(model)
    aliases = _aliases(model)
    asked, in_person = resolve(model, layers)
    chosen: list[SelectedTensor] = []
    for name, parameter in model.named_parameters():
        names = aliases[id(parameter)]
        if asked.isdisjoint(names):
            continue
        if parameter.dtype in QUANTIZABLE:
            chosen.append(SelectedTensor(name, owner(name), parameter.detach()))
        elif not in_person.isdisjoint(names):
            raise ValueError(
                f"weights to quantize must be {dtype_names()}, but {name!r} is {dtype_name(parameter)}: "
                "leave it out of layers."
            )
    _require_any(chosen, layers)
    _require_one_device(chosen)
    for tensor in chosen:
        require_finite_weight(tensor.weight, tensor.name)
    if sensitivity is not None:
        parameters = dict(model.named_parameters())
        chosen = _with_sensitivity(chosen, sensitivity, {t.name: aliases[id(parameters[t.name])] for t in chosen})
    return Selection(tuple(chosen), *_unselected(model, {tensor.name for tensor in chosen}))


def _aliases(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter, the first one first."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _unselected(model: nn.Module, selected: set[str]) -> tuple[int, int]:
    """Bits of what is stored beside the selection, and the number of parameters in it."""
    parameters = [parameter for name, parameter in model.named_parameters() if name not in selected]
    # A buffer registered with persistent=False is computed, not stored: it is in no file.
    stored = model.state_dict(keep_vars=True).keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in stored]
    bits = 8 * sum(tensor.numel() * tensor.element_size() for tensor in (*parameters, *buffers))
    return bits, sum(parameter.numel() for parameter in parameters)


def _with_sensitivity(
    chosen: Sequence[SelectedTensor], sensitivity: Mapping[str, Tensor], aliases: Mapping[str, Sequence[str]]
) -> list[SelectedTensor]:
    keys = {tensor.name: next((n for n in aliases[tensor.name] if n in sensitivity), None) for tensor in chosen}
    missing = [name for name, key in keys.items() if key is None]
    if missing:
        raise ValueError(
            f"a sensitivity is required for each of the {len(chosen)} selected tensors, but {len(missing)} are missing "
            f"({', '.join(map(repr, missing[:3]))}{', …' if len(missing) > 3 else ''}) among the {len(sensitivity)} "
            "given: compute it for the same model, or select fewer layers."
        )
    result = [
        SelectedTensor(
            t.name, t.layer, t.weight, checked_sensitivity(sensitivity[keys[t.name] or t.name], t.weight, t.name)
        )
        for t in chosen
    ]
    require_positive_somewhere([t.sensitivity for t in result if t.sensitivity is not None])
    return result


def _require_any(chosen: Sequence[SelectedTensor], layers: Layers) -> None:
    if sum(tensor.weight.numel() for tensor in chosen) == 0:
        came = "the model has none" if layers is None else f"layers={layers!r} has none"
        raise ValueError(f"at least one weight in {dtype_names()} is required, but {came}: choose other layers.")


def _require_one_device(chosen: Sequence[SelectedTensor]) -> None:
    devices = dict.fromkeys(str(tensor.weight.device) for tensor in chosen)
    if len(devices) > 1:
        raise ValueError(
            f"the weights of a selection must be on one device, but are on {', '.join(devices)}: "
            "select them apart, or move the model."
        )


def _require_values(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter) or parameter.is_meta:
            raise ValueError(
                f"weights must have values, but {name!r} has none yet ({'lazy' if not parameter.is_meta else 'meta'}): "
                "load a checkpoint, or run one batch through a lazy model."
            )
