"""The site of `make docs`: API reference from docstrings, and the notebooks as they are, not run."""

import shutil
import sys
from pathlib import Path

import nbquant

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference import api_page  # noqa: E402

(HERE / "api.md").write_text(api_page(), encoding="utf-8")
# Sphinx reads one folder: the notebooks come into it for a build.
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))

project = "nbquant"
author = "The nbquant developers"
version = release = nbquant.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["site", "jupyter_execute"]
html_theme = "furo"
nb_execution_mode = "off"
myst_heading_anchors = 2  # notebooks link to the glossary
myst_enable_extensions = ["dollarmath", "amsmath"]
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
