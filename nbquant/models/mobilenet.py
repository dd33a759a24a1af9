"""A depthwise-separable network for small images."""

from jaxtyping import Float
from torch import Tensor, nn


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """A depthwise 3×3 convolution, then a pointwise one, each with batch norm and activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.PReLU(in_channels),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
    )


class MobileNet(nn.Module):
    """One convolution, six separable ones up to 256 channels, one linear layer; 149,354 parameters.

    Source: Howard et al. 2017 (MobileNets, arXiv:1704.04861), with PReLU activations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.PReLU(32))
        sizes = ((32, 64, 2), (64, 96, 1), (96, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.layers = nn.Sequential(*(_separable(*size) for size in sizes))
        self.fc = nn.Linear(256, 10)

    def forward(self, image: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Compute class logits of normalised images."""
        return self.fc(self.layers(self.stem(image)).mean(dim=(2, 3)))
