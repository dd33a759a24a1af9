"""Block formats of other libraries on the bundled language model: bits stored, entropy, KL divergence, and the bound.

Weights are weighted by sensitivity where scales are searched. Beside them the methods of nbquant at the rates of the
4-bit formats.

python -m tests.benchmarks block_formats
"""

import sys

import nbquant as nq
from nbquant.analysis.log_curve import bound_curve
from nbquant.analysis.statistics import Statistics
from nbquant.quantization.blocks import formats
from tests.benchmarks import options

SAMPLES = 200  # held out; all of them with --full
OURS = (("uniform", "context"), ("ecsq", "arithmetic"), ("trellis", "context"), ("feedback", "context"))
RATES = (3.0, 4.0)


def main(argv: list[str]) -> None:
    chosen = options.parse(argv, __doc__)
    if chosen is None:
        return
    model, data = nq.zoo.load("gpt-python")
    test = data.test if chosen.full else data.test.take(2 if chosen.smoke else SAMPLES)
    calibration = data.calibration.take(2) if chosen.smoke else data.calibration
    h = nq.sensitivity(model, calibration, damping=0.1, progress=False)
    layers = ["layers.0.out"] if chosen.smoke else None
    selection = nq.select(model, h, layers=layers, calibration=nq.calibrate(model, calibration, progress=False))
    names = ["nf4", "q4_0"] if chosen.smoke else list(formats.names())
    rows = nq.compare_formats(selection, names, progress=False)
    print(f"{'':<18}{'scales':>10}{'bit/weight':>11}{'entropy':>9}{'bound':>8}{'wasted':>8}{'KL [nat]':>11}{'same':>9}")
    for row in rows.itertuples():
        told = nq.evaluate(
            nq.fit(selection, row.format, search=row.search, progress=False).apply(model),
            test,
            reference=model,
            progress=False,
        ).comparison
        assert told is not None
        scales = "searched" if row.search else "plain"
        print(
            f"{row.format:<18}{scales:>10}{row.rate:>11.3f}{row.entropy:>9.3f}{row.bound_rate:>8.3f}"
            f"{row.bits_wasted:>8.3f}{told.kl_mean:>11.5f}{told.agreement:>9.2%}",
            flush=True,
        )
    limit = bound_curve(Statistics.of(selection))
    for method, coding in OURS[: 1 if chosen.smoke else None]:
        for rate in RATES[: 1 if chosen.smoke else None]:
            found = nq.fit(selection, method, rate=rate, coding=coding, progress=False)
            told = nq.evaluate(found.apply(model), test, reference=model, progress=False).comparison
            assert told is not None
            at = limit.rate(found.distortion)
            print(
                f"{method:<18}{coding:>10}{found.rate:>11.3f}{'':>9}{at:>8.3f}{found.rate - at:>8.3f}"
                f"{told.kl_mean:>11.5f}{told.agreement:>9.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
