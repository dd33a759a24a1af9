"""The bundled networks, trained on Fashion-MNIST (``python -m nbquant.pipeline.train`` makes such files)."""

import difflib
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from nbquant.models import fashion_mnist
from nbquant.models.dataset import Dataset
from nbquant.models.lenet import LeNet5
from nbquant.models.resnet import ResNet8

CHECKPOINTS = Path(__file__).parent / "checkpoints"

NETWORKS: dict[str, type[nn.Module]] = {
    "lenet5-fashion": LeNet5,
    "lenet5-fashion-pruned": LeNet5,
    "resnet8-fashion": ResNet8,
}


def names() -> tuple[str, ...]:
    """What :func:`load` can load."""
    return tuple(NETWORKS)


def load(name: str) -> tuple[nn.Module, Dataset]:
    """Load a bundled network and the data it belongs to; nothing is downloaded.

    Args:
        name: "lenet5-fashion" (91.95 % of the 10,000 test images), "lenet5-fashion-pruned" (91.55 %, a tenth of the
            weights) or "resnet8-fashion" (91.91 %).

    Returns:
        The trained network, on the CPU and in eval mode, new at each call; and the bundled slice of Fashion-MNIST,
        shared by all calls.

    Raises:
        ValueError: An unknown name.
    """
    if name not in NETWORKS:
        nearest = difflib.get_close_matches(str(name), NETWORKS, n=1, cutoff=0)
        raise ValueError(
            f"the name of a bundled network is required, one of {', '.join(map(repr, NETWORKS))}, but {name!r} came: "
            f"did you mean {nearest[0]!r}?"
        )
    model = NETWORKS[name]()
    model.load_state_dict(load_file(CHECKPOINTS / f"{name}.safetensors"), strict=True)
    return model.eval(), fashion_mnist.bundled()
