"""Cost of the sensitivity estimators, as a multiple of one forward and backward pass.

Every round times each contender once, so that what else the machine does falls on all alike; the table shows medians of
CPU time. Run it as ``python tests/benchmarks/bench_sensitivity.py [rounds]``; BackPACK joins where it is installed.
"""

import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbquant.sensitivity import sensitivity

METHODS = ("gauss_newton_sampled", "empirical_fisher", "adam", "becker_lecun", "hutchinson", "gauss_newton")


def lenet() -> nn.Sequential:
    """LeNet5 as in Caffe: 431,080 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        short = x[:, :, :: self.stride, :: self.stride]
        extra = y.shape[1] - short.shape[1]
        return (y + functional.pad(short, (0, 0, 0, 0, extra // 2, extra - extra // 2))).relu()


def resnet20() -> nn.Sequential:
    """ResNet-20 for 32×32 images: 3 stages of 3 blocks."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b) for a, b in pairwise(widths)]
    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def contenders(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the plain gradient first."""

    def gradient() -> None:
        model.eval().zero_grad()
        functional.cross_entropy(model(x), y).backward()

    def estimator(method: str) -> Callable[[], object]:
        return lambda: sensitivity(model, [(x, y)], method, progress=False)

    residual = any(isinstance(part, Block) for part in model)
    named = {m: estimator(m) for m in METHODS if not (residual and m == "becker_lecun")}
    return {"forward + backward": gradient, **named, **({} if residual else backpack_contenders(model, x, y))}


def backpack_contenders(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """The peer's diagonals, where it is installed; it takes sequential nets as they are."""
    if find_spec("backpack") is None:
        return {}
    import copy

    from backpack import backpack, extend, extensions

    twin = extend(copy.deepcopy(model).eval())
    loss = extend(nn.CrossEntropyLoss())

    def peer(extension: object) -> Callable[[], object]:
        def run() -> None:
            twin.zero_grad()
            with backpack(extension):
                loss(twin(x), y).backward()

        return run

    return {
        "BackPACK DiagGGNMC": peer(extensions.DiagGGNMC(mc_samples=1)),
        "BackPACK DiagGGNExact": peer(extensions.DiagGGNExact()),
    }


def measure(title: str, model: nn.Sequential, x: Tensor, y: Tensor, rounds: int) -> None:
    """Print the table of one network."""
    runs = contenders(model, x, y)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # warm
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    base = times["forward + backward"]
    print(f"\n{title}, {rounds} rounds")
    print(f"{'':26}{'ms':>9}{'ratio':>8}{'quartiles':>16}")
    for name, found in times.items():
        ratios = sorted(t / b for t, b in zip(found, base, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        middle = statistics.median(ratios)
        print(f"{name:26}{1e3 * statistics.median(found):9.1f}{middle:8.2f}{low:8.2f} –{high:6.2f}")


def main(rounds: int = 9) -> None:
    """Both networks on random images."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, CPU time")
    measure("LeNet5, batch 128", lenet(), torch.randn(128, 1, 28, 28), torch.randint(10, (128,)), rounds)
    measure("ResNet-20, batch 64", resnet20(), torch.randn(64, 3, 32, 32), torch.randint(10, (64,)), rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
