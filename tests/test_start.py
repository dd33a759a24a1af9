"""What is imported when nbquant starts, and that names imported on first use are there like any others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nbquant as nq

START = """
import pickle, sys
LATER = ["torch", "numpy", "scipy", "pandas", "plotly", "numba", "matplotlib", "safetensors", "ipywidgets", "anywidget",
         "traitlets", "IPython", "nbformat", "jaxtyping", "tqdm", "rich", "dask", "distributed", "sympy"]
def loaded():
    return [name for name in LATER if name in sys.modules]

import nbquant as nq
assert not loaded(), loaded()
names = dir(nq)
assert set(nq.__all__) < set(names) and "__version__" in names and not loaded(), loaded()

from nbquant.cli import main
for arguments in (["--help"], ["--version"], ["explore", "--help"]):
    sys.argv = ["nbquant", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    assert not loaded(), (arguments, loaded())

from nbquant.sensitivity import sensitivity  # the folder, of the same name as its function
assert nq.sensitivity is sensitivity
unlike = set(nq.__all__) - {name for name in nq.__all__ if getattr(nq, name).__name__.split(".")[-1] == name}
assert not unlike, unlike
assert nq.plot.histogram and nq.zoo.names() and nq.course.check
assert pickle.loads(pickle.dumps(nq.KMeans(4))) == nq.KMeans(4)
assert pickle.loads(pickle.dumps(nq.fit)) is nq.fit
assert "matplotlib.pyplot" not in sys.modules

everything = {}
exec("from nbquant import *", everything)
assert set(nq.__all__) == everything.keys() - {"__builtins__"}
"""


def test_nothing_is_imported_before_it_is_used():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "inspect" in done.stdout
    assert nq.__version__ in done.stdout


def test_type_checkers_see_the_names_that_there_are():
    tree = ast.parse(Path(nq.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            path = f"{node.module}.{alias.name}"
            seen[alias.name] = path if path in nq._HOMES.values() else node.module
    assert seen == nq._HOMES
    assert sorted(seen) == sorted(nq.__all__)


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        _ = nq.quantise
    with pytest.raises(ImportError, match="quantise"):
        from nbquant import quantise  # noqa: F401
