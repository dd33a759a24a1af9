"""Detection of weights computed by forward hooks (pruning masks, weight and spectral norm)."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


@dataclass(frozen=True)
class HookedWeight:
    """A weight that is recomputed before each forward pass.

    Attributes:
        module: Name of the module; "" for the model itself.
        weight: Name of the weight in it.
        by: The function that computes it: "prune", "weight_norm" or "spectral_norm" of ``torch.nn.utils``.
        remove: The function of ``torch.nn.utils`` that turns it into a parameter.
    """

    module: str
    weight: str
    by: str
    remove: str

    @property
    def unmasked(self) -> str:
        """Name of the parameter from which ``prune`` computes it."""
        return f"{self.module}.{self.weight}_orig" if self.module else f"{self.weight}_orig"


def hooked_weights(model: nn.Module) -> Iterator[HookedWeight]:
    """Find weights computed by ``torch.nn.utils.prune`` or the older ``weight_norm`` and ``spectral_norm``."""
    for name, module in model.named_modules(remove_duplicate=False):
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                yield HookedWeight(name, hook._tensor_name, "prune", "prune.remove")
            elif isinstance(hook, WeightNorm):
                yield HookedWeight(name, hook.name, "weight_norm", "remove_weight_norm")
            elif isinstance(hook, SpectralNorm):
                yield HookedWeight(name, hook.name, "spectral_norm", "remove_spectral_norm")


def require_parameters(model: nn.Module) -> None:
    """Refuse a model in which the weight of a layer is not a parameter.

    Raises:
        ValueError: A weight that a hook computes; names the module and what to call.
    """
    for found in hooked_weights(model):
        raise ValueError(f"weights must be parameters, but {_described(found)}")


def require_unmasked(model: nn.Module, names: set[str]) -> None:
    """Refuse parameters that ``torch.nn.utils.prune`` multiplies by a mask.

    Their magnitudes and rate are not those of the weights used by the model.

    Args:
        model: The model.
        names: Names of the requested parameters.

    Raises:
        ValueError: One of them is masked; names the module and what to call.
    """
    for found in hooked_weights(model):
        if found.by == "prune" and found.unmasked in names:
            raise ValueError(f"weights must be as the model uses them, but {_described(found)}")


def _described(found: HookedWeight) -> str:
    module = f"module {found.module!r}" if found.module else "the model itself"
    of = f"model.get_submodule({found.module!r})" if found.module else "model"
    return (
        f"{found.weight!r} of {module} is computed by torch.nn.utils.{found.by}: call "
        f"torch.nn.utils.{found.remove}({of}, {found.weight!r}) first, which leaves the outputs as they are."
    )
