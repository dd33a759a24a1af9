"""A method, code, estimator, panel and format made here alone and put into the lists: all rooms know them."""

import importlib
import importlib.util
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import nbquant as nq
from nbquant import cli
from nbquant.analysis.ladder import ladder
from nbquant.coding import codes
from nbquant.coding.code import Code
from nbquant.formats import formats
from nbquant.formats.format import Format
from nbquant.quantization import methods
from nbquant.quantization.block_quantizer import BLOCKS_METHOD
from nbquant.quantization.clustering import quantize_clusters
from nbquant.quantization.clusters import Clusters, centres
from nbquant.quantization.kmeans import midpoints
from nbquant.quantization.members import means
from nbquant.quantization.method import Method
from nbquant.quantization.parameter import LEVELS, Parameter
from nbquant.sensitivity import estimators
from nbquant.sensitivity.estimator import Estimator
from nbquant.tensorfile import TensorFile
from nbquant.views import theme
from nbquant.views.palette import BLUE
from nbquant.widgets.panels import panels
from nbquant.widgets.panels.panel import Panel
from nbquant.widgets.state import ExplorerState
from nbquant.widgets.view.pictures import still_figure, table
from tests.widgets.samples import WAIT, batches, network

# A method: quantiles, cells of equally many weights.


@dataclass(frozen=True)
class Quantiles:
    method: ClassVar[str] = "quantiles"
    parameter: ClassVar[Parameter] = LEVELS
    needs_rows: ClassVar[bool] = False

    levels: int
    weighted: bool = True
    coding: str = "huffman"
    per_layer: bool = False
    sharpness: float = 1.0

    def clusters(self, cells, near=None):
        count = np.diff(cells.prefix[:, 0])
        place = (np.cumsum(count) - 0.5 * count) / count.sum()
        index = np.minimum((place**self.sharpness * self.levels).astype(int), self.levels - 1)
        first = np.flatnonzero(np.diff(index, prepend=-1))
        edges = np.append(first, len(index))
        n, s0, s1, _ = np.diff(cells.prefix[edges], axis=0).T
        codebook = centres(s0, s1, np.add.reduceat(cells.position * count, first) / n)
        threshold = 0.5 * (cells.position[first[1:]] + cells.position[first[1:] - 1])
        return Clusters.of_sums(codebook, np.diff(cells.true_prefix[edges], axis=0), threshold)

    def refine(self, members, start):
        sums = members.assign(start.codebook)
        return means(sums, self.weighted, start.codebook), sums


def quantiles_curve(family, groups, pruned):
    made = [family(levels) for levels in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)]
    return made, [{group: quantizer.clusters(cells) for group, cells in groups.items()} for quantizer in made]


QUANTILES = Method(
    make=Quantiles,
    labels=("quantiles", "Hessian-weighted quantiles"),
    quantize=quantize_clusters,
    curve=quantiles_curve,
    boundaries=midpoints,
)


# A code: Elias gamma codewords of the indices, without a table.


def gamma_word(index):
    binary = f"{index + 1:b}"
    return "0" * (len(binary) - 1) + binary


def gamma_lengths(counts):
    return np.array([len(gamma_word(index)) for index in range(len(counts))], np.int64)


@dataclass(frozen=True)
class GammaCode:
    levels: int
    table_bits: ClassVar[int] = 0

    @property
    def lengths(self):
        return gamma_lengths(range(self.levels))

    def __len__(self):
        return self.levels

    def encode_table(self):
        return b""

    def payload_bits(self, counts):
        return int(counts @ self.lengths)

    def encode(self, symbols):
        bits = "".join(map(gamma_word, np.asarray(symbols).tolist()))
        return np.packbits(np.array(list(bits), np.uint8)).tobytes() if bits else b""

    def decode(self, data, count, bits=None):
        text = "".join(map(str, np.unpackbits(np.frombuffer(data, np.uint8))))
        found, at = [], 0
        for _ in range(count):
            zeros = text.index("1", at) - at
            found.append(int(text[at + zeros : at + 2 * zeros + 1], 2) - 1)
            at += 2 * zeros + 1
        if max(found) >= self.levels:
            raise ValueError("indices must be in the codebook, but are not.")
        return np.array(found, np.int32)


GAMMA = Code(
    name="gamma",
    label="Elias gamma",
    title="Elias gamma code",
    reason="codewords know indices only, not how often they occur",
    lengths=gamma_lengths,
    stored="gamma",
    major=2,
    known_from_counts=True,
    make=lambda counts, lengths: GammaCode(len(counts)) if len(counts) else None,
    read=lambda table, bits, levels: GammaCode(levels) if levels else None,
    payload_range=lambda levels, weights: (weights, weights * 64),
    codewords=lambda lengths: tuple(gamma_word(index) for index in range(len(lengths))),
)


