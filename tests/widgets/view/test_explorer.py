import io
import json
import time

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
import traitlets
from PIL import Image
from torch import nn

import nbquant as nq
from nbquant.widgets.view.explorer import explore
from tests.widgets.samples import batches, sensitivities, two_layers

WAIT = 60


@pytest.fixture
def explorer():
    model = two_layers()
    explorer = explore(model, batches(), sensitivity=sensitivities(model), ratio=6.0, measure_at_rest=False)
    settle(explorer)
    return explorer


@pytest.fixture
def sent(explorer, monkeypatch):
    """Messages that the panel sends, files with their content."""
    messages = []
    monkeypatch.setattr(
        explorer, "send", lambda content, buffers=None: messages.append((content, bytes((buffers or [b""])[0])))
    )
    return messages


def settle(explorer):
    """Wait for the state, and for the threads of the link."""
    link = explorer._link
    assert link._drives.wait(WAIT)
    assert explorer.state.wait(WAIT)
    assert all(slot.wait(WAIT) for slot in (*link._slow.values(), link._files))


def drive(explorer, driver, value):
    serial = explorer.drive.get("serial", 0) + 1
    explorer.drive = {"driver": driver, "value": value, "serial": serial}
    settle(explorer)
    return serial


def ask(explorer, content):
    explorer._handle_custom_msg(content, [])
    settle(explorer)


def act(explorer, name):
    explorer._handle_custom_msg({"kind": "act", "name": name}, [])


def control(explorer, name):
    return next(control for control in explorer.controls if control["name"] == name)


def numbers(packed):
    """An array as it is sent."""
    return np.frombuffer(packed["bdata"], packed["dtype"])


def revisions(explorer):
    return {name: explorer.revision(name) for name in explorer.names}


def test_all_figures_are_drawn_but_those_of_what_was_not_tried(explorer):
    undrawn = {name for name, revision in revisions(explorer).items() if revision == 0}
    assert undrawn == {"prediction", "finetuning", "file_tensors", "file_codes"}
    assert explorer.now["exact"]
    assert explorer.now["ratio"] == explorer.state.exact.compression_ratio >= 6.0


@pytest.mark.parametrize(("name", "value"), [("method", "ecsq"), ("weighted", False), ("coding", "fixed")])
def test_control_moves_state_table_and_point(explorer, name, value):
    table, now = explorer.table, explorer.now
    setattr(explorer, name, value)
    settle(explorer)
    assert getattr(explorer.state, name) == value
    assert explorer.table[name] == value != table[name]
    assert numbers(explorer.now["centre"]).tolist() != numbers(now["centre"]).tolist()


def test_state_moves_controls(explorer):
    explorer.state.method, explorer.state.damping = "uniform", 0.25
    explorer.state.layers = ("0",)
    settle(explorer)
    assert explorer.method == "uniform"
    assert explorer.damping == 0.25
    assert explorer.tables["layers"].checked == ["0"]
    assert control(explorer, "focus")["options"] == (("0.weight", "0.weight"), ("0.bias", "0.bias"))


@pytest.mark.parametrize(("driver", "value"), [("ratio", 8.0), ("rate", 5.0), ("levels", 6)])
def test_drive_is_answered_by_its_number(explorer, driver, value):
    serial = drive(explorer, driver, value)
    now = explorer.now
    assert (now["serial"], now["driver"], now["target"]) == (serial, driver, value)
    assert explorer.state.driver == driver


def test_drive_out_of_reach_is_answered_and_changes_nothing(explorer):
    before = explorer.now
    serial = drive(explorer, "ratio", 1e6)
    assert "out of reach" in explorer.problem
    assert explorer.now["serial"] == serial
    assert explorer.now["ratio"] == before["ratio"]
    drive(explorer, "ratio", before["target"])
    assert explorer.problem == ""


@pytest.mark.parametrize("value", [None, "many", float("nan"), [3.0], -1.0])
def test_senseless_drive_is_told(explorer, value):
    before = explorer.now
    serial = drive(explorer, "ratio", value)
    assert explorer.problem
    assert explorer.now["serial"] == serial
    assert explorer.now["ratio"] == before["ratio"]


