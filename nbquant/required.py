"""Type errors for arguments: what is required, what came, what to do."""

import os
from typing import Any

MODULE = "must be a torch.nn.Module"
SELECTION = "must be a selection"
QUANTIZED = "must be a result of nbquant.fit"

_ADVICE = {
    MODULE: "pass the network itself (of a quantized selection, the model that its apply(model) returns)",
    SELECTION: "make one by nbquant.select(model, sensitivity)",
    QUANTIZED: "make it by nbquant.fit(nbquant.select(model, sensitivity), method, ratio=…)",
}


def require(name: str, value: Any, kinds: type | tuple[type, ...], must: str, advice: str | None = None) -> None:
    """Refuse an argument of another type.

    Args:
        name: Name of the argument.
        value: The argument.
        kinds: Accepted types.
        must: Requirement in words.
        advice: Advice; known for :data:`MODULE`, :data:`SELECTION` and :data:`QUANTIZED`.

    Raises:
        TypeError: An argument of another type.
    """
    if not isinstance(value, kinds):
        came = "None" if value is None else f"a {type(value).__name__}"
        raise TypeError(f"{name} {must}, but {came} came: {advice or _ADVICE[must]}.")


def require_path(name: str, value: Any) -> None:
    """Refuse an argument that is not a path.

    Raises:
        TypeError: Neither text nor a path.
    """
    require(name, value, (str, os.PathLike), "must be the path of a file", 'pass its name, as in "model.nbq"')
