"""Block formats in the explorer's state: as points, by layer, and files in them."""

import pytest
from torch import nn

import nbquant as nq
from nbquant.quantization.blocks import formats
from nbquant.widgets.state import ExplorerState
from tests.widgets.samples import WAIT, of_blocks, sensitivities

SOME = ("q4_0", "q5_1", "q8_0")


@pytest.fixture
def state():
    model = of_blocks()
    state = ExplorerState(
        model, sensitivity=sensitivities(model), method="blocks", formats=list(SOME), ratio=5.0, damping=0.0
    )
    assert state.wait(WAIT)
    return state


@pytest.fixture
def few(monkeypatch):
    """Three formats in place of all."""
    monkeypatch.setattr(formats, "BLOCK_FORMATS", tuple(map(formats.named, SOME)))


def fitted(model, **options):
    selection = nq.select(model, sensitivities(model))
    return nq.fit(selection, "blocks", formats=SOME, progress=False, **options)


def test_layers_have_steps_and_the_formats_of_the_result(state):
    assert state.error == ""
    choices = {each.layer: each for each in state.layer_bits}
    assert list(choices) == ["0", "1", "2"]
    for layer, each in choices.items():
        assert [name for name, _ in each.steps] == list(SOME)
        assert [rate for _, rate in each.steps] == sorted(rate for _, rate in each.steps)
        assert each.format == state.exact.codebooks[layer].levels.format
        assert not each.is_own


def test_a_pulled_layer_stays_and_the_others_are_chosen_as_fit_does(state):
    free = {each.layer: each.format for each in state.layer_bits}
    pulled = "q8_0" if free["2"] != "q8_0" else "q4_0"
    state.set_layer_format("2", pulled)
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.layer_formats == (("2", pulled),)
    assert [each.is_own for each in state.layer_bits] == [False, False, True]
    expected = fitted(of_blocks(), ratio=5.0, layer_formats={"2": pulled})
    assert {g: b.levels.format for g, b in state.exact.codebooks.items()} == {
        g: b.levels.format for g, b in expected.codebooks.items()
    }
    assert state.exact.ledger == expected.ledger
    code = state.code()
    assert f"layer_formats={{'2': {pulled!r}}}" in code
    scope = {"model": of_blocks(), "sensitivity": sensitivities(of_blocks())}
    exec(code, scope)
    assert scope["quantized"].ledger == expected.ledger
    state.undo()
    assert state.wait(WAIT)
    assert {each.layer: each.format for each in state.layer_bits} == free
    state.redo()
    state.free_layers()
    assert state.layer_formats == ()


def test_session_restores_formats(state):
    state.set_layer_format("0", "q5_1")
    state.search = False
    assert state.wait(WAIT)
    session = state.session()
    assert session["inputs"]["formats"] == SOME
    other = ExplorerState(of_blocks(), sensitivity=sensitivities(of_blocks()), damping=0.0)
    other.restore(session)
    assert other.wait(WAIT)
    assert other.error == ""
    assert other.settings == state.settings
    assert other.exact.ledger == state.exact.ledger
    session["inputs"]["formats"] = ["q99"]
    other.restore(session)
    assert "q99" in other.error
    assert other.settings == state.settings


def test_a_layer_whose_format_puts_the_target_out_of_reach_is_told(state):
    before = state.exact
    state.ratio = 6.9
    assert state.wait(WAIT)
    before = state.exact
    state.set_layer_format("0", "q8_0")
    assert state.wait(WAIT)
    assert "out of reach" in state.error
    assert state.exact is before
    assert state.layer_bits[0].is_own
    state.set_layer_format("0", None)
    assert state.wait(WAIT)
    assert state.error == ""


@pytest.mark.parametrize(("layer", "name", "told"), [("0", "q9", "q9"), ("5", "q8_0", "")])
def test_formats_and_layers_that_are_not_there(state, layer, name, told):
    state.set_layer_format(layer, name)
    assert state.wait(WAIT)
    assert told in state.error
    assert all(not each.is_own for each in state.layer_bits)


