"""Samples whose most likely class differs between two networks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from nbquant.losses import Loss
from nbquant.models.batches import device_of, dtype_of, to_device
from nbquant.models.comparison import labelled, softmax_term
from nbquant.models.evaluate import is_classification, measured_output, parts_of, undisturbed
from nbquant.progress import Progress, track


@dataclass(frozen=True, eq=False)
class Flip:
    """A label whose most likely class is another one after quantization.

    Attributes:
        sample: Number of the sample among all batches.
        position: Number of the label within the sample.
        target: Its class.
        before: Most likely class by the reference.
        after: Most likely class by the network.
        confidence: Probability of ``after`` by the network.
        input: The sample's input: the first tensor of it.
    """

    sample: int
    position: int
    target: int
    before: int
    after: int
    confidence: float
    input: Tensor | None

    @property
    def kind(self) -> str:
        """Whether it was right and is wrong now ("broken"), the reverse ("mended"), or wrong in both ("other")."""
        return "broken" if self.before == self.target else "mended" if self.after == self.target else "other"


@dataclass(frozen=True, eq=False)
class Flips:
    """Differences between the answers of two networks.

    Attributes:
        labels: Labels that were compared.
        samples: Samples that they belong to.
        count: Number of flips by kind: "broken", "mended" and "other".
        examples: Some of them, those that were right before first, in the order of the samples.
    """

    labels: int
    samples: int
    count: dict[str, int]
    examples: tuple[Flip, ...]


def find_flips(
    model: nn.Module,
    reference: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
    most: int = 24,
    progress: Progress = True,
) -> Flips:
    """Find labels to which a network gives another class than the reference does.

    Args:
        model: The quantized network.
        reference: The network before.
        batches: As for :func:`nbquant.evaluate`.
        loss: Likewise.
        most: Examples that are kept of each kind, and in all.
        progress: See :data:`nbquant.progress.Progress`; counts batches.

    Raises:
        ValueError: A network that does not classify, or no labels.
    """
    kept: dict[str, list[Flip]] = {"broken": [], "mended": [], "other": []}
    count = dict.fromkeys(kept, 0)
    samples = labels = 0
    with undisturbed(model), undisturbed(reference):
        for number, batch in enumerate(track(batches, "Comparing answers", progress)):
            inputs, _, size = parts_of(batch, number, device_of(model), dtype_of(model))
            after, target, place = _answers(model, batch, loss)
            before, _, _ = _answers(reference, batch, loss)
            per_sample = max(1, place[0] // max(size, 1))
            first = _first_tensor(inputs)
            for i in (after.argmax(-1) != before.argmax(-1)).nonzero().reshape(-1).tolist():
                row, position = divmod(int(place[1][i]), per_sample)
                shown = None if first is None or row >= len(first) else first[row].detach().cpu().clone()
                best = int(after[i].argmax())
                flip = Flip(
                    samples + row, position, int(target[i]), int(before[i].argmax()), best,
                    float(after[i].float().softmax(-1)[best]), shown,
                )  # fmt: skip
                count[flip.kind] += 1
                if len(kept[flip.kind]) < most:
                    kept[flip.kind].append(flip)
            samples, labels = samples + size, labels + len(target)
    if not labels:
        raise ValueError("samples with labels are required, but there are none: give batches of (inputs, classes)")
    return Flips(labels, samples, count, tuple([f for flips in kept.values() for f in flips][:most]))


_Place = tuple[int, Int[Tensor, " labels"]]


def _answers(
    network: nn.Module, batch: Any, loss: Loss | None
) -> tuple[Float[Tensor, "labels classes"], Int[Tensor, " labels"], _Place]:
    """Logits and classes of the labels that count, and their places among all of the batch."""
    device, dtype = device_of(network), dtype_of(network)
    inputs, target = to_device(batch[0], device, dtype), to_device(batch[1], device, dtype)
    output, found = measured_output(network, inputs, target, loss)
    term = softmax_term(found)
    if term is not None and term.target is not None and term.counts is not None:
        z, classes = labelled(term)
        assert classes is not None
        counts = term.counts.reshape(-1)
        return z.cpu(), classes.cpu(), (len(counts), counts.nonzero().reshape(-1).cpu())
    if is_classification(output, target):
        counts = (target != -100).reshape(-1)
        return output[counts].cpu(), target[counts].cpu(), (len(counts), counts.nonzero().reshape(-1).cpu())
    raise ValueError("a network that classifies is required, but this one's loss has no classes as targets")


def _first_tensor(part: Any) -> Tensor | None:
    if isinstance(part, Tensor):
        return part
    if isinstance(part, dict):
        part = tuple(part.values())
    if isinstance(part, tuple | list):
        return next((found for found in map(_first_tensor, part) if found is not None), None)
    return None
