"""Training of the bundled networks: ``python -m nbquant.pipeline.train lenet5-fashion --out FILE.safetensors``."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from nbquant.models.batches import Batches
from nbquant.models.dataset import Dataset
from nbquant.models.evaluate import evaluate
from nbquant.models.zoo import NETWORKS
from nbquant.pipeline.loop import Training, seeded, ticking
from nbquant.pipeline.prune import prune
from nbquant.progress import Progress
from nbquant.replacing import replacing

KEPT = {"conv1.weight": 0.66, "conv2.weight": 0.20, "fc1.weight": 0.09, "fc2.weight": 0.30}
"""Share of each layer's weights kept by pruning: a tenth of LeNet5's in total, 43,410 with the biases."""

_LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Record:
    """Training settings and final accuracy of a network.

    Attributes:
        network: Name in the zoo.
        data: Name of the data set.
        seed: Seed of the initial weights and of the order of the samples.
        epochs: Passes over the training samples; the pruned network takes as many again after pruning.
        train_samples: Number of training samples: images, or windows of text.
        test_samples: Number of test samples, used once, after the last epoch.
        test_accuracy: Share of labels (of images, or of characters) predicted correctly.
        test_loss: Mean cross-entropy of the test labels [nat/label].
        nonzero: Number of parameters that are not zero.
        train_loss: Mean cross-entropy during each epoch [nat/label].
        seconds: Wall-clock time.
        torch: Version of torch.
    """

    network: str
    data: str
    seed: int
    epochs: int
    train_samples: int
    test_samples: int
    test_accuracy: float | None
    test_loss: float
    nonzero: int
    train_loss: tuple[float, ...]
    seconds: float
    torch: str


def train(
    name: str, data: Dataset, epochs: int | None = None, seed: int = 0, progress: Progress = True
) -> tuple[nn.Module, Record]:
    """Train one of the bundled networks; the last epoch is kept.

    Args:
        name: Name in the zoo. A pruned network is trained in full, pruned, and trained again.
        data: Data to train and test it on.
        epochs: Passes over the training samples; None for the network's default.
        seed: The same seed gives the same network on the same machine; the global random state is restored.
        progress: See :data:`nbquant.progress.Progress`.

    Raises:
        ValueError: An unknown name, or fewer than one epoch.
    """
    if name not in NETWORKS:
        raise ValueError(f"a network is required, one of {', '.join(map(repr, NETWORKS))}, but got {name!r}.")
    network = NETWORKS[name]
    epochs = network.epochs if epochs is None else epochs
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, but is {epochs}: leave it out for {network.epochs}.")
    start = time.perf_counter()
    samples = Batches(data.train.inputs, data.train.targets, network.batch_size)
    with seeded(nn.Identity(), seed):
        model = network.make()
        losses = _fit(model, samples, epochs, progress)
    if name.endswith("-pruned"):
        cycle = partial(_one_cycle, steps=epochs * len(samples))
        pruned = prune(model, KEPT, samples, steps=1, epochs=epochs, optimizer=cycle, seed=seed, progress=progress)
        model = pruned.model
        losses += [record.train_loss for record in pruned.history if record.train_loss is not None]
    result = evaluate(model.eval(), data.test, progress=progress)
    nonzero = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    seconds = round(time.perf_counter() - start, 1)
    return model, Record(
        network=name,
        data=data.name,
        seed=seed,
        epochs=epochs,
        train_samples=data.train.samples,
        test_samples=result.samples,
        test_accuracy=result.accuracy,
        test_loss=result.loss,
        nonzero=nonzero,
        train_loss=tuple(losses),
        seconds=seconds,
        torch=torch.__version__,
    )


def _one_cycle(
    parameters: Iterable[nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=steps)


def _fit(model: nn.Module, samples: Batches, epochs: int, progress: Progress) -> list[float]:
    """Mean loss of each epoch."""
    work = epochs * len(samples)
    training = Training(model.train(), samples, *_one_cycle(model.parameters(), work), None)
    with ticking(work, "Training", progress) as ticks:
        return [losses.mean for losses in training.epochs(epochs, ticks)]


def save(model: nn.Module, record: Record, path: Path) -> None:
    """Write the weights to ``path`` and the record next to it as ``.json``; no half-written file of weights stays."""
    first = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if name in first}  # tied ones once
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"network": record.network, "data": record.data})
        path.with_suffix(".json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a bundled network from command-line arguments."""
    parser = argparse.ArgumentParser(prog="python -m nbquant.pipeline.train", description="Train a bundled network.")
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("--data", metavar="FOLDER", help="data folder: Fashion-MNIST's four idx files, or texts")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--epochs", type=int, help="passes over the training samples (default: the network's own)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not options.out.parent.is_dir() or options.out.suffix != ".safetensors":
        parser.error(f"--out must be a .safetensors file in a folder that exists, but is {options.out}")
    try:
        data = NETWORKS[options.network].load(options.data)
        model, record = train(options.network, data, options.epochs, options.seed)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    save(model, record, options.out)
    accuracy = "" if record.test_accuracy is None else f"{100 * record.test_accuracy:.2f} % of "
    sys.stdout.write(f"{options.out}: {accuracy}{record.test_samples:,} test samples, loss {record.test_loss:.4f}\n")


if __name__ == "__main__":
    main()
