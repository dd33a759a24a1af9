"""What a reader may make of a file, whatever is in it: it refuses it, or all that it says is of a piece."""

import json
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from math import prod
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

import nbquant as nq
from nbquant.coding import positions
from nbquant.storage.decompress import decompress
from nbquant.storage.dtypes import DTYPES
from nbquant.storage.stored import Stored
from tests.storage.parts import column

LONGEST = 600  # characters of a message
SMALL = 1 << 20  # bytes restored; files that claim more are looked into, but not restored
PER_BYTE, PER_RESTORED, BESIDE = 256, 8, 1 << 22  # most memory: a byte of the file, one restored, and whatever there is


class FindingError(AssertionError):
    """The reader did what it must not."""


def examine(path: Path, scratch: Path, traced: bool = False) -> str:
    """Read a file in every way there is.

    Args:
        path: The file.
        scratch: A folder to write to.
        traced: Look twice, and measure what memory it takes, which takes several times as long.

    Returns:
        What came of it: "refused", "large" (allowed, but not restored here), "part" (its recipe is not known or its
        content does not decode), "restored".

    Raises:
        FindingError: What is neither refused as it should be nor of a piece.
    """
    size = path.stat().st_size
    with warnings.catch_warnings(), _only_findings():
        warnings.simplefilter("error")
        if not traced:
            return _examine(path, scratch, False)[0]
        tracemalloc.start()
        try:
            outcome, restored = _examine(path, scratch, True)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        most = PER_BYTE * size + PER_RESTORED * restored + BESIDE
        _require(peak <= most, f"{peak} bytes of memory for a file of {size} that restores to {restored}")
        return outcome


