"""FORMAT.md is what is written, and all that a reader needs to know.

``python -m tests.storage.test_format`` writes the golden files and prints the dump for FORMAT.md; only where the format
itself is to change.
"""

import json
import re
import struct
import zlib
from hashlib import blake2b
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbquant as nq
import nbquant.storage
from nbquant.coding import positions
from tests.storage import adaptive, arithmetic
from tests.storage.cases import all_same, expected_state, parts
from tests.storage.hand_made import GOLDEN, tiny

FOLDER = Path(__file__).parent / "golden"
FORMAT = Path(nbquant.storage.__file__).parent / "FORMAT.md"
VERSION = "0.1.0"  # in the golden files


@pytest.fixture(autouse=True)
def version(monkeypatch):
    monkeypatch.setattr(nq, "__version__", VERSION)


def dump(data):
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:04x}  {row.hex(' '):<47}  {text}")
    return "\n".join(lines)


# A reader after FORMAT.md, in plain Python.


def read(data):
    """Name to (type, shape, bytes)."""
    assert data[:8] == b"\x89nbq\r\n\x1a\n"
    major, _, length = struct.unpack("<HHI", data[8:16])
    assert major in (1, 2, 3)
    assert blake2b(data[:-16], digest_size=16).digest() == data[-16:]
    assert zlib.crc32(data[: 16 + length]) == int.from_bytes(data[16 + length : 20 + length], "little")
    header = json.loads(data[16 : 16 + length])
    at = 20 + length

    def section(size):
        nonlocal at
        content = data[at : at + size]
        assert zlib.crc32(content) == int.from_bytes(data[at + size : at + size + 4], "little")
        at += size + 4
        return content

    coding = header.get("coding")
    assert coding in {1: (None,), 2: ("arithmetic", "context"), 3: (None,)}[major]
    books = []
    for book in named(header, "codebooks"):
        if coding == "context":
            books.append(adaptive_codebook(book, section))
            continue
        size = book["levels"] * SIZES[book["dtype"]] if book.get("format") is None else in_bytes(LEVELS[book["format"]])
        content = section(size + in_bytes(book["bits"] or 0))
        values = [content[i : i + SIZES[book["dtype"]]] for i in range(0, size, SIZES[book["dtype"]])]
        if book.get("format") is not None:
            used = bits_of(content)[: LEVELS[book["format"]]]
            values = [code for code, bit in enumerate(used) if bit == "1"]  # levels ascend with the code
        if coding == "arithmetic":
            code = arithmetic.frequencies(arithmetic.roots(bits_of(content[size:])[: book["bits"]], book["levels"]))
        elif book["bits"] is None:
            width = (book["levels"] - 1).bit_length()
            code = {format(i, f"0{width}b"): i for i in range(book["levels"])} if width else {"": 0}
        else:
            code = codewords(table(bits_of(content[size:]), book["levels"]))
        books.append((book["dtype"], values, code))
    gap_codes = [
        (entry["span"], codewords(table(bits_of(section(in_bytes(entry["bits"]))), entry["span"] + 1)))
        for entry in named(header, "tables", "span")
    ]
    if coding == "context":
        number = sum(len(adaptive.block_shapes(tensor["shape"], BLOCK)) for tensor in named(header, "quantized"))
    else:
        number = sum(-(-prod(tensor["shape"]) // BLOCK) for tensor in named(header, "quantized"))
    blocks = iter(rows(header.get("blocks", {}), number))
    found = {}
    for tensor in named(header, "quantized"):
        dtype, values, code = books[tensor["codebook"]]
        form = named(header, "codebooks")[tensor["codebook"]].get("format")
        if form is not None:
            (block,) = [next(blocks)]
            found[tensor["name"]] = tensor["dtype"], tensor["shape"], scaled(form, tensor, block, values, code, section)
            continue
        own = [converted(value, dtype, tensor["dtype"]) for value in values]
        if coding == "context":
            shapes = adaptive.block_shapes(tensor["shape"], BLOCK)
            parts = [(next(blocks), shape) for shape in shapes]
            content = section(sum(in_bytes(b["payload"]) for b, _ in parts))
            pruned = any("weights" in block for block, _ in parts)
            out = adaptive_entries(content, parts, values, dtype, code, pruned, own, bytes(SIZES[tensor["dtype"]]))
            found[tensor["name"]] = tensor["dtype"], tensor["shape"], out
            continue
        out, left = b"", prod(tensor["shape"])
        parts = []
        while left:
            parts.append((next(blocks), min(left, BLOCK)))
            left -= parts[-1][1]
        content = section(sum(in_bytes(b.get("positions", 0)) + in_bytes(b["payload"]) for b, _ in parts))
        for block, entries in parts:
            weights, border = block.get("weights", entries), in_bytes(block.get("positions", 0))
            end = border + in_bytes(block["payload"])
            if coding == "arithmetic":
                indices = arithmetic.symbols(content[border:end], code, weights)
            else:
                indices = symbols(bits_of(content[border:end])[: block["payload"]], code, weights)
            where = list(range(weights))
            if block.get("positions"):
                span, gap_code = gap_codes[tensor["table"]]
                gaps = symbols(bits_of(content[:border])[: block["positions"]], gap_code, weights + block["fillers"])
                where, position = [], 0
                for gap in gaps:
                    position += gap
                    if gap < span:
                        where.append(position)
                        position += 1
            placed = [bytes(SIZES[tensor["dtype"]])] * entries
            for position, index in zip(where, indices, strict=True):
                placed[position] = own[index]
            out += b"".join(placed)
            content = content[end:]
        assert not content
        found[tensor["name"]] = tensor["dtype"], tensor["shape"], out
    for tensor in named(header, "raw"):
        content = section(prod(tensor["shape"]) * SIZES[tensor["dtype"]])
        found[tensor["name"]] = tensor["dtype"], tensor["shape"], content
    assert at == len(data) - 16
    return found | {name: found[target] for name, target in header.get("tied", {}).items()}


LEVELS = {"int4_asym/4": 16, "q4_1": 16}


def scaled(form, tensor, block, values, code, section):
    """Entries of a tensor in a block format of few weights."""
    rows, cols = (tensor["shape"][0] if len(tensor["shape"]) > 1 else 1), tensor["shape"][-1]
    length = {"int4_asym/4": 4, "q4_1": 32}[form]
    count = rows * -(-cols // length)
    sizes = {"int4_asym/4": (4 * count, in_bytes(4 * count)), "q4_1": (2 * count, 2 * count)}[form]
    border = in_bytes(block["payload"])
    content = section(border + sum(sizes))
    index = symbols(bits_of(content[:border])[: block["payload"]], code, rows * cols)
    first, second = content[border : border + sizes[0]], content[border + sizes[0] :]
    out = b""
    for place, i in enumerate(index):
        at = place // cols * -(-cols // length) + place % cols // length
        if form == "q4_1":
            scale, minimum = struct.unpack_from("<e", first, 2 * at)[0], struct.unpack_from("<e", second, 2 * at)[0]
            out += converted(struct.pack("<f", scale * values[i] + minimum), "F32", tensor["dtype"])
        else:
            zero = int(bits_of(second)[4 * at : 4 * at + 4], 2)
            level = values[i] - 8
            out += struct.pack("<f", struct.unpack_from("<f", first, 4 * at)[0] * (level - zero + 16 * (zero > 7)))
    return out


def adaptive_codebook(book, section):
    """Type, values as bytes, and (first integer, which are used, whether they are on paths); None for no integers."""
    if book.get("span") is None:
        width = SIZES[book["dtype"]]
        content = section(book["levels"] * width)
        return book["dtype"], [content[i : i + width] for i in range(0, len(content), width)], None
    content = section(8 + in_bytes(book["span"]))
    (step,) = struct.unpack("<d", content[:8])
    used = bits_of(content[8:])[: book["span"]]
    assert book["dtype"] == "F32"
    values = [struct.pack("<f", (book["first"] + i) * step) for i, bit in enumerate(used) if bit == "1"]
    assert len(values) == book["levels"]
    return book["dtype"], values, (book["first"], used, book["dependent"])


def adaptive_entries(content, parts, values, dtype, lattice, pruned, own, zero):
    assert dtype == "F32"
    first, used, dependent = lattice or (0, None, False)
    numbers = [struct.unpack("<f", value)[0] for value in values]
    index = adaptive.alphabet(numbers, first, used, pruned)
    out = b""
    for block, (rows, cols) in parts:
        stream, content = content[: block["payload"] // 8], content[block["payload"] // 8 :]
        found = adaptive.integers(adaptive.levels(stream, rows, cols, dependent), dependent)
        flat = [m for row in found for m in row]
        left_out = [pruned and m == 0 for m in flat]
        assert len(flat) - sum(left_out) == block.get("weights", rows * cols)
        out += b"".join(zero if none else own[index[m]] for m, none in zip(flat, left_out, strict=True))
    assert not content
    return out


BLOCK = 1 << 22
SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "BOOL": 1, "I64": 8, "U8": 1}


def in_bytes(bits):
    return (bits + 7) // 8


def bits_of(data):
    return "".join(format(byte, "08b") for byte in data)


def rows(table, number):
    """Columns that are one value hold for every row."""
    return [{k: v[i] if isinstance(v, list) else v for k, v in table.items()} for i in range(number)]


def named(header, table, key="name"):
    return rows(header.get(table, {}), len(header.get(table, {}).get(key, [])))


def table(bits, count):
    if not count:
        return []
    zeros = bits.index("1")
    last, at = int(bits[zeros : 2 * zeros + 1], 2), 2 * zeros + 1
    direction, none_before, lengths = -1, False, []
    for _ in range(count):
        rank = bits.index("1", at) - at
        at += rank + 1
        place = 0 if none_before else 4
        none_before = rank == place
        if none_before:
            lengths.append(0)
            continue
        rank -= rank > place
        length = last + direction * ((rank + 1) // 2 if rank % 2 else -rank // 2)
        if length != last:
            direction = 1 if length > last else -1
        lengths.append(length)
        last = length
    return lengths


def codewords(lengths):
    code, word, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - before
        before = length
        code[format(word, f"0{length}b")] = symbol
        word += 1
    return code


def symbols(bits, code, count):
    if code == {"": 0}:
        return [0] * count
    found, word = [], ""
    for bit in bits:
        word += bit
        if word in code:
            found.append(code[word])
            word = ""
    assert not word
    assert len(found) == count
    return found


def converted(value, dtype, to):
    if dtype == to:
        return value
    assert (dtype, to) == ("F32", "BF16")
    bits = int.from_bytes(value, "little")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).to_bytes(2, "little")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_reader_restores_golden_files(name):
    state = nq.load(FOLDER / f"{name}.nbq").state_dict(progress=False)
    assert all_same(state, load_file(FOLDER / f"{name}.safetensors"))


@pytest.mark.parametrize("name", GOLDEN)
def test_the_writer_reproduces_golden_files(tmp_path, name):
    quantized, model = GOLDEN[name]()
    nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    assert (tmp_path / "m.nbq").read_bytes() == (FOLDER / f"{name}.nbq").read_bytes()
    assert all_same(load_file(FOLDER / f"{name}.safetensors"), expected_state(model, quantized))
    again = nq.load(FOLDER / f"{name}.nbq")
    nq.save(again.quantized(), tmp_path / "again.nbq", again.apply(model), progress=False)
    assert (tmp_path / "again.nbq").read_bytes() == (FOLDER / f"{name}.nbq").read_bytes()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_reader_that_knows_only_the_format_restores_golden_files(name):
    found = read((FOLDER / f"{name}.nbq").read_bytes())
    expected = load_file(FOLDER / f"{name}.safetensors")
    assert found.keys() == expected.keys()
    for key, (_, shape, data) in found.items():
        assert tuple(shape) == expected[key].shape
        assert data == expected[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_that_reader_reads_the_bundled_network(tmp_path):
    model, _ = nq.zoo.load("lenet5-fashion-pruned")
    quantized = nq.fit(nq.select(model, layers=["conv1", "fc2"]), "ecsq", ratio=20, progress=False)
    nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    found = read((tmp_path / "m.nbq").read_bytes())
    for key, value in expected_state(model, quantized).items():
        assert found[key][2] == value.detach().contiguous().numpy().tobytes()


@pytest.mark.parametrize(("method", "lmbda"), [("trellis", 1e-6), ("ecsq", 1e-5)])
@pytest.mark.parametrize("name", ["lenet5-fashion", "lenet5-fashion-pruned"])
def test_that_reader_reads_adaptive_coding_of_a_bundled_network(tmp_path, monkeypatch, name, method, lmbda):
    """In blocks of some rows."""
    monkeypatch.setattr(positions, "BLOCK_ENTRIES", 4096)
    monkeypatch.setitem(read.__globals__, "BLOCK", 4096)
    model, _ = nq.zoo.load(name)
    selection = nq.select(model, layers=["conv1", "conv2"])
    quantized = nq.fit(selection, method, lmbda=lmbda, coding="context", progress=False)
    assert len(quantized.tensors["conv2.weight"].streams) > 1
    nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    found = read((tmp_path / "m.nbq").read_bytes())
    for key, value in expected_state(model, quantized).items():
        assert found[key][2] == value.detach().contiguous().numpy().tobytes()


@pytest.mark.parametrize("name", ["lenet5-fashion", "lenet5-fashion-pruned"])
def test_that_reader_reads_arithmetic_coding_of_a_bundled_network(tmp_path, name):
    model, _ = nq.zoo.load(name)
    quantized = nq.fit(nq.select(model), "kmeans", levels=40, coding="arithmetic", per_layer=True, progress=False)
    nq.save(quantized, tmp_path / "m.nbq", model, progress=False)
    found = read((tmp_path / "m.nbq").read_bytes())
    for key, value in expected_state(model, quantized).items():
        assert found[key][2] == value.detach().contiguous().numpy().tobytes()


def test_the_dump_in_the_description_is_what_is_written(tmp_path):
    quantized, _ = tiny()
    nq.save(quantized, tmp_path / "m.nbq", progress=False)
    data = (tmp_path / "m.nbq").read_bytes()
    shown = re.search(r"```hexdump\n(.*?)```", FORMAT.read_text(), re.DOTALL).group(1)
    assert shown.strip() == dump(data)
    assert struct.unpack("<8f", read(data)["w"][2]) == (0, -1, 0.5, 0, 0, 0, 0.5, 0)


def test_keys_of_the_header_are_described():
    text = FORMAT.read_text()
    for name in GOLDEN:
        header, _ = parts((FOLDER / f"{name}.nbq").read_bytes())
        for key, value in header.items():
            assert f"`{key}`" in text
            if key not in ("tied", "recipe", "coding"):
                assert all(f"`{column}`" in text for column in value)


if __name__ == "__main__":
    nq.__version__ = VERSION
    FOLDER.mkdir(exist_ok=True)
    for name, make in GOLDEN.items():
        made, module = make()
        nq.save(made, FOLDER / f"{name}.nbq", module, progress=False)
        state = {key: value.clone() for key, value in expected_state(module, made).items()}
        save_file(state, FOLDER / f"{name}.safetensors")
    nq.save(tiny()[0], FOLDER / "tiny.nbq", progress=False)
    print(dump((FOLDER / "tiny.nbq").read_bytes()))
    (FOLDER / "tiny.nbq").unlink()