def test_no_figure_is_sent_in_a_drag(explorer):
    before = revisions(explorer)
    drive(explorer, "ratio", 9.0)
    after = revisions(explorer)
    assert {name for name in after if after[name] != before[name]} <= {"error", "weighted_error"}  # of the weights


def test_preview_of_the_table_is_what_the_kernel_answers(explorer):
    """For k-means every point is on the curve: the front end's first picture is the kernel's."""
    table = explorer.state.table
    for ratio in (5.0, 7.0, 11.0):
        point = table.find("ratio", ratio)
        explorer.state.ratio = ratio
        assert explorer.state.point.compression_ratio == table.ratio[point]
        centre = table.centre[table.start[point] : table.start[point + 1]]
        assert explorer.state.point.clusters["all"].codebook.astype(np.float32).tolist() == centre.tolist()
        settle(explorer)


def test_codewords_lengths_and_counts_of_the_weights_themselves(explorer):
    now, exact = explorer.now, explorer.state.exact
    assert numbers(now["count"]).tolist() == exact.counts.tolist()
    assert [len(word) for word in now["codeword"]] == exact.codeword_length.tolist()
    bounds = numbers(now["threshold"])
    weight = torch.cat([p.detach().reshape(-1) for p in two_layers().parameters()]).numpy()
    found = np.searchsorted(bounds, weight)
    assigned = torch.cat([t.assignment.reshape(-1) for t in exact.tensors.values()]).numpy()
    # Boundaries travel in float32; hardly a weight lies within their rounding.
    assert (found != assigned).sum() <= 1


def test_facts_tell_accuracy_and_file(explorer):
    assert [fact["label"] for fact in explorer.facts] == ["measured accuracy", "file"]
    assert "of 64" not in explorer.facts[0]["value"]
    act(explorer, "measure")
    settle(explorer)
    assert "of 64" in explorer.facts[0]["value"]
    assert explorer.revision("prediction") == 1
    labels = [fact["label"] for fact in explorer.facts]
    assert labels == ["measured accuracy", "KL divergence from original", "file"]
    beside = explorer.state.measurement.evaluation.comparison
    assert explorer.facts[1]["value"] == f"{beside.kl_mean:.3g} nat"
    assert "points" in explorer.facts[0]["note"]
    assert explorer.facts[2]["value"] == f"{explorer.state.ledger.total / 8000:.1f} kB"


def test_focus_starts_at_the_largest_parameter_and_follows_the_layers(explorer):
    assert explorer.focus == explorer.state.focus == "0.weight"
    assert explorer.tables["layers"].focused == "0"
    explorer.tables["layers"].checked = ["2"]
    settle(explorer)
    assert explorer.focus == explorer.state.focus == "2.weight"
    explorer.tables["layers"].checked = ["2", "0"]
    settle(explorer)
    assert explorer.state.layers == ("0", "2")
    assert explorer.focus == explorer.state.focus == "2.weight"
    explorer.tables["layers"].focused = "0"
    assert explorer.state.focus == "0.weight"


def test_focus_moves_the_maps_only(explorer):
    before = revisions(explorer)
    explorer.focus = "2.weight"
    settle(explorer)
    after = revisions(explorer)
    assert {name for name in after if after[name] != before[name]} == {"heatmap", "error", "weighted_error"}


def test_focus_follows_to_another_codebook_where_layers_have_their_own(explorer):
    explorer.per_layer = True
    settle(explorer)
    before, rows = explorer.now, explorer.tables["codebook"].rows
    explorer.focus = "2.weight"
    settle(explorer)
    assert numbers(explorer.now["centre"]).tolist() != numbers(before["centre"]).tolist()
    assert explorer.tables["codebook"].rows != rows
    assert explorer.tables["codebook"].caption == "Codebook of 2"


def test_error_shows_and_the_last_picture_stays(explorer):
    before = revisions(explorer)
    explorer.tables["layers"].checked = []
    settle(explorer)
    assert "at least one" in explorer.problem
    assert revisions(explorer) == before
    explorer.tables["layers"].checked = ["0", "2"]
    settle(explorer)
    assert explorer.problem == ""


