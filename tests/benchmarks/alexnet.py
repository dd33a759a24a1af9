"""AlexNet in its one-column form, with torchvision's names."""

from jaxtyping import Float
from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five convolutions and three linear layers; 61,100,840 parameters.

    Parameter names and shapes are those of torchvision's ``alexnet``, so that its weights load. The paper's network is
    Caffe's, with convolutions in two groups and 60,965,224 parameters.

    Source: Krizhevsky 2014 (arXiv:1404.5997).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )

    def forward(self, image: Float[Tensor, "n 3 224 224"]) -> Float[Tensor, "n classes"]:
        """Class logits of normalised images."""
        return self.classifier(self.features(image).flatten(1))
