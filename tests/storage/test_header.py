"""Headers with right checksums around anything: restored as they say, or refused."""

import copy
import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nbquant as nq
from nbquant.coding.code_table import encode_lengths
from nbquant.coding.huffman import HuffmanCode
from nbquant.storage.errors import CorruptFileError
from tests.storage.cases import assembled, parts, section

VALUES = np.array([-1.0, 0.5], np.float32)
GAPS = HuffmanCode.from_lengths([1, 2, 2])  # gaps 0 and 1, filler of 2 zeros
TABLE = encode_lengths(GAPS.lengths)


def good():
    """w = [0, −1, 0.5, 0, 0, 0, 0.5, 0]: gaps 1, 0, 3, so 1, 0, filler, 1; and one raw tensor."""
    header = {
        "quantized": {"name": ["w"], "shape": [[2, 4]], "dtype": "F32", "codebook": 0, "table": 0},
        "blocks": {"payload": 3, "weights": 3, "positions": 7, "fillers": 1},
        "codebooks": {"name": ["all"], "dtype": "F32", "levels": 2, "bits": 3},
        "tables": {"span": [2], "bits": 6},
        "raw": {"name": ["b"], "shape": [[2]], "dtype": "U8"},
        "tied": {"v": "w"},
        "recipe": {"quantizer": {"method": "kmeans", "levels": 2}, "distortion": 0.25},
    }
    sections = [
        VALUES.tobytes() + encode_lengths([1, 1]),
        TABLE,
        GAPS.encode([1, 0, 2, 1]) + bytes([0b011_00000]),
        b"\x07\x08",
    ]
    return header, sections


def opened(path, header, sections):
    path.write_bytes(assembled(header, b"".join(map(section, sections))))
    return nq.load(path)


def read_all(stored):
    stored.state_dict(progress=False)
    for name in stored.names:
        list(stored.chunks(name))
    stored.to_frame()
    assert stored.ledger.total == 8 * stored.size
    assert repr(stored)
    return stored.quantized()


def test_the_one_that_is_good(tmp_path):
    stored = opened(tmp_path / "m.nbq", *good())
    assert stored.tensor("v").tolist() == [[0, -1, 0.5, 0], [0, 0, 0.5, 0]]
    assert stored.tensor("b").tolist() == [7, 8]
    quantized = read_all(stored)
    assert quantized.quantizer == nq.KMeans(2)
    assert quantized.tensors["w"].assignment.tolist() == [-1, 0, 1, -1, -1, -1, 1, -1]
    assert quantized.counts.tolist() == [1, 2]


def put(path, value):
    def change(header, sections):
        at = header
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def drop(*path):
    def change(header, sections):
        at = header
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


def content(index, data):
    def change(header, sections):
        sections[index] = data

    return change


