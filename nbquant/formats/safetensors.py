"""Safetensors checkpoints: one file, several with an index, or a folder with one of these."""

import os
from collections.abc import Mapping
from pathlib import Path

from nbquant.formats.constant import leaves_folder
from nbquant.formats.format import Format
from nbquant.listed import listed
from nbquant.tensorfile import MOST_JSON, TensorFile, parse_json, refuse_pickle

INDEX = ".safetensors.index.json"


def is_safetensors(path: Path) -> bool:
    """Whether a path is a safetensors folder, index or file."""
    return path.is_dir() or path.name.endswith(INDEX) or path.suffix == ".safetensors"


def open_safetensors(path: Path) -> dict[str, TensorFile]:
    """Open a ``.safetensors`` file, the index of several, or a folder with one index or one file.

    Raises:
        ValueError: Several candidates in a folder, or files that are damaged or do not fit their index.
        OSError: A file that does not exist or cannot be read.
    """
    found = _only_checkpoint(path) if path.is_dir() else path
    if found.name.endswith(INDEX):
        return _files_of_index(found)
    file = TensorFile.open(found)
    return dict.fromkeys(file.tensors, file)


def _only_checkpoint(folder: Path) -> Path:
    names = sorted(os.listdir(folder))
    indices = [name for name in names if name.endswith(INDEX)]
    files = [name for name in names if name.endswith(".safetensors")]
    found = indices or files
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise ValueError(
            f"a folder must hold one *{INDEX} or one .safetensors file, but {str(folder)!r} holds {len(found)} "
            f"({listed(found, 3)}): pass the path of one of them, or write the index that belongs to them."
        )
    for name in names:
        refuse_pickle(folder / name)
    raise ValueError(
        f"a folder must hold one *{INDEX} or one .safetensors file, but {str(folder)!r} holds none of either: "
        "pass the folder that the weights were saved to."
    )


def _files_of_index(index: Path) -> dict[str, TensorFile]:
    shards = _read_index(index)
    files: dict[str, TensorFile] = {}
    where: dict[str, str] = {}
    for shard in dict.fromkeys(shards.values()):
        path = index.parent / shard
        if not path.is_file():
            raise FileNotFoundError(
                f"all files of {index.name!r} are required, but {shard!r} is not in {str(index.parent)!r}: "
                "get it, or get the checkpoint again."
            )
        files[shard] = TensorFile.open(path)
        for name in files[shard].tensors:
            if name in where:
                raise ValueError(
                    f"a tensor must be in one file, but {name!r} is in {where[name]!r} and in {shard!r}: "
                    "write the checkpoint again."
                )
            where[name] = shard
    _require_same(index, shards, where)
    return {name: files[shard] for name, shard in shards.items()}


def _read_index(index: Path) -> dict[str, str]:
    """Read the file name of each tensor."""
    if not index.is_file():
        raise FileNotFoundError(f"an index of a checkpoint is required, but there is no file {str(index)!r}.")
    with index.open("rb") as file:
        raw = file.read(MOST_JSON + 1)
    if len(raw) > MOST_JSON:
        raise ValueError(f"{index.name!r} must be at most {MOST_JSON} bytes, but is more: is it an index?")
    shards = parse_json(raw, repr(index.name)).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(
            f"{index.name!r} must map tensors to files under 'weight_map', but does not: get the file again."
        )
    for shard in dict.fromkeys(shards.values()):
        refuse_pickle(Path(shard))
        if leaves_folder(shard) or not shard.endswith(".safetensors"):
            raise ValueError(
                f"files of an index must be .safetensors files in its folder, but {index.name!r} names {shard!r}: "
                "do not use this checkpoint unless you know why."
            )
    return shards


def _require_same(index: Path, named: Mapping[str, str], present: Mapping[str, str]) -> None:
    absent = [name for name in named if present.get(name) != named[name]]
    if absent:
        raise ValueError(
            f"each of the {len(named)} tensors of {index.name!r} must be in the file it is said to be in, but "
            f"{len(absent)} are not ({listed(absent, 3)}; the first should be in {named[absent[0]]!r}): "
            "index and files are of different checkpoints; get them again."
        )
    extra = [name for name in present if name not in named]
    if extra:
        raise ValueError(
            f"{index.name!r} must name all tensors of its files, but {len(extra)} of {len(present)} are not named "
            f"({listed(extra, 3)}): index and files are of different checkpoints; get them again."
        )


SAFETENSORS = Format("safetensors", is_safetensors, open_safetensors)
