"""Table 1 of the paper: every method × dense, pruned × before, after fine-tuning, beside the paper's numbers.

python -m tests.benchmarks.table1 [lenet5-fashion resnet8-fashion] [--mnist FOLDER] [--cifar10 FOLDER]
    [--imagenet FOLDER] [--checkpoint FILE] [--out FILE.md|FILE.csv] [--figures FOLDER]

Without options the bundled networks: minutes on a few cores. A folder of data adds the paper's own network: LeNet5 on
MNIST (idx files), ResNet-32 on CIFAR-10 (the binary version), AlexNet on ImageNet (one folder a class). They are
trained first where no checkpoint is given, AlexNet never.

The operating point is, as in the paper, the largest ratio at which the accuracy still holds: at most half a point is
lost against the network before quantization (for pruned rows, the pruned one). It is chosen on one half of the test
images and measured on the other, so that what is reported was not chosen on. Ratios are of files: all the model's bytes
over those of the file, from which the network that is measured was restored.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import nbquant as nq
from nbquant.analysis.accuracy import accuracy_by_method, accuracy_by_sensitivity
from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.statistics import Statistics
from nbquant.quantization.quantized import Quantized
from nbquant.quantization.rate import position_ledger
from nbquant.quantization.selection import Selection
from nbquant.views.accuracy import accuracy_data, plot_accuracy
from nbquant.views.palette import method_style
from tests.benchmarks import paper_networks
from tests.benchmarks.paper_networks import BUNDLED, Network
from tests.benchmarks.reproduction import DEEP_COMPRESSION, ORIGINAL, PAPER, Question, beside_paper, operating_points

DAMPING = 0.1
PARTS = {
    "values": ("payload",),
    "codebook": ("codebook", "code_table"),
    "positions": ("position_payload", "position_table"),
    "as it was": ("unquantized",),
    "around": ("header", "container", "padding"),
}
"""Columns of the printed table -> parts of the ledger; a csv file has each part."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="network", help=f"of {', '.join(BUNDLED)} (default: all)")
    parser.add_argument("--mnist", type=Path, metavar="FOLDER", help="MNIST's four idx files")
    parser.add_argument("--cifar10", type=Path, metavar="FOLDER", help="CIFAR-10's binary version")
    parser.add_argument("--imagenet", type=Path, metavar="FOLDER", help="train and val, or validation images alone")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="safetensors file for the one network on such")
    parser.add_argument("--training-epochs", type=int, help="where there is no checkpoint")
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning (default 1)")
    parser.add_argument("--lost", type=float, default=0.5, help="points of accuracy that may be lost (default 0.5)")
    parser.add_argument("--images", type=int, help="most images of a part (default: all, of ImageNet 5000)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table too: .md or .csv")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="write figures 1 and 2 of each network too")
    parser.add_argument("--smoke", action="store_true", help="only see whether it runs: few images, one method")
    options = parser.parse_args(argv)
    folders = {name: getattr(options, name) for name in ("mnist", "cifar10", "imagenet") if getattr(options, name)}
    unknown = [name for name in options.networks if name not in BUNDLED]
    if unknown:
        parser.error(f"networks are {', '.join(BUNDLED)}, but {', '.join(unknown)} came")
    if options.checkpoint and len(folders) != 1:
        parser.error(f"--checkpoint belongs to one of --mnist, --cifar10 and --imagenet, but {len(folders)} came")
    if options.out and options.out.suffix not in (".md", ".csv"):
        parser.error(f"--out must end in .md or .csv, but is {options.out}")
    options.folders = folders
    return options


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    tables = []
    try:
        for network in networks(options):
            table = table_of(network, options)
            tables.append(table)
            show(network, table, options)
            if options.figures:
                figures(network, options)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"table1: {error}")
    if options.out:
        write(pd.concat(tables), options.out)


