"""Damaged .nbq files without end, each known by a seed and a number, and a reader put to them.

``python -m tests.storage.mutations --count 1000000 --seed 7`` puts it to so many; it leaves each file that it fails at
in a folder, from where it goes to ``tests/storage/corpus`` once the reader is mended. ``--number`` repeats one of them.
"""

import argparse
import copy
import faulthandler
import json
import random
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from nbquant.coding.arithmetic import ArithmeticCode
from nbquant.coding.code_table import decode_lengths, encode_lengths, table_bits
from nbquant.coding.huffman import HuffmanCode
from tests.storage import seeds
from tests.storage.examine import FindingError, examine
from tests.storage.parts import SIZES, Parts, SectionKind, column, section_kinds

MOST = 1 << 16  # bytes of a mutated file
TRACED = 16  # of so many files the memory of one is measured
ROOM = 1 << 30  # bytes of address space beside what is taken when all kinds of files have been read once
HANGS = 60  # seconds for one file

RECODED = ("dense", "double", "skewed", "wide", "tied")  # dense, of one codebook with a code table, a block a tensor

Random = random.Random


@dataclass(frozen=True)
class Mutant:
    """A damaged file: what it came from, what was done to it, its bytes."""

    origin: str
    how: str
    data: bytes


def mutant(seed: int, number: int) -> Mutant:
    """One of the damaged files; always the same."""
    rng = Random(f"{seed}/{number}")
    origin = rng.choice(seeds.names())
    how = rng.choices(["raw", "bytes", "header", "content"], [3, 2, 6, 2])[0]
    if how == "raw":
        data = _mutated_bytes(seeds.read(origin), rng, seeds.read(rng.choice(seeds.names())))
    else:
        parts = _parts(origin)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            parts = {"bytes": _mutated_part, "header": _mutated_header, "content": _mutated_content}[how](
                parts, rng, origin
            )
        right = (parts.major, rng.choice([0, 0, 0, 1, 65535]))
        version = right if rng.random() < 0.98 else (rng.choice([0, 1, 2, 3, 65535]), 0)
        data = parts.file(*version)
    return Mutant(origin, how, data[:MOST])


@cache
def _parts(origin: str) -> Parts:
    with seeds.block_size(origin) as block:
        return Parts.of(seeds.read(origin), block)


def _block(origin: str) -> int:
    with seeds.block_size(origin) as block:
        return block


# Bytes, whatever they are.


def _mutated_bytes(data: bytes, rng: Random, other: bytes = b"") -> bytes:
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = _once_mutated(data, rng, other)[:MOST]
    return data


def _once_mutated(data: bytes, rng: Random, other: bytes) -> bytes:
    begin, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    short = min(end, begin + rng.choice([1, 2, 4, 8, 64]))
    size, to = short - begin, rng.randrange(len(data) + 1)
    head, tail = data[:begin], data[short:]
    what = rng.randrange(12)
    if what < 3:
        return _flipped(data, rng, 1 if what else rng.randrange(2, 20))
    if what == 3:
        return head + rng.choice([tail, rng.randbytes(size) + data[begin:]])
    if what == 4:
        return head
    if what == 5:
        return head + data[begin:end] + data[begin:]
    if what == 6:
        return head + rng.choice([bytes(size), b"\xff" * size]) + tail
    if what == 7:
        return head + rng.randbytes(size) + tail
    if what == 8:
        return head + data[to : to + size] + tail
    if what == 9:
        return head + rng.choice([other[begin:], other[begin:end] + data[end:]])
    if what == 10:
        return head + data[short:end] + data[begin:short] + data[end:]
    return data + rng.randbytes(rng.choice([1, 4, 16]))


