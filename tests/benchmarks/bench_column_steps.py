"""Steps by column after the water-filling rule, in error feedback: bits saved at equal joint loss.

Column j of a layer has the step Δ · M_jj^−a, relative to the layer's mean: a = 0 is the one step that a layer has now;
with a = 1 an error costs the same in all columns, as the rule asks for at high rates. A layer with scaled columns and
inputs stands in for it. The steps of the columns would take 16 bits each in the file, which are not counted here.

python -m tests.benchmarks column_steps
"""

import math
import sys
from collections.abc import Mapping

import numpy as np
import torch

import nbquant as nq
from nbquant.coding.levels import rows_of_block
from nbquant.kernels import dispatch
from nbquant.quantization.compensation import Block, Problem, quantize_in_turn, sweep, upper_factor, values_of
from nbquant.quantization.feedback import parts_of
from nbquant.quantization.layerwise import PASSES, SLOPE, SWEEPS, Settings, layer_problem
from nbquant.quantization.paths import MOST_LEVELS, bits_of, first_bits
from tests.benchmarks import options

NETWORKS = ("lenet5-fashion", "gpt-python")
POWERS = (0.25, 0.5, 1.0)
LMBDAS = (1e-9, 1e-8, 1e-7, 1e-6)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__, rounds=1)
    if chosen is None:
        return
    print(f"{'':<16}{'a':>6}{'λ':>8}{'bit/weight':>12}{'joint loss':>12}{'bits saved':>12}")
    for name in NETWORKS[: 1 if chosen.smoke else None]:
        problems = _problems(name)
        if chosen.smoke:
            problems = dict(list(problems.items())[:1])
        plain = [_feedback(problems, lmbda, 0.0) for lmbda in LMBDAS]
        for power in (0.0, *POWERS[: 1 if chosen.smoke else None]):
            for lmbda, (rate, loss) in zip(LMBDAS, plain, strict=True):
                if power:
                    rate, loss = _feedback(problems, lmbda, power)
                saved = np.interp(math.log(loss), [math.log(x) for _, x in plain], [x for x, _ in plain]) - rate
                print(f"{name:<16}{power:>6g}{lmbda:>8.0e}{rate:>12.3f}{loss:>12.5g}{saved:>12.3f}", flush=True)


def _problems(name: str) -> Mapping[str, Problem]:
    """The layers with one group of inputs, without their biases."""
    model, data = nq.zoo.load(name)
    calibration = nq.calibrate(model, data.calibration.take(250), progress=False)
    selection = nq.select(model, calibration=calibration)
    found = {}
    for key, (weight, *_) in parts_of(selection).items():
        part = calibration.parts[key]
        if part.groups == 1 and not part.along and not part.stacked:
            settings = Settings(1.0, nq.Feedback.damping, nq.Feedback.output_damping, False)
            found[key] = layer_problem(weight, None, part, calibration.moments(key, {}), None, settings)
    return found


def _scaled(problem: Problem, power: float) -> Problem:
    """The same layer with its columns times a power of M_jj, and its inputs over that."""
    factor = problem.curvature[0].sqrt()
    gain = (factor / factor.log().mean().exp()) ** power
    blocks = []
    for block in problem.blocks:
        less = 1 / gain[block.columns]
        inputs = block.inputs.double() * less[:, None] * less
        blocks.append(Block(block.columns, inputs.float(), upper_factor(inputs).float()))
    return Problem(problem.target * gain[:, None], tuple(blocks), problem.outputs, problem.mean, None, None)


def _feedback(problems: Mapping[str, Problem], lmbda: float, power: float) -> tuple[float, float]:
    """Bits of an ideal code for each weight, and the joint loss."""
    total = loss = 0.0
    for original in problems.values():
        problem = _scaled(original, power)
        _, cols, rows = problem.target.shape
        curvature = 0.5 * float((problem.curvature.double().sum(1) * problem.outputs.double().mean(1)).mean()) / cols
        step = float(np.float32(math.sqrt(lmbda / (2 * SLOPE * curvature))))
        integers, bits = np.zeros((cols, rows), np.int32), 0.0
        costs = first_bits(float(problem.target.abs().mean()), step)
        for turn in range(PASSES + SWEEPS):
            run = quantize_in_turn if turn < PASSES else sweep
            run(problem, step, lmbda * costs.astype(np.float64), rows_of_block(cols), integers, iter(()))
            costs, bits = bits_of(dispatch.count_levels(integers.T, rows_of_block(cols), MOST_LEVELS))
        total += bits
        loss += problem.loss(values_of(problem, integers, step))
    return total / sum(p.target.numel() for p in problems.values()), loss


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
