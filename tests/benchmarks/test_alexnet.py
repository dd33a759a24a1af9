import torch

from tests.benchmarks.alexnet import AlexNet

# As torchvision 0.28 names them, in its order.
SHAPES = {
    "features.0": (64, 3, 11, 11),
    "features.3": (192, 64, 5, 5),
    "features.6": (384, 192, 3, 3),
    "features.8": (256, 384, 3, 3),
    "features.10": (256, 256, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
    "classifier.6": (1000, 4096),
}


def test_names_and_shapes_are_torchvisions():
    with torch.device("meta"):
        state = AlexNet().state_dict()
    expected = {}
    for name, shape in SHAPES.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert {name: tuple(p.shape) for name, p in state.items()} == expected
    assert sum(p.numel() for p in state.values()) == 61_100_840


def test_logits_of_a_batch():
    model = AlexNet(classes=3).eval()
    sizes = []
    model.features.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape)))
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 3)
    assert sizes == [(2, 256, 6, 6)]