def _flipped(data: bytes, rng: Random, flips: int) -> bytes:
    out = bytearray(data)
    for _ in range(flips if data else 0):
        bit = rng.randrange(8 * len(out))
        out[bit // 8] ^= 128 >> bit % 8
    return bytes(out)


def _mutated_part(parts: Parts, rng: Random, origin: str) -> Parts:
    """Header or a section as bytes; often of the same length, as the header says."""
    sections = list(parts.sections)
    if not sections or rng.random() < 0.3:
        return replace(parts, header=_mutated_bytes(parts.header, rng))
    at, other = rng.randrange(len(sections)), rng.randrange(len(sections))
    if rng.random() < 0.1:
        sections[at], sections[other] = sections[other], sections[at]
    elif rng.random() < 0.1:
        sections[at : at + 1] = rng.choice([[], [sections[at]] * 2, [b""]])
    else:
        sections[at] = _mutated_bytes(sections[at], rng, sections[other])
    if rng.random() < 0.7 and len(sections) == len(parts.sections):
        sections = [_of_size(new, len(old), rng) for new, old in zip(sections, parts.sections, strict=True)]
    return replace(parts, sections=tuple(sections))


# The header, which is JSON.

ODD: list[Any] = [
    -1, 0, 1, 2, 3, 7, 8, 255, 4095, 4096, 4097, 2**31, 2**32 - 1, 2**62, 2**62 + 1, 2**63, 2**64, 10**30, 10**400, 1.5,
    1.0, -0.0, 1e308, float("nan"), float("inf"), True, False, None, "", "a", "F32", "all", "0.weight", "__metadata__",
    "\0", "\ud800", "ü" * 300, "x" * 20_000, "../..", [], {}, [0], [[]], [None], [2**62, 0], [2**31, 2**31], [1] * 65,
    [0] * 64, {"a": 1}, "@deep100", "@deep700", "@deep990", "@deep100000", "@digits", "@infinite",
]  # fmt: skip
_TEXTS = {
    "@deep100": "[" * 100 + "]" * 100,
    "@deep700": '{"a":' * 700 + "0" + "}" * 700,
    "@deep990": "[" * 985 + "]" * 985,
    "@deep100000": "[" * 100_000,
    "@digits": "9" * 5000,
    "@infinite": "1e999",
}
Path_ = tuple[Any, ...]


def _mutated_header(parts: Parts, rng: Random, origin: str) -> Parts:
    try:
        header = json.loads(parts.header)
    except (ValueError, RecursionError):
        return replace(parts, header=_mutated_bytes(parts.header, rng))
    if not isinstance(header, dict):
        return replace(parts, header=b"{}")
    for _ in range(rng.choice([1, 1, 2, 3])):
        # An edit before this one may have left nothing for it.
        with suppress(LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            (_with_sense if rng.random() < 0.4 else _without_sense)(header, rng)
    plain = rng.random() < 0.5
    try:
        text = json.dumps(header, separators=(",", ":"))
        if not plain and "\\ud800" not in text:
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        return parts
    for mark, stands_for in _TEXTS.items():
        text = text.replace(f'"{mark}"', stands_for)
    if rng.random() < 0.05:
        key = rng.choice(["quantized", "recipe", "raw", "name", "bits", "new"])
        text = text.replace("{", f'{{"{key}":{rng.choice(["0", "{}", "[]"])},', rng.choice([1, 1, 2]))
    raw = text.encode()
    if rng.random() < 0.02:
        odd = [b"\xef\xbb\xbf" + raw, text.encode("utf-16"), raw + b" ", b" " + raw, raw + b"{}", b"[" + raw + b"]"]
        raw = rng.choice(odd)
    changed = replace(parts, header=raw)
    return _with_sizes(changed, rng, origin) if rng.random() < 0.8 else changed


def _places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict | list) and len(at) < 8:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*at, key)
            yield from _places(value[key], (*at, key))


def _odd(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))


def _get(header: Any, path: Path_) -> Any:
    for key in path:
        header = header[key]
    return header