@contextmanager
def _only_findings() -> Iterator[None]:
    try:
        yield
    except (FindingError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise FindingError(f"{type(error).__name__}: {str(error)[:500]}") from error


def _examine(path: Path, scratch: Path, thorough: bool) -> tuple[str, int]:
    refusals: list[nq.CorruptFileError] = []
    with _refusing(refusals):
        stored = nq.load(path)
    if refusals:
        if thorough:
            with _refusing(again := []):
                nq.load(path, max_bytes=1 << 40)
            _require(bool(again) or "max_bytes" in refusals[0].reason, "refused once, and not the second time")
            with _refusing(again):
                decompress(path, scratch / "refused.safetensors", progress=False)
            _require(not (scratch / "refused.safetensors").exists(), "restored from a file that is refused")
        return "refused", 0
    restored = stored.source_bits // 8
    frame = _summary(stored, path)
    if restored > SMALL:
        with _refusing(refusals):
            nq.load(path, max_bytes=restored - 1)
        _require(bool(refusals), "max_bytes has no effect")
        for name in stored.names:
            with _refusing(refusals):
                for piece in islice(stored.chunks(name), 1):
                    _require(len(piece) <= positions.BLOCK_ENTRIES, "a piece of more than a block")
        return "large", restored
    state: dict[str, Tensor] = {}
    for name in stored.names:
        refused: list[nq.CorruptFileError] = []
        with _refusing(refused):
            state[name] = stored.tensor(name)
        pieces: list[Tensor] = []
        with _refusing(in_pieces := []):
            pieces = list(stored.chunks(name))
        _require(bool(refused) == bool(in_pieces), f"{name!r} is refused as a whole or in pieces only")
        refusals += refused
        if refused:
            continue
        entry = stored.entry(name)
        _require(state[name].dtype == DTYPES[entry.dtype], f"{name!r} is of another type")
        _require(tuple(state[name].shape) == tuple(entry.shape), f"{name!r} has another shape")
        _require(
            all(0 < len(piece) <= positions.BLOCK_ENTRIES for piece in pieces), f"{name!r} has pieces of odd sizes"
        )
        joined = b"".join(map(_bytes, pieces))
        _require(joined == _bytes(state[name]), f"{name!r} is another in pieces")
    with _refusing(of_all := []):
        whole = stored.state_dict(progress=False)
        _require(whole.keys() == set(stored.names), "names are missing")
        _require(all(_bytes(whole[name]) == _bytes(state[name]) for name in state), "state_dict has other values")
        for name, target in stored._layout.tied.items():
            _require(whole[name] is whole[target], f"{name!r} is not tied")
    _require(bool(of_all) == bool(refusals), "state_dict refuses what tensor does not, or the other way round")
    _restored(path, scratch / "restored.safetensors", state, refused=bool(refusals))
    with _refusing(of_quantized := []):
        _saved_again(stored, frame, state, scratch, thorough)
    tensors_fine = all(name in state for name in stored.names if hasattr(stored.entry(name), "codebook"))
    only_recipe = all(error.section in ("recipe", "header") for error in of_quantized)
    _require(bool(of_quantized) or tensors_fine, "quantized() takes what tensor() refuses")
    _require(not of_quantized or not tensors_fine or only_recipe, "quantized() refuses what tensor() does not")
    return ("part" if refusals or of_quantized else "restored"), restored


def _summary(stored: Stored, path: Path) -> pd.DataFrame:
    """What is known without decoding."""
    data = path.read_bytes()
    header = json.loads(data[16 : 16 + int.from_bytes(data[12:16], "little")])
    _require(stored.size == len(data), "another size than the file's")
    _require(stored.ledger.total == 8 * len(data), f"a ledger of {stored.ledger.total} bits for {len(data)} bytes")
    _require(min(stored.ledger.values()) >= 0, "negative bits")
    _require(len(set(stored.names)) == len(stored.names), "a name comes twice")
    said: dict[str, tuple[tuple[int, ...], str]] = {}
    for table in ("quantized", "raw"):
        if header.get(table):
            rows = header[table]
            dtypes = column(rows, "dtype", len(rows["name"]))
            shapes = map(tuple, rows["shape"])
            said |= dict(zip(rows["name"], zip(shapes, dtypes, strict=True), strict=True))
    tied = header.get("tied", {})
    _require(set(stored.names) == {*said, *tied}, "other names than the header's")
    for name in stored.names:
        entry = stored.entry(name)
        _require((entry.shape, entry.dtype) == said[tied.get(name, name)], f"{name!r} is not as the header says")
    _require(stored.source_bits == 8 * sum(prod(s) * DTYPES[d].itemsize for s, d in said.values()), "other source_bits")
    json.dumps(stored.recipe, allow_nan=False)
    _require(stored.compression_ratio >= 0, "a negative ratio")
    _require(len(repr(stored)) < LONGEST, "a long repr")
    frame = stored.to_frame()
    _require(list(frame["name"]) == list(stored.names), "a frame of other rows")
    _require(frame["bytes"].sum() <= len(data), "a frame of more bytes than the file")
    _require(bool((frame["nonzero"] <= frame["weights"]).all()), "more weights than entries")
    return frame.set_index("name")


def _restored(path: Path, out: Path, state: dict[str, Tensor], refused: bool) -> None:
    out.unlink(missing_ok=True)
    with _refusing(refusals := []):
        decompress(path, out, progress=False)
    _require(bool(refusals) == refused, "decompress refuses what tensor does not, or the other way round")
    _require(out.exists() != refused, "a file of what is refused, or none")
    if not refused:
        again = load_file(out)
        _require(again.keys() == state.keys(), "the safetensors file has other names")
        _require(all(_same(again[name], state[name]) for name in state), "the safetensors file has other tensors")


def _saved_again(stored: Stored, frame: pd.DataFrame, state: dict[str, Tensor], scratch: Path, twice: bool) -> None:
    quantized = stored.quantized()
    for name, tensor in quantized.dequantize().items():
        _require(_same(tensor, state[name]), f"{name!r} is another when it is quantized")
        _require(
            int((quantized.tensors[name].assignment >= 0).sum()) == frame.loc[[name], "nonzero"].iloc[0],
            f"{name!r} has another number of weights than said",
        )
    for book in quantized.codebooks.values():
        kraft = sum(2.0**-length for length in book.codeword_length.tolist() if length)
        complete = kraft == 1 or quantized.quantizer.coding != "huffman" or book.codeword_length.sum() <= 1
        _require(complete, f"codeword lengths with Σ 2^−ℓ = {kraft}")
    counts = sum(int(book.counts.sum()) for book in quantized.codebooks.values())
    assigned = sum(int((tensor.assignment >= 0).sum()) for tensor in quantized.tensors.values())
    _require(counts == assigned, f"counts of {counts} for {assigned} weights")
    paths = [scratch / "again.nbq", scratch / "twice.nbq"][: 1 + twice]
    for path in paths:
        alone = replace(quantized, unselected_bits=0)  # what is not quantized is not at hand
        nq.save(alone, path, progress=False)
        try:
            again = nq.load(path)
            for name in quantized.tensors:
                _require(_same(again.tensor(name), state[name]), f"{name!r} is another when saved again")
            quantized = again.quantized()
        except nq.CorruptFileError as error:
            raise FindingError(f"what was saved again is refused: {error}") from error
    _require(paths[0].read_bytes() == paths[-1].read_bytes(), "saved a third time there are other bytes")


@contextmanager
def _refusing(refusals: list[nq.CorruptFileError]) -> Iterator[None]:
    """Collect the one exception that is allowed."""
    try:
        yield
    except nq.CorruptFileError as error:
        _require(isinstance(error.section, str) and bool(error.section), "no section")
        _require(isinstance(error.reason, str) and len(error.reason) > 10, "no reason")
        _require(len(str(error)) <= LONGEST, f"a message of {len(str(error))} characters: {str(error)[:200]}…")
        str(error).encode()
        refusals.append(error)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().data) if len(flat) else b""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise FindingError(otherwise)