# An estimator: squared weights.


def magnitude(problem):
    return {name: p.detach() ** 2 + 1e-3 for name, p in problem.parameters.items()}, 0


MAGNITUDE = Estimator(magnitude, "squared weight", "Squared weights: for a test")


# A panel: how many weights each cluster has.


def cluster_sizes(state, whole):
    return None if state.point is None else np.sort(state.point.clusters[state.group].counts)


def draw_sizes(counts, state, whole):
    place = np.arange(len(counts), dtype=np.float64)
    trace = {"type": "bar", "x": place, "y": counts.astype(np.float64), "width": 0.8, "marker": {"color": BLUE}}
    return theme.figure("Cluster sizes", "", [trace])


SIZES = Panel(
    name="sizes",
    title="Sizes",
    kind="result",
    data=cluster_sizes,
    draw=draw_sizes,
    table=lambda counts: pd.DataFrame({"members": counts}),
    describe=lambda state: f"Sizes of {state.point.levels} clusters.",
    follows=("point", "focus"),
)


# A format: a line of JSON with the shapes, then the entries of all tensors as float32.


def open_plain(path):
    with path.open("rb") as file:
        line = file.readline()
        places, begin = {}, len(line)
        for name, shape in json.loads(line).items():
            places[name] = ("F32", tuple(shape), begin)
            begin += 4 * math.prod(shape)
        opened = TensorFile.of(path, file, places, {"made": "here"})
    return dict.fromkeys(places, opened)


PLAIN = Format(".plain", lambda path: path.suffix == ".plain", open_plain)


def write_plain(path, model):
    state = model.state_dict()
    header = json.dumps({name: list(t.shape) for name, t in state.items()}).encode() + b"\n"
    header = b" " * (-len(header) % 4) + header  # entries are mapped where they are aligned
    path.write_bytes(header + b"".join(t.numpy().tobytes() for t in state.values()))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, PLAIN))
    monkeypatch.setattr(panels, "PANELS", (*panels.PANELS, SIZES))
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS, QUANTILES))
    monkeypatch.setattr(codes, "CODES", (*codes.CODES, GAMMA))
    monkeypatch.setattr(estimators, "ESTIMATORS", (*estimators.ESTIMATORS, MAGNITUDE))


@pytest.fixture
def model():
    return network()


@pytest.fixture
def selection(model):
    return nq.select(model, nq.sensitivity(model, batches(), "magnitude", progress=False))


def test_they_are_not_in_the_lists_without_this_file():
    assert [m.name for m in methods.METHODS].count("quantiles") == 1
    assert nq.KMeans(2).method == "kmeans"


def test_sensitivity(model):
    h = nq.sensitivity(model, batches(), "magnitude", progress=False)
    assert h.method == "magnitude"
    for name, p in model.named_parameters():
        torch.testing.assert_close(h[name], p.detach() ** 2 + 1e-3)


@pytest.mark.parametrize("coding", ["huffman", "gamma", "arithmetic", "context"])
def test_fit_and_file(model, selection, tmp_path, coding):
    quantized = nq.fit(selection, "quantiles", ratio=6, coding=coding, progress=False)
    assert quantized.compression_ratio >= 6
    assert quantized.quantizer == Quantiles(quantized.quantizer.levels, coding=coding)
    for options in ({"method": Quantiles}, {"method": "quantiles"}):
        by_levels = nq.fit(selection, levels=8, sharpness=2.0, coding=coding, progress=False, **options)
        assert by_levels.levels <= 8
        assert by_levels.quantizer.sharpness == 2.0
    assert nq.fit(selection, Quantiles(8, coding=coding), progress=False).levels == 8
    with pytest.raises(TypeError, match="got 'sharpnes': did you mean 'sharpness'"):
        nq.fit(selection, "quantiles", levels=8, sharpnes=2.0)

    path = tmp_path / "toy.nbq"
    ledger = nq.save(quantized, path, model, progress=False)
    assert ledger.total == 8 * path.stat().st_size
    stored = nq.load(path)
    again = stored.quantized()
    assert again.quantizer == quantized.quantizer
    assert again.ledger == quantized.ledger
    for name, values in quantized.dequantize().items():
        assert torch.equal(stored.state_dict()[name], values)
    nq.save(again, tmp_path / "again.nbq", model, progress=False)
    assert nq.load(tmp_path / "again.nbq").quantized().codebooks.keys() == quantized.codebooks.keys()