def _without_sense(header: dict[str, Any], rng: Random) -> None:
    """Change anything to anything."""
    path = rng.choice(list(_places(header)))
    inside, key = _get(header, path[:-1]), path[-1]
    value = inside[key]
    what = rng.randrange(8)
    if what == 0:
        del inside[key]
    elif what == 1 and isinstance(inside, list):
        inside.insert(rng.randrange(len(inside) + 1), rng.choice([value, _odd(rng)]))
    elif what == 1:
        inside[rng.choice(["new", "", "table", "weights", "x" * 20_000, "\ud800", "tied", "samples"])] = rng.choice(
            [value, _odd(rng)]
        )
    elif what == 2:
        other = rng.choice(list(_places(header)))
        there, value = json.dumps(_get(header, other)), json.dumps(value)  # copies, or one might end up in itself
        _get(header, other[:-1])[other[-1]] = json.loads(value)
        inside[key] = json.loads(there)
    elif what in (3, 4) and isinstance(value, int | float):
        other = [value + 1, value - 1, -value, value * 2, value // 2, str(value), float(value), [value]]
        inside[key] = rng.choice(other)
    else:
        inside[key] = _odd(rng)


def _with_sense(header: dict[str, Any], rng: Random) -> None:
    """A header that says another thing, but might be right."""
    rng.choice(_EDITS)(header, rng)


def _table(header: dict[str, Any], rng: Random, *names: str) -> dict[str, Any]:
    return header[rng.choice([name for name in names if name in header])]


def _as_list(table: dict[str, Any], key: str, rows: int) -> list[Any]:
    table[key] = list(column(table, key, rows))
    return table[key]


def _rows(header: dict[str, Any], name: str) -> int:
    if name == "blocks":
        lists = [values for values in header["blocks"].values() if isinstance(values, list)]
        return len(lists[0] if lists else header["quantized"]["name"])
    return len(header[name].get("name", header[name].get("span")))


def _rename(header: dict[str, Any], rng: Random) -> None:
    names = _table(header, rng, "quantized", "raw", "codebooks")["name"]
    others = [name for table in ("quantized", "raw", "codebooks") if table in header for name in header[table]["name"]]
    names[rng.randrange(len(names))] = rng.choice([*others, "", "a.b", "2.weight", "__metadata__", "é", "a/b", "\0"])


def _tie(header: dict[str, Any], rng: Random) -> None:
    own = [name for table in ("quantized", "raw") if table in header for name in header[table]["name"]]
    tied = header.setdefault("tied", {})
    a, b = rng.choice([*own, "u", "v", ""]), rng.choice([*own, "u", "v"])
    tied[a] = b
    if rng.random() < 0.3:
        tied[b] = a


def _retype(header: dict[str, Any], rng: Random) -> None:
    name = rng.choice([name for name in ("quantized", "raw", "codebooks") if name in header])
    some = list(SIZES) if name == "raw" else ["F16", "BF16", "F32", "F64"]
    if rng.random() < 0.5:
        header[name]["dtype"] = rng.choice(some)
    else:
        dtypes = _as_list(header[name], "dtype", _rows(header, name))
        dtypes[rng.randrange(len(dtypes))] = rng.choice(some)


def _reshape(header: dict[str, Any], rng: Random) -> None:
    shape = rng.choice(_table(header, rng, "quantized", "raw")["shape"])
    axis = rng.randrange(len(shape) + 1)
    what = rng.randrange(7)
    if what == 0:
        shape.insert(axis, rng.choice([1, 1, 0, 2, 2**20, 2**32, 2**61]))
    elif what == 1:
        shape.reverse()
    elif what == 2:
        shape[:] = [shape[0] * shape[1], *shape[2:]]
    elif what == 3:
        shape[axis % len(shape)] += rng.choice([1, -1, 3, 64, 5000])
    elif what == 4:
        shape[:] = rng.choice([[], [0], [1], [2**62, 0], [0, 2**62], [3, 5, 7], [2**26], [1 << 22, 3], [1] * 64])
    elif what == 5:
        shape.append(1)
    else:
        shape[axis % len(shape)] = rng.choice([0, 1, 2**22 + 1, 2**26, 2**40])


def _recount(header: dict[str, Any], rng: Random) -> None:
    blocks = header["blocks"]
    values = _as_list(blocks, rng.choice(list(blocks)), _rows(header, "blocks"))
    at, other = rng.randrange(len(values)), rng.randrange(len(values))
    step = rng.choice([1, 1, -1, -1, 2, 7, 8, -8, 64, values[other]])
    values[at] += step
    if rng.random() < 0.4:
        values[other] -= step


def _relevel(header: dict[str, Any], rng: Random) -> None:
    books = header["codebooks"]
    key = rng.choice([key for key in ("levels", "bits", "first", "span", "dependent") if key in books])
    values = _as_list(books, key, _rows(header, "codebooks"))
    at = rng.randrange(len(values))
    if key == "dependent" or values[at] is None:
        values[at] = rng.choice([True, False, None, 1, -3, 40])
    if key == "bits" and (values[at] is None or rng.random() < 0.3):
        values[at] = rng.choice([None, 0, 1, 8, 100, *range(2, 20)])
    else:
        values[at] += rng.choice([1, 1, -1, 2, 100, -values[at]])
    if rng.random() < 0.3:
        header["recipe"]["quantizer"]["coding"] = rng.choice(["huffman", "fixed", "arithmetic", "context"])


def _reindex(header: dict[str, Any], rng: Random) -> None:
    table = header["quantized"]
    values = _as_list(table, rng.choice([key for key in ("codebook", "table") if key in table]), len(table["name"]))
    at = rng.randrange(len(values))
    values[at] = rng.choice([0, 1, 2, None, *values])
    if rng.random() < 0.5:
        values.reverse()


def _respan(header: dict[str, Any], rng: Random) -> None:
    tables = header["tables"]
    key = rng.choice(["span", "bits"])
    values = _as_list(tables, key, _rows(header, "tables"))
    values[rng.randrange(len(values))] += rng.choice([1, -1, 2, 8, -8, 4000, 4096])


def _prune(header: dict[str, Any], rng: Random) -> None:
    """Pruned where it was dense, or the other way round."""
    if header.get("coding") == "context":
        if "weights" in header["blocks"]:
            del header["blocks"]["weights"]
        else:
            header["blocks"]["weights"] = rng.choice([0, 1, 30, 40])
        return
    if "table" in header["quantized"]:
        del header["quantized"]["table"]
        if rng.random() < 0.5:
            header.pop("tables", None)
        return
    header["quantized"]["table"] = rng.choice([None, 0])
    header["blocks"] |= {"weights": rng.choice([0, 1, 30, 40]), "positions": rng.choice([0, 40]), "fillers": 0}
    if rng.random() < 0.7:
        header["tables"] = {"span": [1], "bits": 3}


def _say_otherwise(header: dict[str, Any], rng: Random) -> None:
    recipe = header["recipe"]
    quantizer = recipe.get("quantizer", {})
    changes: list[Callable[[], Any]] = [
        lambda: quantizer.update(method=rng.choice(["kmeans", "uniform", "ecsq", "trellis", "x" * 1000, 3])),
        lambda: quantizer.update(coding=rng.choice(["huffman", "fixed", "arithmetic", "context", "x", [], None])),
        lambda: header.update(coding=rng.choice(["context", "arithmetic", "prefix", "x", None])),
        lambda: quantizer.update(per_layer=rng.choice([True, False, 1])),
        lambda: quantizer.update({rng.choice(["self", "cls", "lmbda", "levels", "step", "offset"]): _odd(rng)}),
        lambda: recipe.update(distortion=_odd(rng)),
        lambda: recipe.update(finetuned={rng.choice(["lr", "", "x"]): _odd(rng)}),
        lambda: recipe.update(sensitivity={rng.choice(["samples", "method", "damping", "offset"]): _odd(rng)}),
        lambda: recipe.update(extra=_odd(rng)),
        lambda: header.update(recipe=rng.choice([{}, recipe["quantizer"], _odd(rng)])),
        lambda: quantizer.update({"a" * 3000: "b" * 3000}),
    ]
    rng.choice(changes)()


def _drop_row(header: dict[str, Any], rng: Random) -> None:
    name = rng.choice([name for name in ("quantized", "raw", "codebooks", "tables") if name in header])
    row = rng.randrange(_rows(header, name))
    for values in header[name].values():
        if isinstance(values, list):
            del values[row]
    if not _rows(header, name) or rng.random() < 0.2:
        del header[name]


def _add_row(header: dict[str, Any], rng: Random) -> None:
    name = rng.choice([name for name in ("quantized", "raw", "codebooks", "tables") if name in header])
    row = rng.randrange(_rows(header, name))
    for key, values in header[name].items():
        if isinstance(values, list):
            values.append(f"{values[row]}.more" if key == "name" else values[row])
    if name == "quantized":
        for values in header["blocks"].values():
            if isinstance(values, list):
                values.append(values[-1])


_EDITS = [
    _rename, _tie, _retype, _retype, _reshape, _reshape, _recount, _recount, _recount, _relevel, _relevel, _reindex,
    _respan, _prune, _say_otherwise, _say_otherwise, _drop_row, _add_row,
]  # fmt: skip


def _with_sizes(parts: Parts, rng: Random, origin: str) -> Parts:
    """Sections as large as the header says, if that is not too large, so that more than the sizes is looked at."""
    try:
        sizes = [kind.size for kind in section_kinds(json.loads(parts.header), _block(origin))]
    except Exception:  # the header is wrong
        return parts
    if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) > MOST // 2:
        return parts
    sections = [*parts.sections, *[b""] * len(sizes)]
    return replace(parts, sections=tuple(_of_size(s, n, rng) for s, n in zip(sections, sizes, strict=False)))


