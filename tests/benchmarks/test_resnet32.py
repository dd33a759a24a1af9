import torch
from torch import nn

from tests.benchmarks.resnet32 import ResNet32


def test_resnet32_has_the_paper_s_numbers_of_parameters():
    model = ResNet32()
    kinds = {nn.Conv2d: {}, nn.Linear: {}, nn.BatchNorm2d: {}}
    for name, module in model.named_modules():
        if type(module) in kinds:
            stage = name.split(".")[0]
            counts = kinds[type(module)]
            counts[stage] = counts.get(stage, 0) + sum(p.numel() for p in module.parameters())
    assert kinds[nn.Conv2d] == {"conv1": 432, "layer1": 23_040, "layer2": 87_552, "layer3": 350_208}
    assert kinds[nn.Linear] == {"linear": 650}
    assert sum(kinds[nn.BatchNorm2d].values()) == 2_272
    assert sum(p.numel() for p in model.parameters()) == 464_154
    # 32 layers with weights, of which the first and the last are no part of a block.
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 32


def test_resnet32_halves_the_picture_twice():
    model, sizes = ResNet32().eval(), []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape)))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