def test_a_pruned_selection(model, tmp_path):
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape) < 0.8] = 0
    quantized = nq.fit(nq.select(model), Quantiles, levels=4, coding="gamma", progress=False)
    assert quantized.pruned
    nq.save(quantized, tmp_path / "toy.nbq", model, progress=False)
    restored = nq.load(tmp_path / "toy.nbq").state_dict()
    assert all(torch.equal(restored[name], values) for name, values in quantized.dequantize().items())


def test_a_file_with_an_unknown_code_or_method_is_refused(model, selection, tmp_path, monkeypatch):
    path = tmp_path / "toy.nbq"
    nq.save(nq.fit(selection, Quantiles(4, coding="gamma"), progress=False), path, model, progress=False)
    monkeypatch.setattr(codes, "CODES", codes.CODES[:-1])
    with pytest.raises(nq.CorruptFileError, match="coding must be arithmetic or context in version 2"):
        nq.load(path)


def test_curves_sweep_ladder_and_plots(model, selection):
    table = nq.curves(selection, progress=False)
    assert {"kmeans", "uniform", "ecsq", "quantiles"} == set(table["method"])
    swept = nq.sweep({"m": selection}, ["quantiles", {"method": "ecsq", "coding": "gamma"}], [6], progress=False)
    assert swept["error"].isna().all()
    assert list(swept["method"]) == ["quantiles", "ecsq"]
    climbed = ladder(
        nq.fit(selection, "quantiles", levels=8, coding="gamma", progress=False), selection, progress=False
    )
    assert "codewords know indices only, not how often they occur" in set(climbed["reason"])
    figure = nq.plot.rate_distortion(selection, progress=False, bound=False)
    assert "Hessian-weighted quantiles" in {trace.name for trace in figure.data}
    assert len({trace.line.color for trace in figure.data if trace.line.color}) >= 4
    price = nq.price(selection, {}, method="quantiles", rates=(2.0, 3.0), progress=False)
    assert math.isfinite(price.points["rate"].sum())


@pytest.fixture
def commands():
    """A command makes its help when it is imported, which is when it runs."""
    sys.modules.pop("nbquant.cli.quantize", None)
    yield cli.commands
    sys.modules.pop("nbquant.cli.quantize", None)