def _of_size(data: bytes, size: int, rng: Random) -> bytes:
    more = max(size - len(data), 0)
    return (data + rng.choice([bytes(more), rng.randbytes(more)]))[:size]


# What the sections hold, in files that are right apart from that.

_BITS: dict[str, list[int]] = {
    "F16": [0x7C00, 0xFC00, 0x7E00, 0x8000, 0x0001, 0x7BFF], "BF16": [0x7F80, 0xFF80, 0x7FC0, 0x8000, 0x0001, 0x7F7F],
    "F32": [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x80000000, 1, 0x7F7FFFFF],
    "F64": [0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, 1 << 63, 1, (0x7FF << 52) - 1],
}  # fmt: skip


def _mutated_content(parts: Parts, rng: Random, origin: str) -> Parts:
    try:
        header = json.loads(parts.header)
        kinds = section_kinds(header, _block(origin))
        at = rng.choice([i for i, kind in enumerate(kinds) if kind.size])
        kind, section = kinds[at], parts.sections[at]
        if origin in RECODED and rng.random() < 0.2:
            return _recoded(parts, rng, origin)
        changed = dict(zip(kinds, parts.sections, strict=True))
        if kind.table == "codebooks" and rng.random() < 0.5:
            changed[kind] = _other_values(section, kind, header, rng)
        elif kind.table in ("codebooks", "tables"):
            changed[kind] = section[: kind.values] + _other_table(section[kind.values :], kind, header, rng)
        else:
            changed[kind] = _of_size(_mutated_bytes(section, rng), kind.size, rng)
    except (LookupError, ValueError, TypeError, RecursionError):
        return parts
    return replace(parts, header=json.dumps(header, separators=(",", ":")).encode(), sections=tuple(changed.values()))


