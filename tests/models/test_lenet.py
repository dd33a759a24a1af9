import torch
from torch import nn

from nbquant.models.lenet import LeNet5


def test_is_caffes_network_layer_by_layer():
    model = LeNet5()
    caffe = nn.Sequential(
        model.conv1, nn.MaxPool2d(2), model.conv2, nn.MaxPool2d(2), nn.Flatten(), model.fc1, nn.ReLU(), model.fc2
    )
    image = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(model(image), caffe(image))
