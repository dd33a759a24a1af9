"""LeNet5 as defined by Caffe."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class LeNet5(nn.Module):
    """Two convolutions and two linear layers; 431,080 parameters.

    The one non-linearity besides the pooling is the ReLU after ``fc1``, as in Caffe's example network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, kernel_size=5)
        self.conv2 = nn.Conv2d(20, 50, kernel_size=5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, image: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Compute class logits of normalised images."""
        features = functional.max_pool2d(self.conv1(image), 2)
        features = functional.max_pool2d(self.conv2(features), 2)
        return self.fc2(functional.relu(self.fc1(features.flatten(1))))
