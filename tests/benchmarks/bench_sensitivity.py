"""Cost of the sensitivity estimators and of BackPACK's, as a multiple of one forward and backward pass.

python -m tests.benchmarks sensitivity

Every round times each contender once, so that what else the machine does falls on all alike; the table shows medians of
CPU time, and quartiles of the ratios.
"""

import copy
import statistics
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity
from tests.benchmarks import options
from tests.benchmarks.turns import one_thread, take_turns

METHODS = ("gauss_newton_sampled", "empirical_fisher", "adam", "becker_lecun", "hutchinson", "gauss_newton")


def lenet() -> nn.Sequential:
    """LeNet5 as in Caffe: 431,080 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters, all of modules: BackPACK sees no others.

    Where the shape changes, a fixed 1×1 convolution takes every other pixel and adds channels of zeros.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.short: nn.Module = nn.Identity()
        if stride > 1:
            self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False).requires_grad_(False)
            nn.init.dirac_(self.short.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + self.short(x))


def resnet20(width: int = 16) -> nn.Sequential:
    """ResNet-20 for 32×32 images: 3 stages of 3 blocks."""
    widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3
    blocks = [Block(a, b) for a, b in pairwise(widths)]
    stem = (nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def contenders(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the plain gradient first."""

    def gradient() -> None:
        model.eval().zero_grad()
        functional.cross_entropy(model(x), y).backward()

    def estimator(method: str) -> Callable[[], object]:
        return lambda: sensitivity(model, [(x, y)], method, progress=False)

    residual = any(isinstance(part, Block) for part in model)
    named = {m: estimator(m) for m in METHODS if not (residual and m == "becker_lecun")}
    peers = backpack_contenders(model, x, y, residual) if options.installed("backpack") else {}
    return {"forward + backward": gradient, **named, **peers}


def backpack_contenders(model: nn.Sequential, x: Tensor, y: Tensor, residual: bool) -> dict[str, Callable[[], object]]:
    """The peer's diagonals; residual networks go through its converter."""
    from backpack import backpack, extend, extensions

    twin = extend(copy.deepcopy(model).eval(), use_converter=residual)
    loss = extend(nn.CrossEntropyLoss())

    def peer(extension: object) -> Callable[[], object]:
        def run() -> None:
            twin.zero_grad()
            with warnings.catch_warnings(), backpack(extension):
                warnings.filterwarnings("ignore", "Full backward hook is firing")  # once a call, and of no account
                loss(twin(x), y).backward()

        return run

    return {
        "BackPACK DiagGGNMC": peer(extensions.DiagGGNMC(mc_samples=1)),
        "BackPACK DiagGGNExact": peer(extensions.DiagGGNExact()),
    }


def measure(title: str, model: nn.Sequential, x: Tensor, y: Tensor, rounds: int) -> None:
    """Print the table of one network."""
    taken = take_turns(contenders(model, x, y), rounds)
    base = taken["forward + backward"].seconds
    print(f"\n{title}, {rounds} rounds")
    print(f"{'':26}{'ms':>9}{'ratio':>8}{'quartiles':>16}")
    for name, measured in taken.items():
        ratios = sorted(t / b for t, b in zip(measured.seconds, base, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        middle = statistics.median(ratios)
        print(f"{name:26}{measured.ms:9.1f}{middle:8.2f}{low:8.2f} –{high:6.2f}", flush=True)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=9)
    if chosen is None:
        return
    torch.manual_seed(0)
    a, b, width = (2, 2, 1) if chosen.smoke else (128, 64, 16)
    print(f"torch {torch.__version__}, one thread, CPU time")
    with one_thread():
        x, y = torch.randn(a, 1, 28, 28), torch.randint(10, (a,))
        measure(f"LeNet5, batch {a}", lenet(), x, y, chosen.rounds)
        x, y = torch.randn(b, 3, 32, 32), torch.randint(10, (b,))
        measure(f"ResNet-20, batch {b}", resnet20(width), x, y, chosen.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