def _recoded(parts: Parts, rng: Random, origin: str) -> Parts:
    """Indices written anew with codeword lengths that may make no code, and nothing else to object to."""
    header = json.loads(parts.header)
    kinds = section_kinds(header, _block(origin))
    book, (bits,), levels = kinds[0], _as_list(header["codebooks"], "bits", 1), header["codebooks"]["levels"]
    payload = _as_list(header["blocks"], "payload", _rows(header, "blocks"))
    lengths = decode_lengths(parts.sections[0][book.values :], levels, bits)
    code = HuffmanCode(lengths.copy())
    lengths += rng.choice([0, 1])
    lengths[rng.randrange(levels)] += rng.choice([0, 1, -1])
    words, sections = _codewords(lengths), list(parts.sections)
    for i, kind in enumerate(kinds):
        if kind.table == "quantized":
            symbols = code.decode(sections[i], prod(header["quantized"]["shape"][kind.row]))
            text = "".join(words[symbol] for symbol in symbols)
            payload[kind.row] = len(text)
            sections[i] = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    header["codebooks"]["bits"] = table_bits(lengths)
    sections[0] = sections[0][: book.values] + encode_lengths(lengths)
    return Parts(json.dumps(header, separators=(",", ":")).encode(), tuple(sections))


def _codewords(lengths: Any) -> list[str]:
    """Canonical codewords, which run over where there are too many."""
    words, word, last = [""] * len(lengths), 0, 0
    for symbol in sorted(range(len(lengths)), key=lambda symbol: lengths[symbol]):
        length = int(lengths[symbol])
        word <<= length - last
        words[symbol] = format(word, "b").zfill(length)[-length:] if length else ""
        word, last = word + 1 if length else 0, length
    return words


