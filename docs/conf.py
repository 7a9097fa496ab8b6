"""Sphinx's settings for the book: `make docs-site`. Nothing in the pages is fetched from elsewhere."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import gramian

project = "gramian"
author = "The gramian developers"
copyright = author
release = version = gramian.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb", "book"]
exclude_patterns = ["_build", "jupyter_execute"]
suppress_warnings = ["myst.header"]  # pages whose tables are generated begin them at the third level
root_doc = "index"

html_theme = "pydata_sphinx_theme"
html_title = f"gramian {release}"
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_sidebars = {name: [] for name in ("index", "start", "concepts", "glossary")}  # they have no pages below them
html_theme_options = {
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "pygments_light_style": "tango",
    "show_prev_next": True,
}

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of the notebooks: no widgets, whose scripts lie elsewhere

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
