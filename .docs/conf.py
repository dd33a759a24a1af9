"""The site of `make docs`: API by task, API reference from docstrings, the course and the explorer.

Notebooks are shown with the still pictures that are committed in them. These are from full runs, as are the numbers of
the texts, and the site builds in a minute. Printed lines and tables are not committed: `make docs EXECUTE=1` runs every
notebook in full and shows all outputs. That takes half an hour the first time; a notebook whose cells have not changed
is not run again (`.docs/.jupyter_cache` keeps its outputs). With NBQUANT_FAST=1 it takes less, but then numbers and
pictures differ from the texts.

The site needs no network. Equations are drawn by MathJax 3, one script without fonts, from the package
sphinx-mathjax-offline. Every page opens from the disk. So does the search, which shows excerpts only from a server.
"""

import importlib.util
import sys
from pathlib import Path

import nbquant

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from course import copy_notebooks  # noqa: E402
from reference import api_page  # noqa: E402

(HERE / "api.md").write_text(api_page(), encoding="utf-8")
# Sphinx reads one folder: the notebooks come into it for a build.
copy_notebooks(HERE.parent / "notebooks", HERE / "notebooks")

project = "nbquant"
author = "The nbquant developers"
version = release = nbquant.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.githubpages",  # folders whose names begin with an underscore are served too
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
]
exclude_patterns = ["site", "jupyter_execute", ".jupyter_cache"]
html_theme = "furo"
html_title = f"nbquant {release}"
html_show_copyright = False
html_css_files = ["site.css"]

_mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
if _mathjax is None:
    raise ModuleNotFoundError(
        "The site needs the package sphinx-mathjax-offline for its equations: pip install 'nbquant[docs]'"
    )
html_static_path = ["site.css", str(Path(_mathjax.origin).parent / "static" / "mathjax" / "tex-svg.js")]
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would load more scripts

nb_execution_mode = "off"
nb_execution_timeout = 600  # seconds a cell
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_cache_path = str(HERE / ".jupyter_cache")
nb_ipywidgets_js = {}  # course.py leaves widgets out; their scripts would come from the network
myst_heading_anchors = 2  # notebooks link to the glossary
myst_enable_extensions = ["dollarmath", "amsmath"]
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
