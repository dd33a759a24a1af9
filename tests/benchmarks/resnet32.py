"""ResNet-32 for CIFAR-10."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.models.resnet import Block


class ResNet32(nn.Module):
    """One convolution, three stages of five blocks with 16, 32 and 64 channels, one linear layer; 464,154 parameters.

    Source: He et al. 2015 (arXiv:1512.03385), section 4.2.
    """

    def __init__(self, blocks: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, image: Float[Tensor, "n 3 32 32"]) -> Float[Tensor, "n 10"]:
        """Class logits of normalised images."""
        features = functional.relu(self.bn1(self.conv1(image)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean(dim=(2, 3)))


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    first = Block(in_channels, channels, stride=1 if in_channels == channels else 2)
    return nn.Sequential(first, *(Block(channels, channels, stride=1) for _ in range(blocks - 1)))