def test_the_shell(commands, selection, model, tmp_path):
    source = tmp_path / "model.safetensors"
    save_file(dict(model.state_dict()), source)
    out = tmp_path / "model.nbq"
    options = ["--method", "quantiles", "--coding", "gamma", "--levels", "8", "--option", "sharpness=1.5"]
    done = CliRunner().invoke(commands, ["quantize", str(source), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    assert nq.load(out).quantized().quantizer.sharpness == 1.5
    shown = CliRunner().invoke(commands, ["quantize", "--help"]).output
    assert "quantiles" in shown
    assert "gamma" in shown


def test_the_explorer_its_session_and_its_code(model):
    state = ExplorerState(model, batches(), method="quantiles", coding="gamma", estimator="magnitude", ratio=6.0)
    assert state.wait(WAIT)
    assert state.error == ""
    assert ("quantiles", True) in state.curves
    assert state.point.quantizer.method == "quantiles"
    assert state.exact.compression_ratio >= 6
    state.pin()
    kept = json.loads(json.dumps(state.session()))
    other = ExplorerState(model, batches(), ratio=4.0)
    assert other.wait(WAIT)
    other.restore(kept)
    assert other.wait(WAIT)
    assert (other.method, other.coding, other.estimator) == ("quantiles", "gamma", "magnitude")
    names: dict = {"model": model, "data": batches()}
    exec(state.code(), names)  # what a user would paste
    assert names["quantized"].quantizer == state.exact.quantizer
    state.method = "kmeans"
    assert state.wait(WAIT)
    assert state.error == ""


def test_the_reference_has_them():
    path = Path(__file__).parent.parent / ".docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.api_page()
    assert "| `quantiles` | quantiles | `levels`: k |" in page
    assert "`sharpness=1.0`" in page
    assert f".. autoclass:: {__name__}.Quantiles" in page
    assert "| `gamma` | Elias gamma code | yes |" in page
    assert "| `magnitude` | Squared weights: for a test |" in page


WIDTH = Parameter("width", "W", "", rate_rises=False)


@dataclass(frozen=True)
class Wide:
    """Quantiles again, by a parameter of another name."""

    method: ClassVar[str] = "wide"
    parameter: ClassVar[Parameter] = WIDTH
    needs_rows: ClassVar[bool] = False

    width: float
    weighted: bool = True
    coding: str = "huffman"
    per_layer: bool = False

    def clusters(self, cells, near=None):
        return Quantiles(max(1, round(1 / self.width))).clusters(cells)

    def refine(self, members, start):
        return Quantiles(2, self.weighted).refine(members, start)


def wide_curve(family, groups, pruned):
    made = [family(1 / levels) for levels in (1, 2, 4, 8, 16, 32, 64)]
    return made, [{group: quantizer.clusters(cells) for group, cells in groups.items()} for quantizer in made]


def test_a_parameter_of_another_name(monkeypatch, model, selection):
    wide = Method(Wide, ("wide", "Hessian-weighted wide"), quantize_clusters, wide_curve)
    monkeypatch.setattr(methods, "METHODS", (*methods.METHODS, wide))
    assert nq.fit(selection, "wide", width=0.125, progress=False).quantizer == Wide(0.125)
    assert nq.fit(selection, Wide, ratio=6, progress=False).compression_ratio >= 6
    with pytest.raises(TypeError, match=r"options of wide are .*, but got 'wdth'"):
        nq.fit(selection, "wide", wdth=0.1)
    state = ExplorerState(model, None, method="wide", ratio=6.0)
    assert state.wait(WAIT)
    assert state.error == ""
    kept = json.loads(json.dumps(state.session()))
    state.method = "kmeans"
    state.restore(kept)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.exact.quantizer.method == "wide"


def test_menus():
    from nbquant.widgets.view.explorer import explore

    options = {control["name"]: control["options"] for control in explore(network(), None).controls}
    assert "quantiles" in [value for _, value in options["method"]]
    assert ("Elias gamma", "gamma") in options["coding"]
    assert ("squared weight", "magnitude") in options["estimator"]


def test_a_panel_is_drawn_described_and_offered(monkeypatch):
    explorer = nq.explore(network(), None, method="quantiles", levels=8)
    state, panel = explorer.state, explorer
    assert state.wait(WAIT)
    assert panel.names[-1] == "sizes"
    assert panel.kinds["sizes"] == "result"
    assert len(panel.sizes["data"][0]["y"]["bdata"]) == 8 * state.point.levels
    assert panel.descriptions["sizes"] == f"Sizes of {state.point.levels} clusters."
    before = panel.revision("sizes")
    state.levels = 4
    assert state.wait(WAIT)
    assert panel.revision("sizes") > before
    assert table(state, "sizes")["members"].sum() == len(state.selection)
    assert still_figure(state, "sizes").axes


def test_a_checkpoint_of_the_format(model, commands, tmp_path):
    path, out = tmp_path / "model.plain", tmp_path / "model.nbq"
    write_plain(path, model)
    selection = nq.select(path)
    for tensor in selection:
        assert torch.equal(tensor.weight, model.state_dict()[tensor.name])
    done = CliRunner().invoke(commands, ["quantize", str(path), "-o", str(out), "--ratio", "6"])
    assert done.exit_code == 0, done.output
    stored = nq.load(out)
    assert stored.metadata == {"made": "here"}
    assert stored.state_dict().keys() == model.state_dict().keys()
    state = nq.explore(path).state
    assert state.wait(WAIT)
    assert state.exact is not None
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="it is cut"):
        nq.select(path)
    with pytest.raises(ValueError, match=r"a \.safetensors file, .*, a \.plain file or a folder"):
        nq.select(tmp_path / "model.gguf")


COMBINATIONS = [
    pytest.param(method, code, keep, id=f"{method.name}-{code.name}-{keep}")
    for method in methods.METHODS
    for code in codes.CODES
    for keep in (1.0, 0.2)
]


@pytest.mark.parametrize(("method", "code", "keep"), COMBINATIONS)
def test_every_method_with_every_code(method, code, keep, tmp_path):
    """One contract: a target is met, the ledger is the file's, and the file gives the same weights again."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape) >= keep] = 0
    h = {name: torch.rand_like(p) + 0.1 for name, p in model.named_parameters()}
    data = [(torch.randn(32, 24), torch.randint(10, (32,)))]
    calibration = nq.calibrate(model, data, progress=False) if method.needs_calibration else None
    selection = nq.select(model, h, calibration=calibration)
    for per_layer in {False, True} if "per_layer" in method.options else {None}:
        quantized = nq.fit(selection, method.name, rate=5, coding=code.name, per_layer=per_layer, progress=False)
        assert quantized.rate <= 5
        assert quantized.quantizer.method == method.name
        assert quantized.pruned == (keep < 0.5 and method is not BLOCKS_METHOD)  # where zeros are weights like others
        path = tmp_path / f"{per_layer}.nbq"
        assert nq.save(quantized, path, model, progress=False).total == 8 * path.stat().st_size
        again = nq.load(path).quantized()
        assert again.quantizer == quantized.quantizer
        assert again.ledger == quantized.ledger
        restored = nq.load(path).state_dict()
        for name, values in quantized.dequantize().items():
            assert torch.equal(restored[name], values)
            assert not keep < 0.5 or not values[model.state_dict()[name] == 0].any()