def _other_values(section: bytes, kind: SectionKind, header: dict[str, Any], rng: Random) -> bytes:
    books = {"span": None} | header["codebooks"]
    if column(books, "span", kind.row + 1)[kind.row] is not None:
        return _other_lattice(section, rng)
    dtype = column(header["codebooks"], "dtype", kind.row + 1)[kind.row]
    width = SIZES[dtype]
    values = [section[i : i + width] for i in range(0, kind.values, width)]
    at, other = rng.randrange(len(values)), rng.randrange(len(values))
    what = rng.randrange(5)
    if what == 0:
        values.reverse()
    elif what == 1:
        values[at], values[other] = values[other], values[at]
    elif what == 2:
        values[at] = values[other]
    elif what == 3:
        values[at] = rng.randbytes(width)
    else:
        values[at] = rng.choice(_BITS[dtype]).to_bytes(width, "little")
    return b"".join(values) + section[kind.values :]


def _other_lattice(section: bytes, rng: Random) -> bytes:
    """Another step, or other integers, perhaps as many."""
    if rng.random() < 0.4 or len(section) == 8:
        step = rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e300, 5e-324, 0.5])
        return struct.pack("<d", step) + section[8:]
    bits = list(f"{int.from_bytes(section[8:], 'big'):0{8 * len(section[8:])}b}")
    at, other = rng.randrange(len(bits)), rng.randrange(len(bits))
    bits[at], bits[other] = bits[other], bits[at]
    if rng.random() < 0.3:
        bits[at] = rng.choice("01")
    return section[:8] + int("".join(bits), 2).to_bytes(len(section) - 8, "big")


