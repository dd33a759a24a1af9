"""See, understand and choose neural-network weight quantization in a Jupyter notebook."""

from nbquant import course, plot
from nbquant.analysis.bounds import rate_distortion_bound
from nbquant.analysis.curves import curves
from nbquant.analysis.decomposition import decompose
from nbquant.analysis.fit import fit
from nbquant.analysis.ladder import ladder
from nbquant.analysis.price import price
from nbquant.analysis.sweep import sweep
from nbquant.models import zoo
from nbquant.models.evaluate import evaluate
from nbquant.models.ranks import gather_quantized
from nbquant.models.select import select
from nbquant.pipeline.finetune import finetune
from nbquant.pipeline.prune import prune
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
from nbquant.storage.stored import load
from nbquant.storage.write import save
from nbquant.version import VERSION
from nbquant.widgets.view.explorer import explore

__version__ = VERSION

__all__ = [
    "ECSQ",
    "CorruptFileError",
    "Feedback",
    "KMeans",
    "Trellis",
    "Uniform",
    "average_sensitivity",
    "calibrate",
    "course",
    "curves",
    "decompose",
    "decompress",
    "evaluate",
    "explore",
    "finetune",
    "fit",
    "gather_quantized",
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
    "zoo",
]
