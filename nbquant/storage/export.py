"""Export of quantized models to files of other libraries."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nbquant.formats.gguf_writer import Value
from nbquant.progress import Progress
from nbquant.quantization.quantized import Quantized
from nbquant.required import QUANTIZED, require, require_path
from nbquant.storage.export_compressed_tensors import export_compressed_tensors
from nbquant.storage.export_gguf import export_gguf
from nbquant.storage.export_gptq import export_gptq
from nbquant.storage.export_onnx import export_network, export_onnx
from nbquant.storage.source import UnquantizedTensors, unquantized_of

Metadata = Mapping[str, Value]


@dataclass(frozen=True)
class ExportFormat:
    """A format that models are exported to.

    A new format is one file with its function, and one line here.

    Attributes:
        name: Name of the format.
        ending: Ending of its files.
        write: write(quantized, path, unquantized, metadata, progress) writes a file, or raises ValueError for what the
            format cannot hold.
    """

    name: str
    ending: str
    write: Callable[[Quantized, Path, UnquantizedTensors, dict[str, Value], Progress], None]


EXPORTS = (
    ExportFormat("gguf", ".gguf", export_gguf),
    ExportFormat("onnx", ".onnx", export_onnx),
    ExportFormat("compressed-tensors", ".safetensors", export_compressed_tensors),
    ExportFormat("gptq", ".safetensors", export_gptq),
)
"""All formats; one that is alone with its ending need not be named."""


def export(
    quantized: Quantized,
    path: str | os.PathLike[str],
    model: nn.Module | str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
    metadata: Metadata | None = None,
    network: str | os.PathLike[str] | None = None,
    progress: Progress = True,
) -> None:
    """Write a quantized model to a file that other libraries read.

    Codes and scales are those of the quantization, bit for bit: no weight is rounded again. Other tensors keep their
    type. Names are those of the model.

    "gguf" holds block formats of GGUF: Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, TQ1_0, TQ2_0, MXFP4, NVFP4, for each layer
    the same or another. Programs that expect GGUF's own names, such as llama.cpp, need the tensors renamed. Names that
    are tied to a tensor are left out, and listed in the metadata.

    "onnx" holds int8 to int2, FP8 and MatMulNBits's integers as DequantizeLinear, and codebooks of all other methods as
    Gather. Without ``network``, each tensor is an output of a graph without inputs, under its name. With it, the
    network's own weights are replaced, so that ONNX Runtime computes the quantized network.

    "compressed-tensors" and "gptq" are safetensors files with a configuration, which is written into the config.json
    beside them. The first holds matrices in int2 to int8, with or without zero points, packed, and in FP8 E4M3 by
    channel or tensor; the second integers of one format. Scales are kept in float32, of GPTQ in float16 where that is
    exact; a program that rounds them to another type changes the weights.

    Args:
        quantized: The quantized selection, such as ``nq.fit(selection, "q4_k")``.
        path: The file, ending in .gguf, .onnx or .safetensors, in a folder that exists; an existing one is replaced
            once the new one is complete.
        model: The module or checkpoint path selected from, for the tensors that are not quantized; None if the
            selection is complete, or with ``network``.
        format: "gguf", "onnx", "compressed-tensors" or "gptq"; None: by the ending of the path, if one format has it.
        metadata: Metadata of the file by key, such as {"general.architecture": "llama", "llama.block_count": 30}:
            texts, numbers, truth values, or lists of these.
        network: For "onnx": the path of the model as torch.onnx.export wrote it, with weights under their own names.
        progress: See :data:`nbquant.progress.Progress`; counts tensors.

    Raises:
        ValueError: What the file's format cannot hold, such as another method or block format; another ending; a model
            or network that does not fit.
        TypeError: Arguments of other types.
        OSError: A folder that does not exist, is read-only or full.
        Cancelled: By ``progress``.
    """
    require("quantized", quantized, Quantized, QUANTIZED)
    require_path("path", path)
    path = Path(path)
    found = _format_of(format, path)
    if path.suffix != found.ending:
        raise ValueError(f"the name of the file must end in {found.ending}, but {path.name!r} came: add the ending.")
    quantized.require_whole()
    require("metadata", metadata or {}, Mapping, "must map keys to values", 'pass {"general.architecture": "llama"}')
    for key in metadata or {}:
        require("a key of metadata", key, str, "must be text", 'pass {"general.architecture": "llama"}')
    if network is None:
        found.write(quantized, path, unquantized_of(model, quantized), dict(metadata or {}), progress)
        return
    require_path("network", network)
    if not Path(network).exists():
        raise FileNotFoundError(f"network must be an ONNX model, but there is no file {os.fspath(network)!r}.")
    if found.write is not export_onnx or model is not None:
        raise ValueError(
            "network is the ONNX model whose weights are replaced, and holds all other tensors: write a file that ends "
            "in .onnx, and leave model out."
        )
    export_network(quantized, path, network, dict(metadata or {}), progress)


def _format_of(name: str | None, path: Path) -> ExportFormat:
    found = [each for each in EXPORTS if name == each.name or (name is None and path.suffix == each.ending)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"files that end in {path.suffix} hold several formats: pass format= as one of "
            f"{', '.join(each.name for each in found)}."
        )
    if name is None:
        endings = ", ".join(dict.fromkeys(each.ending for each in EXPORTS))
        raise ValueError(f"the name of the file must end in one of {endings}, but {path.name!r} came: change it.")
    raise ValueError(f"a format of {', '.join(each.name for each in EXPORTS)} is required, but {name!r} came.")