def networks(options: argparse.Namespace) -> list[Network]:
    """What was asked for; the bundled ones if nothing was."""
    names = options.networks or (BUNDLED if not options.folders else ())
    few, most = (1, 200) if options.smoke else (None, options.images)
    found = [paper_networks.bundled(name, most) for name in names[:few]]
    rest = options.checkpoint, options.training_epochs, most, options.device
    if "mnist" in options.folders:
        found.append(paper_networks.on_mnist(options.mnist, *rest))
    if "cifar10" in options.folders:
        found.append(paper_networks.on_cifar10(options.cifar10, *rest))
    if "imagenet" in options.folders:
        found.append(paper_networks.on_imagenet(options.imagenet, options.checkpoint, most or 5000, options.device))
    return found


def question(network: Network, model: nn.Module, options: argparse.Namespace) -> Question:
    images = network.images

    def tune(quantized: Quantized, model: nn.Module) -> Quantized:
        return nq.finetune(quantized, model, images.tuning, epochs=options.epochs, progress=False).quantized

    h = nq.sensitivity(model, images.calibration, network.estimator, damping=DAMPING, progress=False)
    selection = nq.select(model, sensitivity=h, layers=network.layers)
    return Question(model, selection, images.choosing, images.reporting, tune, options.lost / 100)


def table_of(network: Network, options: argparse.Namespace) -> pd.DataFrame:
    """All rows of one network: the original, dense, pruned, and the paper's."""
    methods, spacing = (tabulated_pairs()[:2], 4.0) if options.smoke else (tabulated_pairs(), 1.05)
    paper = PAPER[network.column]
    rows = [_plain(network, "dense", ORIGINAL, network.model, 1.0, paper[ORIGINAL])]
    for weights, model in (("dense", network.model), ("pruned", network.pruned_model())):
        asked = question(network, model, options)
        if weights == "pruned":
            rows.append(_plain(network, weights, "pruned", model, positions_ratio(asked), paper["pruned"]))
        found = operating_points(asked, methods, spacing=spacing, progress=False)
        found = beside_paper(found, network.column) if weights == "pruned" else found
        for row in found.to_dict("records"):
            label = method_style(row["method"], row["weighted"]).label
            stage = "fine-tuned" if row["finetuned"] else ""
            rows.append({"network": network.name, "weights": weights, "label": label, "stage": stage, **row})
    if DEEP_COMPRESSION in paper:
        accuracy, ratio = paper[DEEP_COMPRESSION]
        labels = {"network": network.name, "weights": "pruned", "label": DEEP_COMPRESSION, "stage": "fine-tuned"}
        rows.append(labels | {"paper_accuracy": accuracy, "paper_ratio": ratio})
    return pd.DataFrame(rows)


def _plain(
    network: Network, weights: str, label: str, model: nn.Module, ratio: float, paper: tuple[float, float]
) -> dict[str, object]:
    """A network that is not quantized."""
    accuracy = nq.evaluate(model, network.images.reporting, progress=False).accuracy
    row = {"network": network.name, "weights": weights, "label": label, "stage": "", "accuracy": accuracy}
    return row | {"weights_ratio": ratio, "paper_accuracy": paper[0], "paper_ratio": paper[1]}


def positions_ratio(asked: Question) -> float:
    """Of a pruned network that stores what is left as it is, and where it is: what the paper's 10.13 must be."""
    statistics = Statistics.of(asked.selection)
    kept = statistics.weights - statistics.zeros
    positions = position_ledger([t.gaps for t in statistics.tensors]).total
    return statistics.source_bits / (kept * statistics.bits + positions)