HEADERS = {
    "negative axis": (put(["quantized", "shape"], [[-2, -4]]), "whole numbers of a shape"),
    "huge axis": (put(["raw", "shape"], [[2**63]]), "whole numbers of a shape"),
    "overflow behind a zero": (put(["raw", "shape"], [[0, 2**40, 2**40]]), "whole numbers of a shape"),
    "many axes": (put(["raw", "shape"], [[1] * 65]), "whole numbers of a shape"),
    "true as an axis": (put(["raw", "shape"], [[True, 2]]), "whole numbers of a shape"),
    "a float": (put(["raw", "shape"], [[2.0]]), "whole numbers of a shape"),
    "a bomb": (put(["raw", "shape"], [[2**40]]), "max_bytes="),
    "other size": (put(["raw", "shape"], [[3]]), "bytes are in a file with this header"),
    "another name twice": (put(["raw", "name"], ["w"]), "each name must come once"),
    "tied to itself": (put(["tied"], {"v": "v"}), "must be tied to a tensor"),
    "tied to nothing": (put(["tied"], {"v": "x"}), "must be tied to a tensor of the file"),
    "tied in a circle": (put(["tied"], {"v": "x", "x": "v"}), "must be tied to a tensor of the file"),
    "tied and there": (put(["tied"], {"b": "w"}), "each name must come once"),
    "tied to a number": (put(["tied"], {"v": 3}), "must be tied to a tensor"),
    "no such codebook": (put(["quantized", "codebook"], 1), "'codebook' must be 0 to 0"),
    "no such table": (put(["quantized", "table"], 1), "'table' must be null or 0 to 0"),
    "no table": (put(["quantized", "table"], None), "tables must be in use"),
    "a type of buffers": (put(["quantized", "dtype"], "I64"), "'dtype' must be one of F16"),
    "no type": (put(["raw", "dtype"], "F4"), "'dtype' must be one of"),
    "a type that is no text": (put(["raw", "dtype"], ["U8", "U8"]), "must be 1 values or one for all"),
    "no column": (drop("blocks", "payload"), "'payload' must be there"),
    "columns of other lengths": (put(["blocks", "weights"], [3, 3]), "must be 1 values or one for all"),
    "more weights than entries": (put(["blocks", "weights"], 9), "at most 8 weights"),
    "too few bits": (put(["blocks", "payload"], 2), "3 to 96 bits"),
    "too many bits": (put(["blocks", "payload"], 97), "3 to 96 bits"),
    "too few bits of gaps": (put(["blocks", "positions"], 3), "4 to 128 bits"),
    "fillers beyond": (put(["blocks", "fillers"], 5), "fillers of a block"),
    "gaps of nothing": (put(["blocks", "weights"], 0), "to 0 bits"),
    "a table too short": (put(["tables", "bits"], 2), "takes more bits"),
    "a span too long": (put(["tables", "span"], [4097]), "must be 1 to 4096"),
    "levels beyond the file": (put(["codebooks", "levels"], 10**6), "levels that fit into the file"),
    "bits of a table": (put(["codebooks", "bits"], 1), "takes so many bits or more"),
    "an empty codebook in use": (put(["codebooks"], {"name": ["a"], "dtype": "F32", "levels": 0, "bits": 0}), "empty"),
    "a table that is a list": (put(["quantized"], []), "'quantized' must be an object"),
    "names that are no list": (put(["quantized", "name"], "w"), "'name' must be a list"),
    "names that are no text": (put(["quantized", "name"], [3]), "must be names"),
    "no rows": (put(["raw"], {"name": [], "shape": [], "dtype": "U8"}), "must have a row"),
    "a recipe that is a list": (put(["recipe"], [1]), "recipe must be an object"),
    "deep": (put(["recipe", "x"], json.loads("[" * 300 + "]" * 300)), "nested objects"),
    "NaN": (put(["recipe", "distortion"], float("nan")), "JSON without NaN"),
    "half a character": (put(["raw", "name"], ["\ud800"]), "broken characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_bad_headers(tmp_path, name):
    change, message = HEADERS[name]
    header, sections = good()
    change(header, sections)
    with pytest.raises(CorruptFileError, match=message) as caught:
        opened(tmp_path / "m.nbq", header, sections)
    assert caught.value.section == "header"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "must be a JSON object"),
        (b"{}x", "must be JSON"),
        (b'{"raw":{},"raw":{}}', "comes twice"),
        (b'{"tied":{"a":"b","a":"b"}}', "comes twice"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "must be JSON|required"),
        (b'{"a":' + b"9" * 5000 + b"}", "must be JSON"),
        (b'{"a":"\xff"}', "must be JSON"),
        (b'{"recipe":{"x":1e999}}', "JSON without NaN"),
    ],
)
def test_headers_that_are_no_object(tmp_path, raw, message):
    (tmp_path / "m.nbq").write_bytes(assembled(raw, b""))
    with pytest.raises(CorruptFileError, match=message):
        nq.load(tmp_path / "m.nbq")


