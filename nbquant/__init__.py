"""See, understand and choose neural-network weight quantization in a Jupyter notebook.

A public name is imported on first use, so that nobody waits for what is not used; type checkers and editors read the
imports below. By hand, since lazy_loader finds the folder ``sensitivity`` where its function is meant.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nbquant.version import VERSION

if TYPE_CHECKING:
    from nbquant import course, plot
    from nbquant.analysis.bounds import rate_distortion_bound
    from nbquant.analysis.curves import curves
    from nbquant.analysis.decomposition import decompose
    from nbquant.analysis.fit import fit
    from nbquant.analysis.format_comparison import compare_formats
    from nbquant.analysis.inspection import inspect
    from nbquant.analysis.ladder import ladder
    from nbquant.analysis.price import price
    from nbquant.analysis.sweep import sweep
    from nbquant.analysis.waterfilling import waterfilling
    from nbquant.models import zoo
    from nbquant.models.evaluate import evaluate
    from nbquant.models.ranks import gather_quantized
    from nbquant.models.select import select
    from nbquant.pipeline.finetune import finetune
    from nbquant.pipeline.prune import prune
    from nbquant.quantization.block_quantizer import BlockQuantizer
    from nbquant.quantization.ecsq import ECSQ
    from nbquant.quantization.feedback import Feedback
    from nbquant.quantization.kmeans import KMeans
    from nbquant.quantization.trellis import Trellis
    from nbquant.quantization.uniform import Uniform
    from nbquant.sensitivity.calibration import calibrate
    from nbquant.sensitivity.estimate import sensitivity
    from nbquant.sensitivity.files import load_sensitivity, save_sensitivity
    from nbquant.sensitivity.ranks import average_sensitivity
    from nbquant.storage.decompress import decompress
    from nbquant.storage.errors import CorruptFileError
    from nbquant.storage.export import export
    from nbquant.storage.stored import load
    from nbquant.storage.write import save
    from nbquant.widgets.view.explorer import explore
    from nbquant.widgets.view.export import export_html

__version__ = VERSION

__all__ = [
    "ECSQ",
    "BlockQuantizer",
    "CorruptFileError",
    "Feedback",
    "KMeans",
    "Trellis",
    "Uniform",
    "average_sensitivity",
    "calibrate",
    "compare_formats",
    "course",
    "curves",
    "decompose",
    "decompress",
    "evaluate",
    "explore",
    "export",
    "export_html",
    "finetune",
    "fit",
    "gather_quantized",
    "inspect",
    "ladder",
    "load",
    "load_sensitivity",
    "plot",
    "price",
    "prune",
    "rate_distortion_bound",
    "save",
    "save_sensitivity",
    "select",
    "sensitivity",
    "sweep",
    "waterfilling",
    "zoo",
]

# The module of each public name, or the module that it is.
_HOMES = {
    "BlockQuantizer": "nbquant.quantization.block_quantizer",
    "ECSQ": "nbquant.quantization.ecsq",
    "CorruptFileError": "nbquant.storage.errors",
    "Feedback": "nbquant.quantization.feedback",
    "KMeans": "nbquant.quantization.kmeans",
    "Trellis": "nbquant.quantization.trellis",
    "Uniform": "nbquant.quantization.uniform",
    "average_sensitivity": "nbquant.sensitivity.ranks",
    "calibrate": "nbquant.sensitivity.calibration",
    "compare_formats": "nbquant.analysis.format_comparison",
    "course": "nbquant.course",
    "curves": "nbquant.analysis.curves",
    "decompose": "nbquant.analysis.decomposition",
    "decompress": "nbquant.storage.decompress",
    "evaluate": "nbquant.models.evaluate",
    "explore": "nbquant.widgets.view.explorer",
    "export": "nbquant.storage.export",
    "export_html": "nbquant.widgets.view.export",
    "finetune": "nbquant.pipeline.finetune",
    "fit": "nbquant.analysis.fit",
    "gather_quantized": "nbquant.models.ranks",
    "inspect": "nbquant.analysis.inspection",
    "ladder": "nbquant.analysis.ladder",
    "load": "nbquant.storage.stored",
    "load_sensitivity": "nbquant.sensitivity.files",
    "plot": "nbquant.plot",
    "price": "nbquant.analysis.price",
    "prune": "nbquant.pipeline.prune",
    "rate_distortion_bound": "nbquant.analysis.bounds",
    "save": "nbquant.storage.write",
    "save_sensitivity": "nbquant.sensitivity.files",
    "select": "nbquant.models.select",
    "sensitivity": "nbquant.sensitivity.estimate",
    "sweep": "nbquant.analysis.sweep",
    "waterfilling": "nbquant.analysis.waterfilling",
    "zoo": "nbquant.models.zoo",
}


class _Package(ModuleType):
    """A module whose public names are not hidden by folders of the same name, once those are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(_HOMES[name])
        value = globals()[name] = getattr(home, name, home)
        return value