def test_points_of_all_formats_are_those_of_compare_formats(state, few):
    assert state.format_points == ()
    state.all_formats = True
    assert state.wait(WAIT)
    model = of_blocks()
    rows = nq.compare_formats(nq.select(model, sensitivities(model)), progress=False)
    assert [(p.name, p.search) for p in state.format_points] == [*zip(rows["format"], rows["search"], strict=True)]
    for point, row in zip(state.format_points, rows.itertuples(), strict=True):
        assert point.predicted_loss == pytest.approx(row.predicted_loss_increase)
        assert point.compression_ratio == pytest.approx(row.compression_ratio)
        assert point.wasted == pytest.approx(row.bits_wasted)
    point = state.format_points[2]
    state.choose_format(point.name, point.search, point.compression_ratio * (1 - 1e-6))
    assert state.wait(WAIT)
    assert state.error == ""
    assert (state.formats, state.search) == (("q5_1",), False)
    assert state.exact.predicted_loss_increase == pytest.approx(point.predicted_loss)
    known = state.format_points
    state.all_formats = False
    assert state.format_points == ()
    state.all_formats = True
    assert state.format_points == known, "what was compared is kept"
    state.layers = ("0", "1")
    assert state.wait(WAIT)
    assert len(state.format_points) == 2 * len(SOME)
    assert state.format_points != known


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of the network, and one of another network."""
    folder = tmp_path_factory.mktemp("files")
    for name, model in (
        ("own", of_blocks()),
        ("other", nn.Sequential(nn.Linear(32, 8), nn.Sequential(nn.Linear(32, 4)))),
    ):
        layers = ["0.weight"] if name == "own" else ["1.0.weight"]
        q = nq.fit(nq.select(model, layers=layers), "q4_0", progress=False)
        nq.export(q, folder / f"{name}.gguf", model, progress=False)
    return folder


def test_file_is_inspected_against_the_network_with_its_sensitivities(state, files):
    state.quantized_file = str(files / "own.gguf")
    assert state.wait(WAIT)
    assert state.error == ""
    rows = state.inspected.rows.set_index("name")
    expected = nq.inspect(files / "own.gguf", of_blocks(), sensitivities(of_blocks()), methods=(), progress=False)
    assert rows.loc["0.weight", "distortion"] == pytest.approx(expected.set_index("name").loc["0.weight", "distortion"])
    assert state.file_tensor == "0.weight"
    assert state.tensor_codes.name == "0.weight"
    assert state.tensor_codes.count.sum() == 64 * 32
    state.file_tensor = "1.weight"
    assert state.wait(WAIT)
    assert state.tensor_codes.format == "F32"
    assert state.session()["view"]["file_tensor"] == "1.weight"


def test_a_file_that_cannot_be_opened_leaves_the_last_one(state, files, tmp_path):
    state.quantized_file = str(files / "own.gguf")
    assert state.wait(WAIT)
    before = state.inspected
    (tmp_path / "bad.gguf").write_bytes((files / "own.gguf").read_bytes()[:500])
    for path, told in ((tmp_path / "no.gguf", "no file"), (tmp_path / "bad.gguf", "bad.gguf")):
        state.quantized_file = str(path)
        assert state.wait(WAIT)
        assert told in state.error
        assert state.inspected is before
    state.quantized_file = ""
    assert state.error == ""
    assert state.inspected is None
    assert state.tensor_codes is None


@pytest.mark.parametrize("same_names", [True, False])
def test_a_file_of_another_network_has_no_distortion(files, same_names):
    model = nn.Sequential(nn.Linear(7, 3)) if same_names else nn.ModuleDict({"mlp": nn.Linear(7, 3)})
    state = ExplorerState(model, ratio=2.0, quantized_file=str(files / "other.gguf"))
    assert state.wait(WAIT)
    assert state.error == ""
    assert state.inspected.is_compared == same_names
    assert state.inspected.rows["distortion"].isna().all()
    assert state.inspected.rows["entropy"].notna().any()


def test_layers_and_tensors_of_other_names_are_refused_and_told(state):
    before = state.settings
    for wrong in (
        lambda: state.set_layer_format("heed", "q8_0"),
        lambda: setattr(state, "layer_formats", {"x": "q8_0"}),
    ):
        wrong()
        assert "layer_formats must name layers" in state.error
        assert state.settings == before
    state.ratio = 5.5
    assert state.error == ""
    with pytest.raises(ValueError, match="layer_formats must name layers"):
        ExplorerState(of_blocks(), layer_formats={"heed": "q8_0"})
