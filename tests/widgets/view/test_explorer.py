import io
import json
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import nbquant as nq
from nbquant.widgets.view.explorer import explore
from tests.widgets.samples import batches, sensitivities

WAIT = 60


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5))


@pytest.fixture
def explorer():
    model = network()
    explorer = explore(model, batches(), sensitivity=sensitivities(model), ratio=6.0)
    settle(explorer)
    return explorer


@pytest.fixture
def sent(explorer, monkeypatch):
    """Messages that the panel sends, files with their content."""
    messages = []
    monkeypatch.setattr(
        explorer.panel, "send", lambda content, buffers=None: messages.append((content, bytes((buffers or [b""])[0])))
    )
    return messages


def settle(explorer):
    """Wait for the state, and for the threads of the link."""
    link = explorer._link
    assert link._drives.wait(WAIT)
    assert explorer.state.wait(WAIT)
    assert all(slot.wait(WAIT) for slot in (*link._slow.values(), link._files))


def drive(explorer, driver, value):
    serial = explorer.panel.drive.get("serial", 0) + 1
    explorer.panel.drive = {"driver": driver, "value": value, "serial": serial}
    settle(explorer)
    return serial


def ask(explorer, content):
    explorer.panel._handle_custom_msg(content, [])
    settle(explorer)


def numbers(packed):
    """An array as it is sent."""
    return np.frombuffer(packed["bdata"], packed["dtype"])


def revisions(explorer):
    return {name: explorer.panel.revision(name) for name in explorer.panel.names}


def test_all_figures_are_drawn_but_those_of_what_was_not_tried(explorer):
    undrawn = {name for name, revision in revisions(explorer).items() if revision == 0}
    assert undrawn == {"prediction", "finetuning"}
    assert explorer.panel.now["exact"]
    assert explorer.panel.now["ratio"] == explorer.state.exact.compression_ratio >= 6.0


@pytest.mark.parametrize(("name", "value"), [("method", "ecsq"), ("weighted", False), ("coding", "fixed")])
def test_control_moves_state_table_and_point(explorer, name, value):
    table, now = explorer.panel.table, explorer.panel.now
    explorer.controls.of[name].value = value
    settle(explorer)
    assert getattr(explorer.state, name) == value
    assert explorer.panel.table[name] == value != table[name]
    assert numbers(explorer.panel.now["centre"]).tolist() != numbers(now["centre"]).tolist()


def test_state_moves_controls(explorer):
    explorer.state.method, explorer.state.damping = "uniform", 0.25
    explorer.state.layers = ("0",)
    settle(explorer)
    assert explorer.controls.of["method"].value == "uniform"
    assert explorer.controls.of["damping"].value == 0.25
    assert explorer.layers.checked == ["0"]
    assert explorer.controls.of["focus"].options == (("0.weight", "0.weight"), ("0.bias", "0.bias"))


@pytest.mark.parametrize(("driver", "value"), [("ratio", 8.0), ("rate", 5.0), ("levels", 6)])
def test_drive_is_answered_by_its_number(explorer, driver, value):
    serial = drive(explorer, driver, value)
    now = explorer.panel.now
    assert (now["serial"], now["driver"], now["target"]) == (serial, driver, value)
    assert explorer.state.driver == driver


def test_drive_out_of_reach_is_answered_and_changes_nothing(explorer):
    before = explorer.panel.now
    serial = drive(explorer, "ratio", 1e6)
    assert "out of reach" in explorer._error.value
    assert explorer.panel.now["serial"] == serial
    assert explorer.panel.now["ratio"] == before["ratio"]
    drive(explorer, "ratio", before["target"])
    assert explorer._error.value == ""


