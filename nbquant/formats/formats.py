"""Registry of checkpoint formats."""

from pathlib import Path

from nbquant.formats.format import Format
from nbquant.formats.safetensors import INDEX, SAFETENSORS
from nbquant.tensorfile import TensorFile, refuse_pickle

FORMATS: tuple[Format, ...] = (SAFETENSORS,)
"""All formats; the first that recognises a path opens it. Read as ``formats.FORMATS``, so that additions are seen."""

_CONVERT = (
    "load the weights with the program that wrote them, save them by safetensors.torch.save_file({name: tensor}, …) "
    "and pass that file, or pass a torch.nn.Module."
)
_WRITE = "save them by safetensors.torch.save_file({name: torch.tensor(array)}, …) and pass that file."
_CONVERTED = (
    (
        ".gguf",
        "nbquant.inspect shows what it holds; to quantize again, load it in transformers by "
        "AutoModel.from_pretrained(folder, gguf_file=…), and pass the module.",
    ),
    (".onnx", f"read graph.initializer with onnx.load and onnx.numpy_helper.to_array, {_WRITE}"),
    ((".h5", ".hdf5", ".keras"), f"read the arrays with Keras (model.get_weights()) or h5py, {_WRITE}"),
    ((".npz", ".npy"), f"read the arrays with numpy.load, {_WRITE}"),
    (".nbq", "it is already quantized: nbquant.load opens it, and nbquant.decompress makes a .safetensors file of it."),
)  # fmt: skip
"""How to convert other kinds of files to safetensors, by file name ending."""


def open_files(path: Path) -> dict[str, TensorFile]:
    """Open a checkpoint; returns the file of each tensor, in the checkpoint's order.

    Raises:
        ValueError: Another kind of file (says how to convert it), or a damaged one.
        OSError: A file that does not exist or cannot be read.
    """
    refuse_pickle(path)
    for known in FORMATS:
        if known.sniff(path):
            return known.open(path)
    advice = next((a for ends, a in _CONVERTED if path.name.lower().endswith(ends)), _CONVERT)
    others = "".join(f", a {known.name} file" for known in FORMATS[1:])
    raise ValueError(
        f"a .safetensors file, a *{INDEX}{others} or a folder with one of these is required, but {str(path)!r} came: "
        f"{advice}"
    )