def _other_table(table: bytes, kind: SectionKind, header: dict[str, Any], rng: Random) -> bytes:
    """Other codeword lengths in a table that reads well, and the header says how long it is."""
    rows = _rows(header, kind.table)
    bits = _as_list(header[kind.table], "bits", rows)
    counts = column(header[kind.table], "levels" if kind.table == "codebooks" else "span", rows)
    count = counts[kind.row] + (kind.table == "tables")
    if bits[kind.row] is None:
        return table
    if header.get("coding") == "arithmetic" and kind.table == "codebooks":
        return _other_roots(table, count, bits, kind.row, rng)
    lengths = decode_lengths(table, count, bits[kind.row])
    at, other = rng.randrange(count), rng.randrange(count)
    what = rng.randrange(8)
    if what < 2:
        lengths[at] = max(lengths[at] + (1 if what else -1), 0)
    elif what == 2:
        lengths[at], lengths[other] = lengths[other], lengths[at]
    elif what == 3:
        lengths[at] = rng.choice([0, 1, 31, 32])
    elif what == 4:
        lengths[:] = rng.choice([1, 2, 32, max(count - 1, 1).bit_length()])
    elif what == 5:
        lengths[:] = lengths[::-1].copy()
    elif what == 6:  # complete, but another
        lengths[:] = [min(i + 1, count - 1) for i in range(count)]
    else:
        lengths[:] = 0
        lengths[at] = rng.choice([1, 2])
    bits[kind.row] = table_bits(lengths)
    return encode_lengths(lengths)


def _other_roots(table: bytes, count: int, bits: list[Any], row: int, rng: Random) -> bytes:
    """Other roots in a table that reads well."""
    roots = ArithmeticCode.decode_table(table, bits[row], count).roots.copy()
    at, other = rng.randrange(count), rng.randrange(count)
    roots[at] = rng.choice([0, 1, 1 << 16, roots[at] + 1, max(roots[at] - 1, 0), roots[other]])
    if not roots.any():
        return table
    code = ArithmeticCode(roots.clip(0, 1 << 16))
    bits[row] = code.table_bits
    return code.encode_table()


# The reader put to it.


def run(seed: int, first: int, count: int, folder: Path, report: Callable[[str], None]) -> int:
    """Examine so many damaged files; those that fail, or end the process, stay in the folder.

    Returns:
        How many failed.
    """
    outcomes: Counter[str] = Counter()
    found = 0
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        for name in seeds.names():
            for traced in (False, True):  # all is imported and compiled, threads run
                with seeds.block_size(name):
                    examine(seeds.FOLDER / f"{name}.nbq", scratch, traced)
        _limit_memory()
        for number in range(first, first + count):
            made = mutant(seed, number)
            path = folder / f"{made.origin}-{seed}-{number}.nbq"
            path.write_bytes(made.data)
            faulthandler.dump_traceback_later(HANGS, exit=True)
            try:
                with seeds.block_size(path.name):
                    outcome = examine(path, scratch, traced=number % TRACED == 0)
            except FindingError as finding:
                found += 1
                outcome = "FAILED"
                cause = finding.__cause__
                where = "".join(traceback.format_tb(cause.__traceback__)[-2:]) if cause else ""
                report(f"{path}: {finding} ({made.how})\n{where}")
            else:
                path.unlink()
            outcomes[f"{made.how}: {outcome}"] += 1
        faulthandler.cancel_dump_traceback_later()
    report(f"{count} files, {found} failed: " + ", ".join(f"{k} {n}" for k, n in sorted(outcomes.items())))
    return found


def _limit_memory() -> None:
    """Have an allocation far beyond what the files here may take fail, where the system can do so."""
    if sys.platform == "linux":
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--number", type=int, help="this one only")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "nbquant-mutations")
    parser.add_argument("--write-seeds", action="store_true", help="make the files anew that the mutations start from")
    asked = parser.parse_args()
    if asked.write_seeds:
        return seeds.write_seeds()
    first, count = (asked.first, asked.count) if asked.number is None else (asked.number, 1)
    start, found, step = time.monotonic(), 0, count if asked.seconds is None else 2000
    for begin in range(first, first + count, step):
        if asked.seconds is None or time.monotonic() - start < asked.seconds:
            found += run(asked.seed, begin, min(step, first + count - begin), asked.folder, _say)
    sys.exit(1 if found else 0)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
