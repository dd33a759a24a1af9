import torch
from torch import nn

from nbquant.models.mobilenet import MobileNet


def test_has_the_stated_parameters_layer_by_layer():
    model = MobileNet()
    assert sum(p.numel() for p in model.parameters()) == 149_354
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    across = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [m.groups for m in depthwise] == [32, 64, 96, 128, 128, 256]
    assert all(m.weight.shape == (m.groups, 1, 3, 3) for m in depthwise)
    assert [m.out_channels for m in across] == [64, 96, 128, 128, 256, 256]


def test_picture_is_halved_three_times_and_averaged():
    model, sizes = MobileNet().eval(), []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    image = torch.randn(2, 1, 28, 28)
    logits = model(image)
    assert logits.shape == (2, 10)
    assert sizes == [(64, 14, 14), (96, 14, 14), (128, 7, 7), (128, 7, 7), (256, 4, 4), (256, 4, 4)]
    torch.testing.assert_close(logits, model.fc(model.layers(model.stem(image)).flatten(2).mean(2)))


def test_depthwise_convolution_keeps_channels_apart():
    convolution = MobileNet().layers[0][0]
    image = torch.randn(1, 32, 6, 6)
    changed = image.clone()
    changed[:, 5] += 1.0
    moved = (convolution(changed) - convolution(image)).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.nonzero().flatten().tolist() == [5]