CONTENTS = {
    "not complete": (content(0, VALUES.tobytes() + encode_lengths([1, 2])), "codebook 'all'", "Σ 2"),
    "table padding": (content(0, VALUES.tobytes() + bytes([0b111_00001])), "codebook 'all'", "must be zero"),
    "not finite": (content(0, np.array([1, np.nan], "<f4").tobytes() + encode_lengths([1, 1])), "codebook", "finite"),
    "table": (content(1, bytes([0b000000_00])), "position table 0", "code lengths of 0 to 32 bits"),
    "padding": (content(2, GAPS.encode([1, 0, 2, 1]) + bytes([0b011_10000])), "tensor 'w'", "must be zero"),
    "last is a filler": (content(2, GAPS.encode([1, 0, 1, 2]) + bytes([0b011_00000])), "tensor 'w'", "after all fill"),
    "two fillers": (content(2, bytes([0b11_11_11_0_0, 0b011_00000])), "tensor 'w'", "end at bit|not there|beyond"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_bad_contents(tmp_path, name):
    change, where, message = CONTENTS[name]
    header, sections = good()
    if name == "not complete":
        header["codebooks"]["bits"] = 5
    change(header, sections)
    stored = opened(tmp_path / "m.nbq", header, sections)
    for read in (lambda: stored.tensor("w"), lambda: list(stored.chunks("v")), stored.quantized):
        with pytest.raises(CorruptFileError, match=message) as caught:
            read()
        assert caught.value.section.startswith(where)
    assert stored.tensor("b").tolist() == [7, 8]


def test_positions_beyond_the_end(tmp_path):
    header, sections = good()
    header["quantized"]["shape"] = [[6]]
    with pytest.raises(CorruptFileError, match="positions must be 0 to 5, but the stream leads beyond"):
        opened(tmp_path / "m.nbq", header, sections).tensor("w")


def test_an_index_beyond_a_fixed_length_codebook(tmp_path):
    header = {
        "quantized": {"name": ["w"], "shape": [[4]], "dtype": "F32", "codebook": 0},
        "blocks": {"payload": 8},
        "codebooks": {"name": ["all"], "dtype": "F32", "levels": 3, "bits": None},
        "recipe": {},
    }
    values = np.arange(3, dtype="<f4").tobytes()
    assert opened(tmp_path / "m.nbq", header, [values, bytes([0b00_01_10_00])]).tensor("w").tolist() == [0, 1, 2, 0]
    with pytest.raises(CorruptFileError, match="indices must be 0 to 2, but go to 3"):
        opened(tmp_path / "m.nbq", header, [values, bytes([0b00_01_11_00])]).tensor("w")


def zeros_of_no_bits(entries):
    header = {
        "quantized": {"name": ["w"], "shape": [[entries]], "dtype": "F32", "codebook": 0},
        "blocks": {"payload": 0},
        "codebooks": {"name": ["all"], "dtype": "F32", "levels": 1, "bits": None},
        "recipe": {},
    }
    return header, [np.ones(1, "<f4").tobytes(), b""]


def test_what_costs_no_bits_is_bounded_unless_more_is_allowed(tmp_path, monkeypatch):
    assert opened(tmp_path / "m.nbq", *zeros_of_no_bits(2**20)).tensor("w").sum() == 2**20
    from nbquant.storage import sections

    monkeypatch.setattr(sections, "FREE", 0)
    with pytest.raises(CorruptFileError, match=f"load it with max_bytes={4 * 2**20}"):
        opened(tmp_path / "m.nbq", *zeros_of_no_bits(2**20))
    assert len(nq.load(tmp_path / "m.nbq", max_bytes=4 * 2**20).tensor("w")) == 2**20
    with pytest.raises(CorruptFileError, match="max_bytes="):
        nq.load(tmp_path / "m.nbq", max_bytes=4 * 2**20 - 1)
    with pytest.raises(CorruptFileError, match="max_bytes="):
        opened(tmp_path / "m.nbq", *zeros_of_no_bits(2**60))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"quantizer": 3},
        {"quantizer": {"method": ["kmeans"]}},
        {"quantizer": {"method": "magic"}},
        {"quantizer": {"method": "kmeans", "levels": -1}},
        {"quantizer": {"method": "kmeans", "levels": 2, "colour": 1}},
        {"quantizer": {"method": "uniform", "step": 10**400}},
        {"quantizer": {"method": "kmeans", "levels": 2}, "sensitivity": [1]},
        {"quantizer": {"method": "kmeans", "levels": 2}, "sensitivity": {"samples": "many"}},
        {"quantizer": {"method": "kmeans", "levels": 2}, "finetuned": {"a": []}},
        {"quantizer": {"method": "kmeans", "levels": 2}, "finetuned": 3},
        {"quantizer": {"method": "kmeans", "levels": 2}, "distortion": "low"},
        {"quantizer": {"method": "kmeans", "levels": 2}, "distortion": 10**400},
        {"quantizer": {"method": "kmeans", "levels": 2, "coding": "fixed"}},
    ],
)
def test_a_recipe_that_is_not_known_leaves_the_tensors_readable(tmp_path, recipe):
    header, sections = good()
    stored = opened(tmp_path / "m.nbq", header | {"recipe": recipe}, sections)
    assert len(stored.state_dict(progress=False)) == 3
    with pytest.raises(CorruptFileError, match=r"state_dict|codes must be fixed"):
        stored.quantized()