@pytest.mark.parametrize("value", [None, "many", float("nan"), [3.0], -1.0])
def test_senseless_drive_is_told(explorer, value):
    before = explorer.panel.now
    serial = drive(explorer, "ratio", value)
    assert explorer._error.value
    assert explorer.panel.now["serial"] == serial
    assert explorer.panel.now["ratio"] == before["ratio"]


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
    now, exact = explorer.panel.now, explorer.state.exact
    assert numbers(now["count"]).tolist() == exact.counts.tolist()
    assert [len(word) for word in now["codeword"]] == exact.codeword_length.tolist()
    bounds = numbers(now["threshold"])
    weight = torch.cat([p.detach().reshape(-1) for p in network().parameters()]).numpy()
    found = np.searchsorted(bounds, weight)
    assigned = torch.cat([t.assignment.reshape(-1) for t in exact.tensors.values()]).numpy()
    # Boundaries travel in float32; hardly a weight lies within their rounding.
    assert (found != assigned).sum() <= 1


def test_facts_tell_accuracy_and_file(explorer):
    assert [fact["label"] for fact in explorer.panel.facts] == ["measured accuracy", "file"]
    assert "of 64" not in explorer.panel.facts[0]["value"]
    explorer.keep._measure.click()
    settle(explorer)
    assert "of 64" in explorer.panel.facts[0]["value"]
    assert explorer.panel.revision("prediction") == 1
    labels = [fact["label"] for fact in explorer.panel.facts]
    assert labels == ["measured accuracy", "KL divergence from original", "file"]
    beside = explorer.state.measurement.evaluation.comparison
    assert explorer.panel.facts[1]["value"] == f"{beside.kl_mean:.3g} nat"
    assert "points" in explorer.panel.facts[0]["note"]
    assert explorer.panel.facts[2]["value"] == f"{explorer.state.ledger.total / 8000:.1f} kB"


def test_focus_starts_at_the_largest_parameter_and_follows_the_layers(explorer):
    focus = explorer.controls.of["focus"]
    assert focus.value == explorer.state.focus == "0.weight"
    assert explorer.layers.focused == "0"
    explorer.layers.checked = ["2"]
    settle(explorer)
    assert focus.value == explorer.state.focus == "2.weight"
    explorer.layers.checked = ["2", "0"]
    settle(explorer)
    assert explorer.state.layers == ("0", "2")
    assert focus.value == explorer.state.focus == "2.weight"
    explorer.layers.focused = "0"
    assert explorer.state.focus == "0.weight"


def test_focus_moves_the_maps_only(explorer):
    before = revisions(explorer)
    explorer.controls.of["focus"].value = "2.weight"
    settle(explorer)
    after = revisions(explorer)
    assert {name for name in after if after[name] != before[name]} == {"heatmap", "error", "weighted_error"}


def test_focus_follows_to_another_codebook_where_layers_have_their_own(explorer):
    explorer.controls.of["per_layer"].value = True
    settle(explorer)
    before, rows = explorer.panel.now, explorer.codebook.rows
    explorer.controls.of["focus"].value = "2.weight"
    settle(explorer)
    assert numbers(explorer.panel.now["centre"]).tolist() != numbers(before["centre"]).tolist()
    assert explorer.codebook.rows != rows
    assert explorer.codebook.caption == "Codebook of 2"


def test_error_shows_and_the_last_picture_stays(explorer):
    before = revisions(explorer)
    explorer.layers.checked = []
    settle(explorer)
    assert "at least one" in explorer._error.value
    assert revisions(explorer) == before
    explorer.layers.checked = ["0", "2"]
    settle(explorer)
    assert explorer._error.value == ""


def test_error_text_is_not_markup(explorer):
    explorer.state.layers = ("<img src=x>",)
    settle(explorer)
    assert "&lt;img" in explorer._error.value
    assert "<img" not in explorer._error.value


def test_layers_table_has_all_layers_and_shares_of_those_selected(explorer):
    rows = {row["layer"]: row for row in explorer.layers.rows}
    assert [row["weights"] for row in rows.values()] == [840, 205]
    assert sum(row["share_of_loss"] for row in rows.values()) == pytest.approx(1)
    explorer.state.layers = ("2",)
    settle(explorer)
    rows = {row["layer"]: row for row in explorer.layers.rows}
    assert rows["0"]["share_of_loss"] is None
    assert rows["2"]["share_of_loss"] == pytest.approx(1)


