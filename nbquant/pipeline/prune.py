"""Magnitude pruning, at once or in steps with training in between."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nbquant.duplicate import duplicate
from nbquant.hooked import require_unmasked
from nbquant.listed import listed
from nbquant.models.evaluate import Loss
from nbquant.models.layers import Layers, owner, resolve
from nbquant.pipeline.loop import (
    MakeOptimizer,
    Training,
    evaluated,
    made,
    require_count,
    require_repeatable,
    seeded,
    steps_of,
    ticking,
)
from nbquant.progress import Progress
from nbquant.quantization.validate import require_finite_weight
from nbquant.required import MODULE, require

Scope = Literal["global", "layer"]
Masks = dict[str, Bool[Tensor, "..."]]
STEPS = 4
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class PruneRecord:
    """State of the network at one point of pruning.

    Attributes:
        step: Index of the pruning step; 0 is before the first.
        epoch: Number of training epochs since then.
        density: Share of the prunable weights that is not pruned.
        train_loss: Mean loss during the epoch [loss/sample]; None without training.
        test_loss: Mean loss on the test batches; None without test.
        test_accuracy: Accuracy on them; None without test, or if the network does not classify.
        kl_mean: Mean Kullback-Leibler divergence from the model's predictions on them [nat/label]; None likewise.
        agreement: Share of labels predicted as by the model; None likewise.
        accuracy_error: Standard error of the change in accuracy, on the same labels; None likewise.
    """

    step: int
    epoch: int
    density: float
    train_loss: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    kl_mean: float | None = None
    agreement: float | None = None
    accuracy_error: float | None = None


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned network.

    Attributes:
        model: The network; pruned weights are exactly zero.
        masks: Parameter name to mask, True for kept weights; tied parameters once, under their first name.
        history: Records of all points, the first before pruning.
    """

    model: nn.Module
    masks: Masks
    history: tuple[PruneRecord, ...]

    @property
    def density(self) -> float:
        """Share of the prunable weights that was kept."""
        return _density(self.masks)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the records, with the attributes of :class:`PruneRecord` as columns."""
        frame = pd.DataFrame([asdict(record) for record in self.history])
        return frame.astype({column: float for column in frame.columns if column not in ("step", "epoch")})

    def __repr__(self) -> str:
        kept, count = (sum(int(f(mask)) for mask in self.masks.values()) for f in (torch.count_nonzero, torch.numel))
        before, after = self.history[0].test_accuracy, self.history[-1].test_accuracy
        accuracy = "" if before is None or after is None else f", accuracy {100 * before:.2f} → {100 * after:.2f} %"
        return f"Pruned({type(self.model).__name__}, density {self.density:.4g}: {kept:,} of {count:,} kept{accuracy})"


@dataclass(frozen=True)
class _Share:
    """Parameters whose smallest weights are pruned together."""

    names: tuple[str, ...]
    density: float


def prune(
    model: nn.Module,
    density: float | Mapping[str, float],
    batches: Iterable[tuple[Any, Any]] | None = None,
    *,
    layers: Layers = None,
    scope: Scope = "global",
    steps: int | None = None,
    epochs: int = 1,
    optimizer: MakeOptimizer | None = None,
    lr: float | None = None,
    loss: Loss | None = None,
    test: Iterable[tuple[Any, Any]] | None = None,
    seed: int = 0,
    progress: Progress = True,
) -> Pruned:
    """Set the weights of least magnitude to zero; with batches, train the others.

    Existing zeros count as pruned. Of weights of equal magnitude the first ones, in the model's order,
    are kept, so that the number is exact: ``round(density · count)``, and at least one.

    Args:
        model: Any module; copied, not changed.
        density: Share of the prunable weights to keep, in (0, 1]; or one per layer, by the name of a layer or
            parameter or a glob of them; all others are left alone.
        batches: (inputs, targets) to train on, as for :func:`nbquant.finetune`. Without them, weights are only set to
            zero.
        layers: Layers to prune, as in :func:`nbquant.select`. Of a layer's parameters, those with two axes or more:
            biases and norms are few, each scales a whole channel, and their magnitudes do not compare with those of
            weights; to prune one, give its full name. None for all layers.
        scope: "global" compares the magnitudes of all; "layer" keeps the same share of each layer, as does a mapping.
        steps: Number of pruning steps; None is 4 with batches and 1 without. Step t of T leaves the density
            d + (d₀ − d)(1 − t/T)³, where d₀ is the density before.
        epochs: Training epochs after each pruning step.
        optimizer: As for :func:`nbquant.finetune`, for all parameters that require gradients; kept over all steps.
            Pruned weights stay exactly zero despite momentum and weight decay.
        lr: Learning rate; None leaves it to the optimizer.
        loss: As for :func:`nbquant.evaluate`; must be differentiable.
        test: Batches to evaluate on: before, after each pruning step, and after each epoch.
        seed: As for :func:`nbquant.finetune`.
        progress: See :data:`nbquant.progress.Progress`; counts batches. After cancelling nothing has changed.

    Returns:
        The pruned copy, in the model's modes, with masks and history.

    Raises:
        ValueError: A density or another argument out of range, layers that the model does not have or that cannot be
            pruned, weights or a loss that are not finite, no samples, or an iterator where batches are needed more
            than once.
        TypeError: Arguments or batches of other types.
        Cancelled: By ``progress``.

    Source: Han et al. 2015 (arXiv:1506.02626); schedule of Zhu and Gupta 2017 (arXiv:1710.01878), equation 1.
    """
    require("model", model, nn.Module, MODULE)
    shares = _shares(model, density, layers, scope)
    if batches is None and steps not in (None, 1):
        raise ValueError(f"steps={steps} needs batches to train on between the steps: pass batches, or leave it out")
    steps = steps if steps is not None else 1 if batches is None else STEPS
    require_count("steps", steps)
    require_count("epochs", epochs)
    epochs = 0 if batches is None else epochs
    for name, given, times in (("batches", batches, steps * epochs), ("test", test, 1 + steps * (1 + epochs))):
        if given is not None:
            require_repeatable(given, name, times)
    for share in shares:
        for name in share.names:
            require_finite_weight(model.get_parameter(name), name)
    with seeded(model, seed):
        network = duplicate(model)
        masks = {n: network.get_parameter(n).detach() != 0 for share in shares for n in share.names}
        training = None if batches is None else _training(network, batches, masks, optimizer, lr, loss)
        schedules = [cubic_schedule(_density({n: masks[n] for n in s.names}), s.density, steps) for s in shares]
        history = []
        work = steps_of((batches, steps * epochs), (test, 1 + steps * (1 + epochs)))
        with ticking(work, "Pruning", progress) as ticks:

            def record(step: int, epoch: int, train_loss: float | None = None) -> None:
                if test is None:
                    history.append(PruneRecord(step, epoch, _density(masks), train_loss))
                    return
                found = evaluated(network, test, loss, ticks, model)
                c = found.comparison
                beside = (None, None, None) if c is None else (c.kl_mean, c.agreement, c.accuracy_error)
                history.append(
                    PruneRecord(
                        step,
                        epoch,
                        _density(masks),
                        train_loss,
                        found.loss,
                        found.accuracy,
                        *beside,
                    )
                )

            record(0, 0)
            for step in range(1, steps + 1):
                for share, schedule in zip(shares, schedules, strict=True):
                    masks |= magnitude_masks({n: network.get_parameter(n) for n in share.names}, schedule[step - 1])
                _apply(network, masks)
                record(step, 0)
                if training is not None:
                    network.train()
                    for epoch, losses in enumerate(training.epochs(epochs, ticks), 1):
                        record(step, epoch, losses.mean)
        for module, original in zip(network.modules(), model.modules(), strict=True):
            module.training = original.training
        network.zero_grad()
    return Pruned(network, masks, tuple(history))


def cubic_schedule(before: float, density: float, steps: int) -> tuple[float, ...]:
    """Compute the densities after each of ``steps`` pruning steps: large steps first, small ones last.

    Args:
        before: Density before the first step.
        density: Density after the last; nothing is restored if it is above ``before``.
        steps: Number of pruning steps T.

    Source: Zhu and Gupta 2017 (arXiv:1710.01878), equation 1.
    """
    more = max(before - density, 0.0)
    return tuple(density + more * (1 - step / steps) ** 3 for step in range(1, steps + 1))


def magnitude_masks(weights: Mapping[str, Float[Tensor, "..."]], density: float) -> Masks:
    """Compute masks that keep the largest of weights compared with one another; zeros are never kept.

    Args:
        weights: Weights by name.
        density: Share to keep, in (0, 1].
    """
    first = next(iter(weights.values()))
    wide = torch.float64 if any(w.dtype == torch.float64 for w in weights.values()) else torch.float32
    magnitude = torch.cat([w.detach().abs().reshape(-1).to(first.device, wide) for w in weights.values()])
    keep = max(1, round(density * len(magnitude)))
    least = magnitude.kthvalue(len(magnitude) - keep + 1).values
    mask = magnitude > least
    ties = torch.nonzero(magnitude == least).reshape(-1)
    mask[ties[: keep - int(mask.sum())]] = True
    mask &= magnitude > 0
    parts = mask.split([w.numel() for w in weights.values()])
    return {name: part.view(w.shape).to(w.device) for (name, w), part in zip(weights.items(), parts, strict=True)}


def _training(
    network: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    masks: Masks,
    optimizer: MakeOptimizer | None,
    lr: float | None,
    loss: Loss | None,
) -> Training:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("at least one parameter that requires a gradient is required, but none does: unfreeze some")
    make, rate = (optimizer, lr) if optimizer is not None else (torch.optim.Adam, LEARNING_RATE if lr is None else lr)
    made_optimizer, schedule = made(make, rate, trained)
    return Training(network, batches, made_optimizer, schedule, loss, lambda: _apply(network, masks))


@torch.no_grad()
def _apply(network: nn.Module, masks: Masks) -> None:
    for name, mask in masks.items():
        # Not a product: −1 times 0 is −0, and infinity times 0 is NaN.
        network.get_parameter(name).masked_fill_(~mask, 0)


def _density(masks: Masks) -> float:
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def _shares(model: nn.Module, density: object, layers: Layers, scope: str) -> list[_Share]:
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be one of {', '.join(get_args(Scope))}, but got {scope!r}")
    if not isinstance(density, Mapping):
        _require_density(density, "density")
        names = _prunable(model, layers)
        return [_Share(tuple(names), density)] if scope == "global" else _by_layer(names, density)  # type: ignore[arg-type]
    if layers is not None:
        raise ValueError("layers and a density per layer exclude each other, but got both: leave layers out")
    if not density:
        raise ValueError("a density for at least one layer is required, but got an empty mapping")
    shares: list[_Share] = []
    claimed: dict[str, str] = {}
    for key, part in density.items():
        _require_density(part, f"density of {key!r}")
        names = _prunable(model, key)
        for name in names:
            if name in claimed:
                raise ValueError(
                    f"one density per parameter is required, but {name!r} matches both {claimed[name]!r} and "
                    f"{key!r}: name layers so that no parameter matches twice"
                )
            claimed[name] = key
        shares += _by_layer(names, part)
    return shares


def _by_layer(names: Iterable[str], density: float) -> list[_Share]:
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(owner(name), []).append(name)
    return [_Share(tuple(members), density) for members in layers.values()]


def _prunable(model: nn.Module, layers: Layers) -> list[str]:
    """First names of the parameters to prune, in the model's order."""
    if isinstance(layers, Iterator):
        layers = tuple(layers)
    asked, _ = resolve(model, layers)
    items = (layers,) if isinstance(layers, str | nn.Module) else layers or ()
    by_full_name = {item for item in items if isinstance(item, str)}
    aliases: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), set()).add(name)
    names = []
    for name, parameter in model.named_parameters():
        own = aliases[id(parameter)]
        if (
            parameter.is_floating_point()
            and parameter.numel()
            and (own & by_full_name or (own & asked and parameter.ndim >= 2))
        ):
            names.append(name)
    require_unmasked(model, {alias for name in names for alias in aliases[id(model.get_parameter(name))]})
    if not names:
        raise ValueError(
            f"at least one weight with two axes or more is required, but {listed(sorted(asked))} have none: name a "
            "bias or the weight of a norm by its full name to prune it"
        )
    return names


def _require_density(density: object, what: str) -> None:
    if isinstance(density, bool) or not isinstance(density, int | float):
        raise TypeError(f"{what} must be a number in (0, 1], but is {density!r}")
    if not 0 < density <= 1:
        raise ValueError(f"{what} must be in (0, 1], but is {density!r}: 0.1 keeps a tenth of the weights")
