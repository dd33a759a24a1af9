"""The bundled networks (trained by ``python -m nbquant.pipeline.train``)."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from nbquant.models import fashion_mnist, python_docs
from nbquant.models.dataset import Dataset
from nbquant.models.gpt import Gpt
from nbquant.models.lenet import LeNet5
from nbquant.models.mobilenet import MobileNet
from nbquant.models.resnet import ResNet8

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Network:
    """A bundled network and its training settings.

    Attributes:
        make: Makes the network with random weights.
        bundled: Loads the bundled data.
        load: Loads the full data, from a folder.
        epochs: Passes over the training samples.
        batch_size: Samples per batch.
    """

    make: Callable[[], nn.Module]
    bundled: Callable[[], Dataset] = fashion_mnist.bundled
    load: Callable[[str | Path | None], Dataset] = fashion_mnist.load
    epochs: int = 10
    batch_size: int = 64


NETWORKS: dict[str, Network] = {
    "lenet5-fashion": Network(LeNet5),
    "lenet5-fashion-pruned": Network(LeNet5),
    "resnet8-fashion": Network(ResNet8, epochs=8),
    "mobilenet-fashion": Network(MobileNet, epochs=5),
    "gpt-python": Network(Gpt, python_docs.bundled, python_docs.load, epochs=3, batch_size=32),
}


def names() -> tuple[str, ...]:
    """List the names of the bundled networks, for :func:`load`."""
    return tuple(NETWORKS)


def load(name: str) -> tuple[nn.Module, Dataset]:
    """Load a bundled network and its data; nothing is downloaded.

    ======================= ========== ============================================= ================================
    name                    parameters what it is                                    on all bundled test data
    ======================= ========== ============================================= ================================
    "lenet5-fashion"           431,080 two convolutions and two linear layers        91.95 %, loss 0.2452
    "lenet5-fashion-pruned"    431,080 the same, a tenth of the weights not zero     91.55 %, loss 0.2785
    "resnet8-fashion"           75,002 three residual blocks                         91.91 %, loss 0.2246
    "mobilenet-fashion"        149,354 depthwise-separable convolutions              92.49 %, loss 0.2117
    "gpt-python"               826,112 a GPT of characters, embedding and head tied  68.07 %, 1.620 bit/character
    ======================= ========== ============================================= ================================

    Args:
        name: One of these; the first four classify the images of Fashion-MNIST, the last one predicts the next
            character of the Python documentation.

    Returns:
        The trained network, on the CPU and in eval mode, a new copy at each call; and the bundled slice of its data,
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
    model = NETWORKS[name].make()
    state = load_file(CHECKPOINTS / f"{name}.safetensors")
    first = {id(p): key for key, p in model.named_parameters()}
    aliases = {key: first[id(p)] for key, p in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict({key: state[aliases.get(key, key)] for key in model.state_dict()}, strict=True)
    return model.eval(), NETWORKS[name].bundled()