def test_without_anything_quantized(tmp_path):
    header = {"raw": {"name": ["b"], "shape": [[]], "dtype": "F64"}, "recipe": {}}
    stored = opened(tmp_path / "m.nbq", header, [np.float64(2.5).tobytes()])
    assert stored.tensor("b").item() == 2.5
    with pytest.raises(CorruptFileError, match="a quantized tensor is required"):
        stored.quantized()
    empty = opened(tmp_path / "m.nbq", {"recipe": {}}, [])
    assert (empty.state_dict(progress=False), len(empty.to_frame()), empty.compression_ratio) == ({}, 0, 0)


def leaves(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from leaves(value[i], (*path, i))


PATHS = [path for path in leaves(good()[0]) if path]
NUMBERS = [2**31, 2**32, 2**62, 2**63, -(2**63), 10**30, 0.5, 1e300]
WORDS = ["", "w", "b", "F32", "F64", "U8", "kmeans"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.sampled_from([*NUMBERS, *WORDS]),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.sampled_from(["name", "bits", "w"]), some, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(st.tuples(st.sampled_from(PATHS), ANYTHING), min_size=1, max_size=3),
    st.integers(0, 3),
    st.binary(max_size=9),
)
@settings(max_examples=400)
def test_whatever_a_header_says_no_other_error_comes(tmp_path_factory, changes, index, data):
    header, sections = good()
    header = copy.deepcopy(header)
    for path, value in changes:
        at = header
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    if data:
        sections[index] = data
    with suppress(CorruptFileError):
        read_all(opened(tmp_path_factory.getbasetemp() / "any.nbq", header, sections))


def test_the_writers_header_is_compact_json(tmp_path):
    nq.save(nq.KMeans(2).fit(torch.tensor([1.0, 2.0])), tmp_path / "m.nbq", progress=False)
    data = (tmp_path / "m.nbq").read_bytes()
    header, _ = parts(data)
    raw = data[16 : 16 + int.from_bytes(data[12:16], "little")]
    assert raw == json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def test_a_codebook_of_another_layer(tmp_path):
    values = [np.full(1, value, "<f4").tobytes() for value in (1, 2)]
    header = {
        "quantized": {"name": ["a.w", "b.w"], "shape": [[2], [2]], "dtype": "F32", "codebook": [0, 1]},
        "blocks": {"payload": 0},
        "codebooks": {"name": ["a", "b"], "dtype": "F32", "levels": 1, "bits": None},
        "recipe": {"quantizer": {"method": "kmeans", "levels": 1, "coding": "fixed", "per_layer": True}},
    }
    assert list(opened(tmp_path / "m.nbq", header, [*values, b"", b""]).quantized().codebooks) == ["a", "b"]
    header["quantized"]["codebook"] = [1, 0]
    stored = opened(tmp_path / "m.nbq", header, [*values, b"", b""])
    assert stored.tensor("a.w").tolist() == [2, 2]
    with pytest.raises(CorruptFileError, match=r"the codebook of 'a\.w' must be that of its layer 'a', but is 'b'"):
        stored.quantized()