def test_layers_table_has_all_layers_and_shares_of_those_selected(explorer):
    rows = {row["layer"]: row for row in explorer.tables["layers"].rows}
    assert [row["weights"] for row in rows.values()] == [840, 205]
    assert sum(row["share_of_loss"] for row in rows.values()) == pytest.approx(1)
    explorer.state.layers = ("2",)
    settle(explorer)
    rows = {row["layer"]: row for row in explorer.tables["layers"].rows}
    assert rows["0"]["share_of_loss"] is None
    assert rows["2"]["share_of_loss"] == pytest.approx(1)


def test_codebook_table_adds_up(explorer):
    frame = pd.DataFrame(explorer.tables["codebook"].rows)
    assert frame["count"].sum() == 1045
    assert frame["bits"].sum() == explorer.state.exact.ledger["payload"]
    assert frame["predicted_loss"].sum() == pytest.approx(explorer.state.exact.predicted_loss_increase)


def test_pins_are_compared_gone_to_and_removed(explorer):
    act(explorer, "pin")
    first = explorer.state.exact.compression_ratio
    drive(explorer, "ratio", 9.0)
    act(explorer, "pin")
    rows = explorer.tables["pins"].rows
    assert [row["ratio"] for row in rows] == [first, explorer.state.exact.compression_ratio]
    assert rows[0]["d_ratio"] == pytest.approx(first / explorer.state.exact.compression_ratio - 1)
    assert rows[1]["d_ratio"] == rows[1]["d_loss"] == rows[1]["d_bytes"] == 0

    explorer.tables["pins"].hovered = "0"
    assert numbers(explorer.ghosts[0]["centre"]).tolist() == pytest.approx(
        list(explorer.state.pins[0].codebooks["all"])
    )
    explorer.tables["pins"].hovered = ""
    assert explorer.ghosts == []

    explorer.tables["pins"].pressed = {"key": "0", "action": "go", "serial": 1}
    settle(explorer)
    assert explorer.state.exact.compression_ratio == first
    explorer.tables["pins"].pressed = {"key": "0", "action": "remove", "serial": 2}
    assert [row["label"] for row in explorer.tables["pins"].rows] == [rows[1]["label"]]


def test_centre_moved_by_hand_costs_and_is_released(explorer):
    serial = explorer.drive.get("serial", 0) + 1
    explorer.moved = {"index": 0, "value": float(explorer.state.point.clusters["all"].codebook[0]) - 0.05} | {
        "serial": serial
    }
    settle(explorer)
    now = explorer.now
    assert now["by_hand"]
    assert not now["exact"]
    assert now["serial"] == serial
    assert now["loss"] > explorer.state.point.predicted_loss_increase
    assert now["note"].startswith("by hand: +")
    explorer.moved = {"serial": serial + 1}
    settle(explorer)
    assert not explorer.now["by_hand"]
    assert explorer.now["exact"]


def test_brushed_region_is_outlined(explorer):
    explorer.region = {"figure": "heatmap", "x0": -0.5, "x1": 19.5, "y0": -0.5, "y1": 3.5, "serial": 1}
    settle(explorer)
    outline = explorer.brushed
    rows = two_layers()[0].weight[:4].detach().numpy().reshape(-1)
    edge = numbers(outline["edge"])
    assert numbers(outline["height"]).tolist() == np.histogram(rows, edge)[0].tolist()
    assert "0.weight" in outline["label"]
    assert explorer.region_text == "0:4, 0:20"
    explorer.region_text = "1:3, 2:6"
    settle(explorer)
    assert numbers(explorer.brushed["height"]).sum() == 8
    explorer.region_text = "1:3 and more"
    settle(explorer)
    assert "Region" in explorer.problem or "rows" in explorer.problem
    explorer.region = {"serial": 2}
    settle(explorer)
    assert explorer.brushed == {}


def test_click_on_a_curve_goes_there(explorer):
    drawn = explorer.rate_distortion["data"]
    curve = next(i for i, trace in enumerate(drawn) if trace["name"] == "uniform")
    x = numbers(drawn[curve]["x"])[20]
    explorer.clicked = {"figure": "rate_distortion", "curve": curve, "point": 20, "x": float(x), "y": 0.1}
    settle(explorer)
    assert (explorer.state.method, explorer.state.weighted) == ("uniform", False)
    assert explorer.state.point.compression_ratio == pytest.approx(x)
    assert explorer.state.can_undo


