"""Comparison of two networks' predictions, label by label."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nbquant.losses import Recorded, Term


@dataclass(frozen=True)
class Comparison:
    """Predictions of a network compared with a reference's on the same labels.

    Attributes:
        kl_mean: Mean Kullback-Leibler divergence from the reference's predictions [nat/label].
        kl_99: Its 99th percentile over labels [nat].
        agreement: Share of the labels with the same most likely class, in [0, 1].
        accuracy_change: Accuracy minus the reference's; None if targets are not classes.
        accuracy_error: Standard error of that change, paired over the labels.
        kl_error: Standard error of ``kl_mean`` [nat/label].
    """

    kl_mean: float
    kl_99: float
    agreement: float
    accuracy_change: float | None = None
    accuracy_error: float | None = None
    kl_error: float | None = None

    def __str__(self) -> str:
        said = f"KL {self.kl_mean:.3g} nat (99th percentile {self.kl_99:.3g}), {self.agreement:.1%} same predictions"
        if self.accuracy_change is None or self.accuracy_error is None:
            return said
        return f"{said}, accuracy {100 * self.accuracy_change:+.2f} ± {100 * self.accuracy_error:.2f} points"


def softmax_term(found: Recorded) -> Term | None:
    """Find the single cross-entropy that a loss consists of; None if there is none, or several."""
    terms = [term for term, _ in found.terms] or list(found.calls)
    known = [term for term in terms if term.mass is not None]
    return known[0] if len(known) == 1 else None


def labelled(term: Term) -> tuple[Float[Tensor, "labels classes"], Tensor | None]:
    """Select logits and classes of the labels that count; no classes if targets are not classes."""
    z = term.z.detach().movedim(term.dim, -1)
    if term.counts is None or term.target is None:
        return z.reshape(-1, z.shape[-1]), None
    return z[term.counts], term.target[term.counts]


@dataclass
class Comparing:
    """Running sums of a comparison; add every batch, then take the result."""

    divergences: list[Tensor] = field(default_factory=list)
    same: int = 0
    changes: list[Tensor] = field(default_factory=list)

    def add(self, term: Term, reference: Term) -> None:
        """Add a batch: the same labels as predicted by the network and by the reference.

        Raises:
            ValueError: Predictions of other shapes.
        """
        (z, target), (other, _) = labelled(term), labelled(reference)
        if z.shape != other.shape:
            raise ValueError(
                f"reference must predict the same labels and classes, {tuple(z.shape)}, but predicts "
                f"{tuple(other.shape)}: pass the model from which this one was made."
            )
        p, log_p = other.float().softmax(-1), other.float().log_softmax(-1)
        self.divergences.append((p * (log_p - z.float().log_softmax(-1))).sum(-1).clamp(min=0).cpu())
        best, other_best = z.argmax(-1), other.argmax(-1)
        self.same += int((best == other_best).sum())
        if target is not None:
            self.changes.append(((best == target).to(torch.int8) - (other_best == target).to(torch.int8)).cpu())

    def result(self) -> Comparison | None:
        """Compute the comparison over all batches; None without labels."""
        kl = torch.cat(self.divergences).double() if self.divergences else torch.zeros(0)
        if not len(kl):
            return None
        rank = max(1, math.ceil(0.99 * len(kl)))
        change = error = None
        if self.changes:
            own = torch.cat(self.changes).double()
            change = float(own.mean())
            error = float(own.std(correction=1)) / math.sqrt(len(own)) if len(own) > 1 else math.nan
        kl_error = float(kl.std(correction=1)) / math.sqrt(len(kl)) if len(kl) > 1 else math.nan
        return Comparison(
            float(kl.mean()), float(kl.kthvalue(rank).values), self.same / len(kl), change, error, kl_error
        )