def test_codebook_table_adds_up(explorer):
    frame = pd.DataFrame(explorer.codebook.rows)
    assert frame["count"].sum() == 1045
    assert frame["bits"].sum() == explorer.state.exact.ledger["payload"]
    assert frame["predicted_loss"].sum() == pytest.approx(explorer.state.exact.predicted_loss_increase)


def test_pins_are_compared_gone_to_and_removed(explorer):
    explorer.actions._pin.click()
    first = explorer.state.exact.compression_ratio
    drive(explorer, "ratio", 9.0)
    explorer.actions._pin.click()
    rows = explorer.pins.rows
    assert [row["ratio"] for row in rows] == [first, explorer.state.exact.compression_ratio]
    assert rows[0]["d_ratio"] == pytest.approx(first / explorer.state.exact.compression_ratio - 1)
    assert rows[1]["d_ratio"] == rows[1]["d_loss"] == rows[1]["d_bytes"] == 0

    explorer.pins.hovered = "0"
    assert numbers(explorer.panel.ghosts[0]["centre"]).tolist() == pytest.approx(
        list(explorer.state.pins[0].codebooks["all"])
    )
    explorer.pins.hovered = ""
    assert explorer.panel.ghosts == []

    explorer.pins.pressed = {"key": "0", "action": "go", "serial": 1}
    settle(explorer)
    assert explorer.state.exact.compression_ratio == first
    explorer.pins.pressed = {"key": "0", "action": "remove", "serial": 2}
    assert [row["label"] for row in explorer.pins.rows] == [rows[1]["label"]]


def test_centre_moved_by_hand_costs_and_is_released(explorer):
    serial = explorer.panel.drive.get("serial", 0) + 1
    explorer.panel.moved = {"index": 0, "value": float(explorer.state.point.clusters["all"].codebook[0]) - 0.05} | {
        "serial": serial
    }
    settle(explorer)
    now = explorer.panel.now
    assert now["by_hand"]
    assert not now["exact"]
    assert now["serial"] == serial
    assert now["loss"] > explorer.state.point.predicted_loss_increase
    assert now["note"].startswith("by hand: +")
    explorer.panel.moved = {"serial": serial + 1}
    settle(explorer)
    assert not explorer.panel.now["by_hand"]
    assert explorer.panel.now["exact"]


def test_brushed_region_is_outlined(explorer):
    explorer.panel.region = {"figure": "heatmap", "x0": -0.5, "x1": 19.5, "y0": -0.5, "y1": 3.5, "serial": 1}
    settle(explorer)
    outline = explorer.panel.brushed
    rows = network()[0].weight[:4].detach().numpy().reshape(-1)
    edge = numbers(outline["edge"])
    assert numbers(outline["height"]).tolist() == np.histogram(rows, edge)[0].tolist()
    assert "0.weight" in outline["label"]
    assert explorer.controls.of["region"].value == "0:4, 0:20"
    explorer.controls.of["region"].value = "1:3, 2:6"
    settle(explorer)
    assert numbers(explorer.panel.brushed["height"]).sum() == 8
    explorer.controls.of["region"].value = "1:3 and more"
    settle(explorer)
    assert "Region" in explorer._error.value or "rows" in explorer._error.value
    explorer.panel.region = {"serial": 2}
    settle(explorer)
    assert explorer.panel.brushed == {}


