"""What quantization costs in accuracy on the bundled networks: methods side by side at the same compression ratio.

python -m tests.benchmarks pipeline
"""

import sys

import nbquant as nq
from tests.benchmarks import options

RATIOS = {"lenet5-fashion": (13, 15.5, 18, 22), "lenet5-fashion-pruned": (40, 45, 48, 50)}
METHODS = [(method, weighted) for method in ("kmeans", "uniform", "ecsq") for weighted in (False, True)]
DAMPING = 0.1


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    few, estimator = (1, "gauss_newton_sampled") if chosen.smoke else (None, "gauss_newton")
    for name, ratios in list(RATIOS.items())[:few]:
        ratios = ratios[:few]
        model, data = nq.zoo.load(name)
        h = nq.sensitivity(model, data.calibration, method=estimator, damping=DAMPING, progress=False)
        images = data.calibration if chosen.smoke else data.test
        selection = nq.select(model, sensitivity=h)
        original = nq.evaluate(model, images, progress=False)
        print(f"\n{name}: {original}; accuracy [%] at the ratio asked for or just above, no fine-tuning, {h}")
        print(f"{'':<18}" + "".join(f"{f'{ratio:g}×':>9}" for ratio in ratios))
        for method, weighted in METHODS[:few]:
            row = []
            for ratio in ratios:
                quantized = nq.fit(selection, method=method, weighted=weighted, ratio=ratio, progress=False)
                accuracy = nq.evaluate(quantized.apply(model), images, progress=False).accuracy or 0.0
                row.append(f"{100 * accuracy:>9.2f}")
            print(f"{method + (', weighted' if weighted else ''):<18}" + "".join(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
