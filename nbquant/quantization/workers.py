"""Sweeps over checkpoint files by the workers of a Dask cluster, one task per file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from torch import Tensor

from nbquant.quantization.tensor import SelectedTensor
from nbquant.tensorfile import FileSlice, TensorFile

FILES_OPEN = 64  # open files per worker; mapped pages can be reclaimed at any time

Part = tuple["_Travelling", ...]
OfPart = Callable[[Sequence[SelectedTensor]], Any]
"""Result for the tensors of a file; it is sent between processes."""


@dataclass(frozen=True)
class _Travelling:
    """A selected tensor without its values, which each worker reads from the file itself."""

    name: str
    layer: str
    weight: FileSlice
    sensitivity: FileSlice | None


@dataclass(frozen=True, eq=False)
class Workers:
    """Dask workers that sweep over tensors on disk.

    Weights are not sent: each task maps the file of its tensors, which must be available to all workers under the same
    path. A task whose worker is killed is repeated by another, and so are results held by that worker alone.

    Attributes:
        client: A ``dask.distributed.Client``.
    """

    client: Any

    def map(self, function: OfPart, tensors: Sequence[SelectedTensor]) -> Iterator[Any]:
        """Apply a function to the tensors of each file; yields results in the order of files."""
        yield from self._results(self.hold(function, tensors))

    def hold(self, function: OfPart, tensors: Sequence[SelectedTensor]) -> list[Any]:
        """Apply a function and keep its results on the workers; returns futures."""
        return [self.client.submit(_on_worker, function, part, pure=False) for part in _parts(tensors)]

    def pick(self, held: Sequence[Any], item: int) -> Iterator[Any]:
        """Pick one item of each tuple held by workers, in the order of files."""
        yield from self._results([self.client.submit(itemgetter(item), one, pure=False) for one in held])

    def _results(self, futures: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of files, so that sums are reproducible; leaving the iteration cancels the rest."""
        try:
            for future in futures:
                yield future.result()
        finally:
            self.client.cancel([future for future in futures if not future.done()])


def _parts(tensors: Sequence[SelectedTensor]) -> list[Part]:
    """Tensors by file."""
    files: dict[Path, list[_Travelling]] = {}
    for t in tensors:
        assert t.weight_source is not None, "select() refuses tensors in memory"
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
    """The values, and their location on this machine."""
    file = _opened(source.path, source.version)
    for name, stored in file.tensors.items():
        if _anywhere(stored.source) == _anywhere(source):
            return file.tensor(name), stored.source
    raise ValueError(
        f"{str(source.path)!r} must be the selected file on all workers, but is another one there or was changed: "
        "select again, from a folder that all of them share."
    )


def _anywhere(source: FileSlice) -> tuple[int, ...]:
    """Properties shared by all machines that see the same file: offset, size and modification time."""
    _device, _inode, size, content_changed, _entry_changed = source.version
    return source.offset, source.size, size, content_changed


@lru_cache(FILES_OPEN)
def _opened(path: Path, version: tuple[int, ...]) -> TensorFile:
    return TensorFile.open(path)
