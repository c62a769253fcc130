"""How Sphinx builds the documentation: `sphinx-build -W --keep-going -n docs docs/_build/html`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import multinorm_optax  # noqa: E402

project = "multinorm_optax"
author = "the multinorm_optax authors"
copyright = author
version = release = multinorm_optax.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "myst_nb",
    "docstrings",  # and those of docs/extensions
    "mathml",
    "notebooks",
    "results",
    "symbols",
]
exclude_patterns = ["_build", "extensions", "pictures"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"multinorm_optax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
smartquotes_action = "D"  # dashes; docstrings write (..., in, out)
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from a server elsewhere

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 68

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!multinorm_optax\.).*")]  # other projects' symbols