@pytest.mark.parametrize("name", ["histogram", "heatmap", "error", "weighted_error", "rate_distortion", "ledger"])
def test_every_figure_has_a_table_and_files(explorer, sent, name):
    ask(explorer, {"kind": "table", "figure": name})
    table, _ = sent.pop()
    assert table["figure"] == name
    assert 0 < len(table["rows"]) <= table["total"]
    for form, mime in (("png", "image/png"), ("svg", "image/svg+xml"), ("csv", "text/csv")):
        ask(explorer, {"kind": "download", "figure": name, "format": form})
        message, content = sent.pop()
        assert (message["kind"], message["name"], message["mime"]) == ("file", f"nbquant_{name}.{form}", mime)
        if form == "png":
            assert Image.open(io.BytesIO(content)).size[0] > 300
        elif form == "csv":
            assert len(pd.read_csv(io.BytesIO(content))) == table["total"]
        else:
            assert b"<svg" in content
    assert sent == []


@pytest.mark.parametrize(
    "content", [{}, {"kind": "table", "figure": "../x"}, {"kind": "download", "figure": "ledger", "format": "exe"}]
)
def test_unknown_messages_are_ignored(explorer, sent, content):
    ask(explorer, content)
    assert sent == []
    assert explorer.state.error == ""


def test_figure_without_numbers_is_told(explorer, sent):
    ask(explorer, {"kind": "download", "figure": "finetuning", "format": "png"})
    assert sent == []
    assert "nothing behind finetuning yet" in explorer.state.error


def test_session_is_downloaded_and_restored(explorer, sent):
    act(explorer, "pin")
    act(explorer, "session")
    message, content = sent.pop()
    assert message["mime"] == "application/json"
    assert json.loads(content)["inputs"]["value"] == 6.0
    drive(explorer, "levels", 4)
    explorer.tables["pins"].pressed = {"key": "0", "action": "remove", "serial": 1}
    explorer._handle_custom_msg({"kind": "restore"}, [memoryview(content)])
    settle(explorer)
    assert (explorer.state.driver, explorer.state.ratio) == ("ratio", 6.0)
    assert len(explorer.tables["pins"].rows) == 1


def test_file_that_is_no_session_is_refused(explorer):
    before = explorer.state.settings
    content = b"{'a': 1}"
    explorer._handle_custom_msg({"kind": "restore"}, [memoryview(content)])
    settle(explorer)
    assert "must be JSON" in explorer.problem
    assert explorer.state.settings == before


def test_code_is_shown_and_copied_and_follows(explorer, sent):
    assert explorer.code_text == ""
    act(explorer, "code")
    assert "ratio=6.0" in explorer.code_text
    assert sent.pop()[0] == {"kind": "copy", "text": explorer.code_text}
    drive(explorer, "levels", 5)
    assert "levels=5" in explorer.code_text


def test_compressed_file_is_downloaded(explorer, sent, tmp_path):
    act(explorer, "download")
    settle(explorer)
    message, content = sent.pop()
    assert message["name"] == "model.nbq"
    assert len(content) == explorer.state.ledger.total // 8
    (tmp_path / "model.nbq").write_bytes(content)
    restored = nq.load(tmp_path / "model.nbq").apply(two_layers())
    expected = explorer.state.exact.apply(two_layers())
    assert all(torch.equal(a, b) for a, b in zip(restored.parameters(), expected.parameters(), strict=True))


def test_undo_and_redo(explorer):
    assert "undo" in explorer.blocked
    explorer.method = "ecsq"
    settle(explorer)
    assert "undo" not in explorer.blocked
    act(explorer, "undo")
    settle(explorer)
    assert explorer.method == "kmeans"
    assert "undo" in explorer.blocked
    act(explorer, "redo")
    settle(explorer)
    assert explorer.method == "ecsq"


def test_size_is_an_input_of_the_state(explorer):
    explorer.size = "projection"
    assert explorer.state.size == "projection"
    explorer.state.size = "compact"
    assert explorer.size == "compact"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("method", "nope", "method must be one of"),
        ("levels", "many", "levels"),
        ("damping", -1.0, "damping"),
        ("focus", "nope", "focus must be one of 0.weight"),
    ],
)
def test_input_that_cannot_be_goes_back_and_is_told(explorer, name, value, told):
    before = getattr(explorer, name)
    setattr(explorer, name, value)
    settle(explorer)
    assert getattr(explorer, name) == getattr(explorer.state, name) == before
    assert told in explorer.problem


