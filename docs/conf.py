"""How the site is built: `make docs`, strictly, so that a link or name that leads nowhere fails.

Nothing is fetched, neither while building nor by the pages: system fonts, formulas as MathML.
"""

import sys
from pathlib import Path

from gradevo import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "gradevo"
author = "the authors of gradevo"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "results/raw"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings are checked as well
suppress_warnings = ["myst.header"]  # pages of results begin their tables one level down

default_role = "code"  # single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpick_ignore_regex = [  # other people's names, whose pages are not fetched
    ("py:.*", r"(torch|numpy|collections|contextlib|pathlib|datetime|typing)(\..*)?"),
    ("py:class", r"(lightning|L)\..*"),
    ("py:class", r"gradevo\.problem\.Problem"),  # what algorithms work on: read its source
    ("py:class", r"dict\[str"),  # Sphinx reads the arguments of a Callable up to the first comma
]

html_theme = "furo"
html_title = f"gradevo {__version__}"
html_copy_source = False
html_math_renderer = "mathml"
