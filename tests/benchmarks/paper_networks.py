"""The networks of table 1: their weights, their data in four parts, and what of them is quantized."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

import nbquant as nq
from nbquant.analysis.accuracy import Images
from nbquant.models.batches import Batches
from nbquant.models.dataset import Dataset
from nbquant.models.lenet import LeNet5
from nbquant.pipeline.train import train
from tests.benchmarks import cifar10, mnist
from tests.benchmarks.alexnet import AlexNet
from tests.benchmarks.imagenet import image_files
from tests.benchmarks.resnet32 import ResNet32
from tests.benchmarks.train_cifar10 import train_resnet

BUNDLED = ("lenet5-fashion", "resnet8-fashion")
RESNET8_LAYERS = ("conv1", "layers.*.conv*", "fc")
RESNET32_LAYERS = ("conv1", "layer?.*.conv*", "linear")


@dataclass(frozen=True, eq=False)
class Images4:
    """Four parts of a data set, of which no two share an image but calibration and tuning.

    Attributes:
        calibration: For sensitivities.
        tuning: For fine-tuning and pruning.
        choosing: For operating points.
        reporting: For the accuracies in the table.
        note: Where they are from.
    """

    calibration: Images
    tuning: Images
    choosing: Images
    reporting: Images
    note: str

    @staticmethod
    def of(data: Dataset, most: int | None = None) -> "Images4":
        """The test images in turns: even ones choose, odd ones report; sets are often sorted by difficulty."""
        parts = [Batches(data.test.inputs[i::2], data.test.targets[i::2], 500) for i in (0, 1)]
        choosing, reporting = (p.take(min(most or p.samples, p.samples)) for p in parts)
        train = data.train.take(min(most or data.train.samples, data.train.samples))
        calibration = data.calibration.take(min(most or data.calibration.samples, data.calibration.samples))
        return Images4(
            calibration,
            train,
            choosing,
            reporting,
            f"{data.name}: {calibration.samples:,} training images for h, {train.samples:,} for fine-tuning; "
            f"{choosing.samples:,} even test images choose, {reporting.samples:,} odd ones report",
        )


@dataclass(frozen=True, eq=False)
class Network:
    """One network of the table.

    Attributes:
        name: Its name.
        column: The paper's column it stands beside.
        model: Trained.
        images: Its data.
        layers: What is quantized; None is all.
        estimator: Of the sensitivities.
        density: What pruning keeps of the weights of these layers.
        pruned: Pruned already; None leaves it to :func:`nbquant.prune`.
    """

    name: str
    column: str
    model: nn.Module
    images: Images4
    layers: tuple[str, ...] | None = None
    estimator: str = "gauss_newton"
    density: float = 0.1
    pruned: nn.Module | None = None

    def pruned_model(self) -> nn.Module:
        """The pruned one, trained on the images for tuning where that is to be done."""
        if self.pruned is not None:
            return self.pruned
        return nq.prune(self.model, self.density, self.images.tuning, layers=self.layers, epochs=2).model


def bundled(name: str, most: int | None = None) -> Network:
    """A network of the zoo, with its bundled slice of Fashion-MNIST."""
    model, data = nq.zoo.load(name)
    images = Images4.of(data, most)
    if name == "resnet8-fashion":
        column, estimator = "ResNet-32, CIFAR-10", "gauss_newton_sampled"
        return Network(name, column, model, images, RESNET8_LAYERS, estimator, density=0.5)
    return Network(name, "LeNet5, MNIST", model, images, pruned=nq.zoo.load("lenet5-fashion-pruned")[0])


def on_mnist(folder: Path, weights: Path | None, epochs: int | None, most: int | None, device: str) -> Network:
    """LeNet5 on MNIST: from a file, or trained here."""
    data = mnist.load(folder)
    model = LeNet5() if weights else train("lenet5-fashion", data, epochs)[0]
    images = Images4.of(data, most)
    return Network("lenet5-mnist", "LeNet5, MNIST", _ready(model, weights, device), images, density=0.0855)


def on_cifar10(folder: Path, weights: Path | None, epochs: int | None, most: int | None, device: str) -> Network:
    """ResNet-32 on CIFAR-10: from a file, or trained here."""
    data = cifar10.load(folder)
    model: nn.Module = ResNet32()
    if not weights:
        model = train_resnet(model.to(device), data.train, *(() if epochs is None else (epochs,)))
    model = _ready(model, weights, device)
    images, column, estimator = Images4.of(data, most), "ResNet-32, CIFAR-10", "gauss_newton_sampled"
    return Network("resnet32-cifar10", column, model, images, RESNET32_LAYERS, estimator, density=0.2)


def on_imagenet(folder: Path, weights: Path | None, most: int, device: str) -> Network:
    """AlexNet on ImageNet, from a file in torchvision's names."""
    if weights is None:
        raise ValueError(
            "AlexNet is not trained here: name a safetensors file of its weights in torchvision's naming by "
            "--checkpoint. With torchvision installed (pip install torchvision) one is written by "
            "safetensors.torch.save_file(torchvision.models.alexnet(weights='DEFAULT').state_dict(), FILE)"
        )
    model = _ready(AlexNet(), weights, device)
    images = _of_folders(folder, most)
    return Network(
        "alexnet-imagenet", "AlexNet, ImageNet", model, images, estimator="gauss_newton_sampled", density=0.11
    )


def _of_folders(folder: Path, most: int) -> Images4:
    """``train`` and ``val`` in the folder; or only validation images, whose thirds then take turns."""
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        train, test = image_files(folder / "train"), image_files(folder / "val")
        parts = [train.spread(most), test.every(2, 0).spread(most), test.every(2, 1).spread(most)]
        note = "training images for h and fine-tuning; even validation images choose, odd ones report"
    else:
        files = image_files(folder)
        parts = [files.every(3, i).spread(most) for i in range(3)]
        note = "validation images only: a third for h and fine-tuning, a third chooses, a third reports"
    tuning, choosing, reporting = parts
    calibration = tuning.spread(1000)
    counts = f"{calibration.samples:,} for h, {tuning.samples:,}, {choosing.samples:,} and {reporting.samples:,}"
    return Images4(calibration, tuning, choosing, reporting, f"ImageNet, {note} ({counts} images)")


def _ready(model: nn.Module, weights: Path | None, device: str) -> nn.Module:
    if weights is not None:
        state = load_file(weights)
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"{weights} must hold the {len(model.state_dict())} tensors of {type(model).__name__} "
                f"({', '.join(list(model.state_dict())[:3])}, …), but: {error}"
            ) from error
    return model.to(device).eval()
