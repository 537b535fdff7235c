"""The documentation site: Sphinx, MyST notebooks executed at every build, nothing that needs a network."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices: more threads wait for each other
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE / "course"), str(HERE.parent), os.environ.get("PYTHONPATH", "")])

import constraint_algebra  # noqa: E402 -- after the path

project = "constraint-algebra"
author = "the authors of constraint-algebra"
project_copyright = "MIT licence"
release = version = constraint_algebra.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
extensions += ["plain_docstrings", "mathml", "room", "encrypted_kernels"]  # of _extensions
exclude_patterns = ["_build", "site", "_extensions"]
nitpicky = True  # a reference that leads nowhere is an error

# Lessons and guides: run at every build, no output kept.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
logging.getLogger("traitlets").setLevel(logging.WARNING)  # a package of the theme shows all that Jupyter logs
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # docstrings say shapes and units
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

# A button copies code, without prompts and without what it prints.
copybutton_selector = "div:not(.output) > div.highlight pre"
copybutton_exclude = ".linenos, .gp, .go"
copybutton_copy_empty_lines = False

html_theme = "furo"
html_title = "constraint-algebra"
html_extra_path = ["site"]  # holds explorer/, copied as it is
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

# Words that napoleon takes for types, and those of other projects, whose pages are elsewhere. Our own names must exist.
nitpick_ignore_regex = [(r"py:(class|exc)", r"(?!constraint_algebra)[\s\S]*")]
