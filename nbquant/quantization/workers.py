"""A selection of files whose tensors are swept over by the workers of a Dask cluster, one task a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from nbquant.quantization.tensor import SelectedTensor
from nbquant.tensorfile import FileSlice, TensorFile

FILES_OPEN = 64  # on a worker; what is mapped from them takes no memory that it does not give back

Part = tuple["_Travelling", ...]
OfPart = Callable[[Sequence[SelectedTensor]], Any]
"""What is found of the tensors of a file; it travels to workers."""


@dataclass(frozen=True)
class _Travelling:
    """A selected tensor without its values, which every worker reads from the file itself."""

    name: str
    layer: str
    weight: FileSlice
    sensitivity: FileSlice | None


@dataclass(frozen=True, eq=False)
class Workers:
    """Who sweeps over tensors that are on disk.

    Weights do not travel: each task maps the file that its tensors are in, which all workers must find under the same
    path. A task whose worker is killed is done again by another one, and so is what only that worker held.

    Attributes:
        client: A ``dask.distributed.Client``.
    """

    client: Any

    def map(self, function: OfPart, tensors: Sequence[SelectedTensor]) -> Iterator[Any]:
        """What a function says of the tensors of each file, in their order."""
        yield from self._results(self.hold(function, tensors))

    def hold(self, function: OfPart, tensors: Sequence[SelectedTensor]) -> list[Any]:
        """The same as futures: what it says stays with the workers."""
        return [self.client.submit(_on_worker, function, part, pure=False) for part in _parts(tensors)]

    def pick(self, held: Sequence[Any], item: int) -> Iterator[Any]:
        """One item of each of the tuples that workers hold, in the order of files."""
        yield from self._results([self.client.submit(itemgetter(item), one, pure=False) for one in held])

    def _results(self, futures: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of files, so that sums are the same every time; what ends this cancels the rest."""
        try:
            for future in futures:
                yield future.result()
        finally:
            self.client.cancel([future for future in futures if not future.done()])


def _parts(tensors: Sequence[SelectedTensor]) -> list[Part]:
    """Tensors by the file that they are in."""
    files: dict[Path, list[_Travelling]] = {}
    for t in tensors:
        assert t.weight_source is not None, "select() refuses what is in memory"
        own = _Travelling(t.name, t.layer, t.weight_source, t.sensitivity_source)
        files.setdefault(t.weight_source.path, []).append(own)
    return [tuple(part) for part in files.values()]


def _on_worker(function: OfPart, part: Part) -> Any:
    def selected(t: _Travelling) -> SelectedTensor:
        weight, of_weight = _mapped(t.weight)
        h, of_h = (None, None) if t.sensitivity is None else _mapped(t.sensitivity)
        return SelectedTensor(t.name, t.layer, weight, h, of_weight, of_h)

    return function(tuple(map(selected, part)))


def _mapped(source: FileSlice) -> tuple[Tensor, FileSlice]:
    """The values, and where they are on this machine."""
    file = _opened(source.path, source.version)
    for name, stored in file.tensors.items():
        if _anywhere(stored.source) == _anywhere(source):
            return file.tensor(name), stored.source
    raise ValueError(
        f"{str(source.path)!r} must be for the workers the file that was selected from, but is another one or was "
        "changed: select again, from a folder that all of them share."
    )


def _anywhere(source: FileSlice) -> tuple[int, ...]:
    """What is alike on all machines that share a file: where in it, its size and when its content was changed."""
    _device, _inode, size, content_changed, _entry_changed = source.version
    return source.offset, source.size, size, content_changed


@lru_cache(FILES_OPEN)
def _opened(path: Path, version: tuple[int, ...]) -> TensorFile:
    return TensorFile.open(path)
