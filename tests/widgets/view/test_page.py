"""What a page without a kernel holds."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from torch import nn

import nbquant as nq
from nbquant.analysis.curves import tabulated_pairs
from nbquant.analysis.tabulated import curve
from nbquant.quantization import methods
from nbquant.widgets.view import page
from nbquant.widgets.view.explorer import explore
from nbquant.widgets.view.export import export_html
from tests.widgets.samples import batches, sensitivities, two_layers

WAIT = 60


@pytest.fixture(scope="module")
def explorer():
    model = two_layers()
    explorer = explore(model, batches(), sensitivity=sensitivities(model), ratio=6.0)
    assert explorer.state.wait(WAIT)
    return explorer


def unpacked(path):
    """The data of a page, with its bytes in place."""
    (text,) = re.findall(r'id="nbquant-data">([^<]+)<', path.read_text())
    whole = gzip.decompress(base64.b64decode(text))
    size = int.from_bytes(whole[:8], "little")
    start = 8 + -(-size // 8) * 8

    def view(value):
        if "$" in value:
            at, length = value["$"]
            return whole[start + at : start + at + length]
        return value

    return json.loads(whole[8 : 8 + size], object_hook=view)


def numbers(packed):
    return np.frombuffer(packed["bdata"], packed["dtype"])


@pytest.fixture(scope="module")
def written(explorer, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    size = export_html(explorer, path, progress=False)
    assert size == path.stat().st_size < page.MOST_BYTES
    return path


def table(data, key):
    found = data["tables"][key]
    while isinstance(found, str):
        found = data["tables"][found]
    return found


@pytest.mark.parametrize("pair", tabulated_pairs())
@pytest.mark.parametrize(("layers", "per_layer"), [(("0", "2"), False), (("0", "2"), True), (("2",), False)])
def test_every_curve_is_in_it_as_computed(explorer, written, pair, layers, per_layer):
    data = unpacked(written)
    method, weighted = pair
    known = methods.named(method)
    options = {"coding": "huffman", "per_layer": per_layer}
    family = known.family(weighted=weighted, **{n: v for n, v in options.items() if n in known.options})
    points = curve(family, explorer.state.statistics.part(layers))
    own = per_layer and "per_layer" in known.options
    of = json.dumps(list(layers), separators=(",", ":"))
    key = f"{of}|huffman|{str(own).lower()}|false|{method}|{str(weighted).lower()}"
    found = table(data, key)
    ratio, loss = numbers(found["ratio"]), numbers(found["loss"])
    assert len(ratio) >= min(len(points), 40)
    known = {(np.float32(p.compression_ratio), np.float32(p.predicted_loss_increase)): p for p in points}
    for i, place in enumerate(zip(ratio, loss, strict=True)):
        point = known[place]
        for group, clusters in point.clusters.items():
            packed = found["groups"][group]
            start = numbers(packed["start"])
            here = slice(start[i], start[i + 1])
            centre = numbers(packed["centre"])[here] * packed["scale"]
            assert np.abs(centre - clusters.codebook).max() <= packed["scale"]
            assert numbers(packed["count"])[here].tolist() == clusters.counts.tolist()


def test_key_that_the_page_asks_for_is_there_for_all_settings(explorer, written):
    data = unpacked(written)
    assert {key.rsplit("|", 2)[0] for key in data["tables"]} <= set(data["figures"])
    assert set(data["maps"]) == set(explorer.state.parameters)
    assert data["traits"]["static"] is True
    assert "error" not in data["traits"]["names"]  # a map of the weights, which are not in the page


def test_what_needs_weights_says_how_to_get_it(written):
    blocked = unpacked(written)["traits"]["blocked"]
    for action in ("measure", "finetune", "prune", "save", "download", "page"):
        assert "nq.explore(model, data)" in blocked[action]
    assert not {"undo", "redo", "pin"} & set(blocked)


def test_weights_are_not_in_it(written):
    """A page is given to others: it holds centres and counts, but no weight."""
    data = written.read_bytes()
    weight = two_layers()[0].weight.detach().numpy().tobytes()
    (text,) = re.findall(rb'id="nbquant-data">([^<]+)<', data)
    whole = gzip.decompress(base64.b64decode(text))
    assert weight[:64] not in whole
    assert len(whole) > 1000


def test_it_fetches_nothing(written):
    text = re.sub(r'const PACKED = "[^"]+"', "", written.read_text())
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", text) == []
    assert "http:" not in text
    assert "https:" not in text


def test_selection_is_exported_with_its_sensitivities(explorer, tmp_path):
    model = two_layers()
    selection = nq.select(model, sensitivities(model), layers=["0"])
    path = tmp_path / "selection.html"
    export_html(selection, path, title="One <layer>", progress=False)
    data = unpacked(path)
    assert list(data["maps"]) == ["0.weight", "0.bias"]
    assert "<title>One &lt;layer&gt;</title>" in path.read_text()
    family = methods.named("kmeans").family(weighted=True)
    points = curve(family, explorer.state.statistics.damped(0.0).part(["0"]))
    found = table(data, '["0"]|huffman|false|false|kmeans|true')
    losses = {np.float32(point.predicted_loss_increase) for point in points}
    assert set(numbers(found["loss"])) <= losses


def test_other_sources_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(TypeError, match="an explorer or a selection is required, but got a Linear"):
        export_html(nn.Linear(2, 2), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_page_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="a page of at most 1,000 bytes is required"):
        export_html(nq.select(nn.Linear(20, 5)), tmp_path / "page.html", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_export_is_cancelled_by_its_progress(explorer, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_html(explorer, tmp_path / "page.html", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_explorer_offers_the_page(explorer, monkeypatch):
    sent = []
    monkeypatch.setattr(explorer, "send", lambda content, buffers=None: sent.append((content, buffers)))
    explorer._handle_custom_msg({"kind": "act", "name": "page"}, [])
    assert explorer.state.wait(WAIT)
    ((message, (content,)),) = sent
    assert (message["name"], message["mime"]) == ("nbquant.html", "text/html")
    assert content.startswith(b"<!doctype html>")


def test_layers_are_named_as_the_page_names_them():
    """By JSON.stringify, which writes commas without a space and letters as they are."""
    assert page._key(["a, b", "ä"]) == '["a, b","ä"]'
