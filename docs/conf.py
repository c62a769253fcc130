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
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxcontrib.katex",
    "myst_nb",
    "docstrings",  # and those of docs/extensions
    "notebooks",
    "results",
    "symbols",
]
exclude_patterns = ["_build", "_static", "extensions", "inventories", "pictures"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"multinorm_optax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["sidebar.js"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
smartquotes_action = "D"  # dashes; docstrings write (..., in, out)
html_theme_options = {"navigation_with_keys": True}

html_math_renderer = "katex"
katex_css_path = "katex/katex.min.css"  # of the version whose script sphinxcontrib.katex brings
katex_options = "strict: true, throwOnError: false"

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
python_maximum_signature_line_length = 68

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The lists of other projects' names lie here, so that a build needs no network.
intersphinx_mapping = {
    name: (f"https://{address}", f"inventories/{name}.txt")
    for name, address in {
        "flax": "flax.readthedocs.io/en/latest",
        "jax": "docs.jax.dev/en/latest",
        "optax": "optax.readthedocs.io/en/latest",
    }.items()
}

nitpicky = True
