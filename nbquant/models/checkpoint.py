"""Weights in safetensors files on disk: one file, or several with an index."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxtyping import Float
from torch import Tensor

from nbquant.models.layers import listed, owner
from nbquant.models.packed import PackedNames
from nbquant.tensorfile import FLOATS, MOST_JSON, StoredTensor, TensorFile, parse_json, refuse_pickle

INDEX = ".safetensors.index.json"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of names that batch norms give to what is no weight; a file does not tell buffers from parameters."""


_CONVERT = (
    "load the weights with what wrote them, write them by safetensors.torch.save_file({name: tensor}, …) and pass that "
    "file, or pass a torch.nn.Module."
)
_WRITE = "write them by safetensors.torch.save_file({name: torch.tensor(array)}, …) and pass that file."
_CONVERTED = (
    (".gguf", "have transformers read it, AutoModel.from_pretrained(folder, gguf_file=…), and pass the module."),
    (".onnx", f"read graph.initializer with onnx.load and onnx.numpy_helper.to_array, {_WRITE}"),
    ((".h5", ".hdf5", ".keras"), f"read the arrays with Keras (model.get_weights()) or h5py, {_WRITE}"),
    ((".npz", ".npy"), f"read the arrays with numpy.load, {_WRITE}"),
    (".nbq", "it is quantized already; nbquant.load opens it, and nbquant.decompress makes a .safetensors file of it."),
)  # fmt: skip
"""How to make a safetensors file of one of another kind, by the end of its name."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's tensors on disk; nothing but names, types and shapes has been read.

    Attributes:
        path: What was opened: a file, an index or a folder.
        files: The open file of each tensor, in the order of the file's header or of the index.
    """

    path: Path
    files: dict[str, TensorFile]

    @staticmethod
    def open(path: str | os.PathLike[str]) -> "Checkpoint":
        """Open a checkpoint.

        Args:
            path: A ``.safetensors`` file; the ``.safetensors.index.json`` of several; or a folder with one index, or
                with one file.

        Raises:
            ValueError: Another kind of file, several candidates in a folder, or files that are damaged or do not fit
                their index.
            OSError: Something is not there or cannot be read.
        """
        given = Path(path)
        found = _only_checkpoint(given) if given.is_dir() else given
        refuse_pickle(found)
        if found.name.endswith(INDEX):
            return Checkpoint(given, _files_of_index(found))
        if found.suffix != ".safetensors":
            advice = next((a for ends, a in _CONVERTED if found.name.lower().endswith(ends)), _CONVERT)
            raise ValueError(
                f"a .safetensors file, a *{INDEX} or a folder with one of these is required, but {str(path)!r} came: "
                f"{advice}"
            )
        file = TensorFile.open(found)
        return Checkpoint(given, dict.fromkeys(file.tensors, file))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with weights that can be quantized, in the checkpoint's order."""
        return tuple(dict.fromkeys(owner(name) for name in self.files if self.is_quantizable(name)))

    def stored(self, name: str) -> StoredTensor:
        """What the file says about a tensor."""
        return self.files[name].tensors[name]

    def tensor(self, name: str) -> Float[Tensor, "..."]:
        """A weight, mapped from its file."""
        return self.files[name].tensor(name)

    def is_quantizable(self, name: str) -> bool:
        """Whether it is a floating-point weight: no buffer, and nothing that belongs to a quantized weight."""
        last, packed = name.rpartition(".")[2], self.packed
        kept = last in BUFFERS or name in packed.codes or name in packed.parts
        return self.stored(name).dtype in FLOATS and not kept

    @cached_property
    def packed(self) -> PackedNames:
        """What belongs to weights that are quantized already."""
        return PackedNames.of({name: self.stored(name) for name in self.files})


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
    """The file of each tensor."""
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
        parts = (*PurePosixPath(shard).parts, *PureWindowsPath(shard).parts)
        outside = ".." in parts or PurePosixPath(shard).is_absolute() or bool(PureWindowsPath(shard).anchor)
        if outside or "\0" in shard or not shard.endswith(".safetensors"):
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
