import torch

from nbquant.models.fashion_mnist import BLACK
from nbquant.models.resnet import Block, ResNet8


def test_shortcut_is_every_second_pixel_with_zero_channels_on_both_sides():
    block = Block(2, 6, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)  # leaves the shortcut alone
    image = torch.rand(1, 2, 4, 4)
    out = block(image)
    assert torch.equal(out[:, 2:4], image[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 4:].any()


def test_padding_looks_like_the_background():
    model = ResNet8().eval()
    wide = torch.full((1, 1, 32, 32), BLACK)
    image = torch.rand(1, 1, 28, 28)
    wide[:, :, 2:30, 2:30] = image
    padded = []
    model.conv1.register_forward_pre_hook(lambda _, inputs: padded.append(inputs[0]))
    model(image)
    assert torch.equal(padded[0], wide)
