"""Export of quantized models to GPTQ's layout.

Zero points are stored less one, as in the first version of the layout; where one is 0, which that cannot hold without
a carry into its neighbours, all are stored as they are, and the configuration names the second version.

Source: AutoGPTQ and GPTQModel, as published (Frantar et al. 2022, arXiv:2210.17323).
"""

from pathlib import Path

import numpy as np

from nbquant.formats.gguf_writer import Value
from nbquant.formats.gptq import BITS
from nbquant.formats.packed_words import WORD, pack_stream
from nbquant.progress import Progress
from nbquant.quantization.codebook import QuantizedTensor
from nbquant.quantization.quantized import Quantized
from nbquant.storage.export_safetensors import IntegerMatrix, StoredPart, integer_matrix, write_checkpoint
from nbquant.storage.source import UnquantizedTensors
from nbquant.storage.unfit import convert_all

WHAT = "GPTQ"


def export_gptq(
    quantized: Quantized,
    path: Path,
    unquantized: UnquantizedTensors,
    metadata: dict[str, Value],
    progress: Progress,
) -> None:
    """Write a checkpoint; see :func:`nbquant.storage.export.export`."""
    matrices = convert_all(quantized.tensors, _matrix)
    _require_one(matrices)
    first = next(iter(matrices.values()))
    version_2 = any(matrix.zero is not None and not matrix.zero.all() for matrix in matrices.values())
    config = {
        "quant_method": "gptq",
        "bits": first.bits,
        "group_size": _group_size(matrices),
        "desc_act": False,
        "sym": first.zero is None,
        "checkpoint_format": "gptq_v2" if version_2 else "gptq",
    }
    parts = {name: _parts(matrix, 0 if version_2 else 1) for name, matrix in matrices.items()}
    write_checkpoint(path, parts, config, unquantized, metadata, progress)


def _is_one_group(matrix: IntegerMatrix) -> bool:
    """Whether a row has one group, which a longer length of groups describes as well."""
    return matrix.group_size <= 0 or matrix.group_size >= matrix.integers.shape[1]


def _group_size(matrices: dict[str, IntegerMatrix]) -> int:
    """Columns of a group, the most where they differ; −1 if all rows have one."""
    return max((m.group_size for m in matrices.values() if not _is_one_group(m)), default=-1)


def _require_one(matrices: dict[str, IntegerMatrix]) -> None:
    """Refuse weights that one configuration does not describe."""
    size = _group_size(matrices)
    first, one = next(iter(matrices.items()))
    for name, m in matrices.items():
        fits = m.group_size == size or (_is_one_group(m) and (size < 0 or m.integers.shape[1] <= size))
        if not fits or m.bits != one.bits or (m.zero is None) != (one.zero is None):
            columns = m.integers.shape[1]
            raise ValueError(
                f"{WHAT} holds one number of bits, one length of groups, and zero points for all weights or none, but "
                f"{first!r} is in {one.format.name} and {name!r}, with {columns} columns, in {m.format.name}: quantize "
                "all in one format, with groups that are no longer than a row."
            )


def _matrix(name: str, tensor: QuantizedTensor) -> IntegerMatrix:
    """A matrix whose rows and columns fill whole words."""
    matrix = integer_matrix(name, tensor, WHAT)
    rows, columns = matrix.integers.shape
    if matrix.bits not in BITS or rows * matrix.bits % WORD or columns * matrix.bits % WORD:
        raise ValueError(
            f"rows and columns in {WHAT} fill whole words of {WORD} bits, but {name!r} has {rows} × {columns} of "
            f"{matrix.bits} bits: leave it out of nbquant.select(model, layers=…)."
        )
    return matrix


def _parts(matrix: IntegerMatrix, less: int) -> list[StoredPart]:
    (rows, columns), bits = matrix.integers.shape, matrix.bits
    scale = np.broadcast_to(matrix.scale, (rows, matrix.scale.shape[1])).T
    half = np.full(scale.shape, 1 << bits - 1, np.uint8)
    zero = half if matrix.zero is None else np.broadcast_to(matrix.zero, scale.shape[::-1]).T
    with np.errstate(over="ignore"):
        short = scale.astype("<f2")
    exact = bool((short == scale).all())
    group = np.arange(columns, dtype="<i4") // (columns // len(scale))
    layer = matrix.layer
    return [
        StoredPart(f"{layer}qweight", "I32", pack_stream(matrix.integers, bits).T),
        StoredPart(f"{layer}qzeros", "I32", pack_stream(np.ascontiguousarray(zero - np.uint8(less)), bits)),
        StoredPart(f"{layer}scales", "F16" if exact else "F32", short if exact else scale),
        StoredPart(f"{layer}g_idx", "I32", group),
    ]