def presentable(table: pd.DataFrame) -> pd.DataFrame:
    """Percent, bytes and blanks."""
    known = {shown: [table[part] for part in parts if part in table] for shown, parts in PARTS.items()}
    table = table.assign(**{f"bits of {shown}": sum(of) if of else math.nan for shown, of in known.items()})

    def column(name: str, shown: str, scale: float = 1.0) -> list[str]:
        values = table[name] if name in table else [math.nan] * len(table)
        return ["" if pd.isna(v) else format(scale * v, shown) for v in values]

    whole = {
        "weights": table["weights"].tolist(),
        "method": table["label"].tolist(),
        "tuned": ["yes" if stage else "" for stage in table["stage"]],
        "levels": column("levels", ".0f"),
        "accuracy %": column("accuracy", ".2f", 100),
        "lost": column("lost", "+.2f", 100),
        "lost, choosing": column("chosen_lost", "+.2f", 100),
        "ratio": column("ratio", ".2f"),
        "of weights": column("weights_ratio", ".2f"),
        "file": column("bytes", ",.0f"),
        **{shown: column(f"bits of {shown}", ",.0f", 1 / 8) for shown in PARTS},
        "paper %": column("paper_accuracy", ".2f"),
        "paper ratio": column("paper_ratio", ".2f"),
    }
    return pd.DataFrame(whole)


def markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def show(network: Network, table: pd.DataFrame, options: argparse.Namespace) -> None:
    samples = network.images.reporting.samples  # type: ignore[attr-defined]
    error = 100 * math.sqrt(table["accuracy"].iloc[0] * (1 - table["accuracy"].iloc[0]) / samples)
    print(
        f"\n{network.name}, beside the paper's {network.column} (pruned, fine-tuned, Huffman)\n"
        f"{network.images.note}. One image is {100 / samples:.2f} points, the standard error of an accuracy "
        f"{error:.2f}.\nOperating point: largest ratio with at most {options.lost:g} points lost on the choosing half; "
        f"h: {network.estimator}, damping {DAMPING}; fine-tuning: {options.epochs} epoch(s), nq.finetune's defaults."
    )
    print(presentable(table).to_string(index=False), flush=True)


def write(table: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
        return
    parts = [f"### {name}\n\n{markdown(presentable(rows))}" for name, rows in table.groupby("network", sort=False)]
    path.write_text("\n".join(parts), encoding="utf-8")


def figures(network: Network, options: argparse.Namespace) -> None:
    """Figures 1 and 2, of the dense network: numbers and pictures."""
    options.figures.mkdir(parents=True, exist_ok=True)
    asked = question(network, network.model, options)
    assert asked.tune is not None
    few = {"rates": (2.0,)} if options.smoke else {}
    original = nq.evaluate(network.model, asked.reporting, progress=False).accuracy or 0.0
    bits = {"bits": (2,)} if options.smoke else {}
    of_methods = accuracy_by_method(network.model, asked.selection, asked.reporting, asked.tune, **few, **bits)
    of_sensitivities = accuracy_by_sensitivity(
        network.model, sensitivities(network), asked.reporting, asked.tune, **few
    )
    of_sensitivities = of_sensitivities[of_sensitivities["finetuned"]]
    for number, rows in ((1, of_methods), (2, of_sensitivities)):
        path = options.figures / f"{network.name}-figure{number}"
        rows.to_csv(path.with_suffix(".csv"), index=False)
        plot_accuracy(accuracy_data(rows, original)).savefig(path.with_suffix(".png"), dpi=110)


def sensitivities(network: Network) -> dict[str, Selection]:
    """h from all images for tuning, from those for calibration, and Adam's √v; the first two without damping."""
    images = network.images
    found = {
        f"h, {images.tuning.samples:,} samples": (images.tuning, network.estimator),  # type: ignore[attr-defined]
        f"h, {images.calibration.samples:,} samples": (images.calibration, network.estimator),  # type: ignore[attr-defined]
        "√v of Adam": (images.tuning, "adam"),
    }
    return {
        name: nq.select(
            network.model,
            sensitivity=nq.sensitivity(network.model, batches, method, progress=False),
            layers=network.layers,
        )
        for name, (batches, method) in found.items()
    }


if __name__ == "__main__":
    started = time.perf_counter()
    torch.manual_seed(0)
    main(sys.argv[1:])
    print(f"({time.perf_counter() - started:.0f} s)")
