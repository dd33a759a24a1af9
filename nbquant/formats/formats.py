"""The one list of formats of checkpoints."""

from pathlib import Path

from nbquant.formats.format import Format
from nbquant.formats.safetensors import INDEX, SAFETENSORS
from nbquant.tensorfile import TensorFile, refuse_pickle

FORMATS: tuple[Format, ...] = (SAFETENSORS,)
"""All formats; the first that knows a path opens it. Look at ``formats.FORMATS``, so that additions are seen."""

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


def open_files(path: Path) -> dict[str, TensorFile]:
    """Open a checkpoint: the file of each tensor, in the checkpoint's order.

    Raises:
        ValueError: Another kind of file (says how to make one that can be read), or one that is damaged.
        OSError: Something is not there or cannot be read.
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