def test_click_on_a_curve_goes_there(explorer):
    drawn = explorer.panel.rate_distortion["data"]
    curve = next(i for i, trace in enumerate(drawn) if trace["name"] == "uniform")
    x = numbers(drawn[curve]["x"])[20]
    explorer.panel.clicked = {"figure": "rate_distortion", "curve": curve, "point": 20, "x": float(x), "y": 0.1}
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
    explorer.actions._pin.click()
    explorer.actions._keep.click()
    message, content = sent.pop()
    assert message["mime"] == "application/json"
    assert json.loads(content)["inputs"]["value"] == 6.0
    drive(explorer, "levels", 4)
    explorer.pins.pressed = {"key": "0", "action": "remove", "serial": 1}
    file = {"name": "s.json", "type": "application/json", "size": len(content), "content": memoryview(content)}
    explorer.actions._restore.value = ({**file, "last_modified": pd.Timestamp(0, tz="UTC").to_pydatetime()},)
    settle(explorer)
    assert (explorer.state.driver, explorer.state.ratio) == ("ratio", 6.0)
    assert len(explorer.pins.rows) == 1
    assert explorer.actions._restore.value == ()


def test_file_that_is_no_session_is_refused(explorer):
    before = explorer.state.settings
    content = b"{'a': 1}"
    file = {"name": "s.json", "type": "", "size": len(content), "content": memoryview(content)}
    explorer.actions._restore.value = ({**file, "last_modified": pd.Timestamp(0, tz="UTC").to_pydatetime()},)
    settle(explorer)
    assert "must be JSON" in explorer._error.value
    assert explorer.state.settings == before


def test_code_is_shown_and_copied_and_follows(explorer, sent):
    assert explorer.actions._text.layout.display == "none"
    explorer.actions._code.click()
    assert "ratio=6.0" in explorer.actions._text.value
    assert sent.pop()[0] == {"kind": "copy", "text": explorer.actions._text.value}
    drive(explorer, "levels", 5)
    assert "levels=5" in explorer.actions._text.value


def test_compressed_file_is_downloaded(explorer, sent, tmp_path):
    explorer.actions._download.click()
    settle(explorer)
    message, content = sent.pop()
    assert message["name"] == "model.nbq"
    assert len(content) == explorer.state.ledger.total // 8
    (tmp_path / "model.nbq").write_bytes(content)
    restored = nq.load(tmp_path / "model.nbq").apply(network())
    expected = explorer.state.exact.apply(network())
    assert all(torch.equal(a, b) for a, b in zip(restored.parameters(), expected.parameters(), strict=True))


def test_undo_and_redo(explorer):
    assert explorer.actions._undo.disabled
    explorer.controls.of["method"].value = "ecsq"
    settle(explorer)
    assert not explorer.actions._undo.disabled
    explorer.actions._undo.click()
    settle(explorer)
    assert explorer.controls.of["method"].value == "kmeans"
    assert explorer.actions._undo.disabled
    explorer.actions._redo.click()
    settle(explorer)
    assert explorer.controls.of["method"].value == "ecsq"


def test_sizes_reach_all_parts(explorer):
    explorer.controls.of["size"].value = "projection"
    assert {part.size for part in (explorer.panel, explorer.layers, explorer.codebook, explorer.pins)} == {"projection"}
    assert "nbquant-projection" in explorer._dom_classes
    explorer.controls.of["size"].value = "compact"
    assert "nbquant-projection" not in explorer._dom_classes


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
    assert explorer.keep._work.layout.display == "none"


def test_pruned_zeros_are_counted():
    model = nn.Sequential(nn.Linear(20, 40))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(40, 20) < 0.1)
    pruned = explore(model, [(torch.randn(4, 20), torch.randint(40, (4,)))], ratio=20.0)
    settle(pruned)
    assert pruned.state.point.ledger["position_payload"] > 0
    assert "pruned zeros" in pruned.panel.histogram["layout"]["title"]["text"]
    assert pruned.panel.now["ledger"]["position_payload"] > 0


def test_without_data_what_needs_them_is_off(explorer):
    alone = explore(network(), ratio=6.0)
    settle(alone)
    for control in (alone.keep._measure, alone.keep._finetune, alone.controls.of["estimator"]):
        assert control.disabled
        assert "explore(model, data)" in control.tooltip
    assert "h = 1" in alone.panel.now["note"]
