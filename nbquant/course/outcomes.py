"""Predictions of a network, label by label, and the changes between two networks on the same labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nbquant.eval_mode import in_eval_mode


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Predictions of a network on labelled samples.

    Attributes:
        log_probability: Logarithm of the predicted probability of each class [nat].
        target: Class of each label.
    """

    log_probability: Float[Tensor, "n classes"]
    target: Float[Tensor, " n"]

    @cached_property
    def loss(self) -> Float[np.ndarray, " n"]:
        """Cross-entropy of each label [nat]."""
        return -self.log_probability.gather(1, self.target[:, None])[:, 0].double().numpy()

    @cached_property
    def correct(self) -> Float[np.ndarray, " n"]:
        """1 for each label whose class is the most likely one, and 0 otherwise."""
        return (self.log_probability.argmax(1) == self.target).double().numpy()

    def divergence(self, reference: "Outcomes") -> Float[np.ndarray, " n"]:
        """Compute the KL divergence from the reference's predictions, for each label [nat]."""
        p = reference.log_probability
        return (p.exp() * (p - self.log_probability)).sum(1).clamp(min=0).double().numpy()


@torch.no_grad()
def outcomes(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Outcomes:
    """Run a network on batches.

    Args:
        model: A network that returns logits, with the classes along the second axis.
        batches: Inputs and classes; each place of a text is a label of its own.
    """
    found, targets = [], []
    with in_eval_mode(model):
        for inputs, target in batches:
            found.append(model(inputs).movedim(1, -1).flatten(0, -2).log_softmax(-1))
            targets.append(target.flatten())
    return Outcomes(torch.cat(found), torch.cat(targets))


def standard_error(values: Float[np.ndarray, " n"]) -> float:
    """Estimate the standard error of the mean of independent values."""
    return float(values.std(ddof=1) / len(values) ** 0.5)
