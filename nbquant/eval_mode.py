"""Context manager that puts a model into eval mode and restores it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and restore the modes of all its modules and its buffers in any case.

    Some modules change buffers even in eval mode, such as counters of their calls.

    Args:
        model: Any module.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in model.buffers()]
    registered = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, own in registered:
            module._buffers.update(own)
        with torch.no_grad():
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
