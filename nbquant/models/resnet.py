"""Residual networks for small images, with parameter-free shortcuts."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nbquant.models.fashion_mnist import BLACK


class Block(nn.Module):
    """Two 3×3 convolutions with a parameter-free shortcut (option A of He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        """Add both paths and apply the ReLU."""
        residual = functional.relu(self.bn1(self.conv1(image)))
        residual = self.bn2(self.conv2(residual))
        # Option A: every second pixel, and zeros for the additional channels, half on either side.
        before = self.new_channels // 2
        shortcut = functional.pad(
            image[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
        )
        return functional.relu(residual + shortcut)


class ResNet8(nn.Module):
    """One convolution, three blocks of 16, 32 and 64 channels, one linear layer; 75,002 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layers = nn.Sequential(Block(16, 16, stride=1), Block(16, 32, stride=2), Block(32, 64, stride=2))
        self.fc = nn.Linear(64, 10)

    def forward(self, image: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Compute class logits of normalised images, padded to 32×32 with the background's black."""
        image = functional.pad(image, (2, 2, 2, 2), value=BLACK)
        features = functional.relu(self.bn1(self.conv1(image)))
        return self.fc(self.layers(features).mean(dim=(2, 3)))