def test_inputs_are_linked_with_other_widgets(explorer):
    slider = ipywidgets.FloatSlider(min=2, max=20, value=9.0)
    traitlets.link((slider, "value"), (explorer, "ratio"))
    settle(explorer)
    assert explorer.ratio == slider.value == explorer.state.ratio
    slider.value = 8.0
    settle(explorer)
    assert explorer.state.settings.target.value == 8.0
    assert explorer.now["ratio"] >= 8.0
    ipywidgets.jslink((slider, "value"), (explorer, "ratio"))  # refuses what the browser has no trait of


def test_front_end_s_numbers_are_taken_as_they_come(explorer):
    """As JSON has them: whole numbers for 8.0, lists for tuples."""
    explorer.set_state({"ratio": 8, "layers": ["2"]})
    settle(explorer)
    assert (explorer.state.ratio, explorer.state.layers) == (8.0, ("2",))
    assert explorer.problem == ""


def test_still_picture_is_drawn_and_told_when_results_rest(explorer, monkeypatch):
    picture = Image.open(io.BytesIO(explorer._png()))
    assert picture.size[0] > 600
    told = []
    monkeypatch.setattr(explorer._link, "_rested", lambda: told.append(explorer.state.point))
    drive(explorer, "levels", 7)
    deadline = time.monotonic() + WAIT
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told == [explorer.state.point]


def test_work_shows_only_while_there_is_some(explorer):
    assert explorer.activity == ""
    assert explorer.summary.startswith("k-means" if explorer.state.sensitivity is None else "Hessian-weighted k-means")


def test_pruned_zeros_are_counted():
    model = nn.Sequential(nn.Linear(20, 40))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(40, 20) < 0.1)
    pruned = explore(model, [(torch.randn(4, 20), torch.randint(40, (4,)))], ratio=20.0)
    settle(pruned)
    assert pruned.state.point.ledger["position_payload"] > 0
    assert "pruned zeros" in pruned.histogram["layout"]["title"]["text"]
    assert pruned.now["ledger"]["position_payload"] > 0


def test_without_data_what_needs_them_is_off(explorer):
    alone = explore(two_layers(), ratio=6.0)
    settle(alone)
    reasons = [alone.blocked["measure"], alone.blocked["finetune"], control(alone, "estimator")["disabled"]]
    assert all("explore(model, data)" in reason for reason in reasons)
    assert "h = 1" in alone.now["note"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ratio", "much", "ratio must be a finite number, but is 'much'"),
        ("levels", 3.5, "levels must be a whole number, but is 3.5"),
        ("density", 2.0, "density must be a finite number, at least 0, at most 1, but is 2.0"),
        (
            "size",
            "compac",
            "size must be one of standard, compact, projection, but is 'compac': did you mean 'compact'?",
        ),
        ("bars", "H", "bars must be one of weights, h, but is 'H'"),
        ("axis", "acuracy", "did you mean 'accuracy'?"),
        ("method", "kmean", "did you mean 'kmeans'?"),
        ("layers", 5, "layers must be a list of names, but is 5"),
        ("path", "model.bin", "path must be the name of a file that ends in .nbq, but is 'model.bin'"),
        ("compared", 3, "compared must be the place of a pin, or -1 for none, but is 3"),
        ("compared", "A", "compared must be a whole number, but is 'A'"),
        ("focus", "0.wieght", "did you mean '0.weight'"),
    ],
)
def test_every_input_that_cannot_be_is_told_and_goes_back(explorer, name, value, message):
    before = getattr(explorer, name)
    setattr(explorer, name, value)
    settle(explorer)
    assert message in explorer.problem
    assert getattr(explorer, name) == getattr(explorer.state, name) == before


def test_what_a_method_fixes_is_shown_whatever_the_setting_is():
    explorer = explore(two_layers(), ratio=6.0)
    state = explorer.state
    settle(explorer)
    state.method = "blocks"
    found = control(explorer, "per_layer")
    assert found["disabled"] == "not an option of block formats"
    assert found["options"] == (("per layer", False),)
    state.method = "kmeans"
    assert control(explorer, "per_layer")["options"] == (("joint", False), ("per layer", True))
