"""How Sphinx builds the documentation; nothing here needs a network."""

import importlib
import inspect
import os
import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import sktl
from sktl.utils import estimator_checks

HERE = Path(__file__).parent
logger = logging.getLogger(__name__)

project = "sktl"
author = "The sktl developers"
copyright = "The sktl developers"
release = sktl.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "changes", "gallery_header.rst"]
default_role = "literal"
smartquotes = False

autodoc_typehints = "none"  # the docstrings say more
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # the class template lists them
myst_heading_anchors = 3
highlight_options = {"python": {"stripnl": True}}  # doctests in Markdown end in an empty line

html_theme = "pydata_sphinx_theme"
html_title = "sktl"
html_show_sourcelink = False
html_sidebars = {"**": []}
html_theme_options = {
    "footer_end": [],
    "footer_start": ["copyright"],
    "header_links_before_dropdown": 4,
    "logo": {"text": "sktl"},
    "navigation_with_keys": False,
    "show_toc_level": 2,
}

# The examples run in a copy, with a store that is not the user's, and leave nothing behind.
EXAMPLES = HERE / "_build" / "examples"
shutil.rmtree(EXAMPLES, ignore_errors=True)
shutil.copytree(HERE.parent / "examples", EXAMPLES, ignore=shutil.ignore_patterns("out", "__*__"))
shutil.copy(HERE / "gallery_header.rst", EXAMPLES / "GALLERY_HEADER.rst")
os.environ["SKTL_CACHE"] = str(HERE / "_build" / "store")
sphinx_gallery_conf = {
    "download_all_examples": False,
    "examples_dirs": str(EXAMPLES),
    "filename_pattern": r"/plot_",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "write_computation_times": False,
}


class ImageChecks(SphinxDirective):
    """The table of the checks that estimators of pictures pass, read from the code."""

    def run(self):
        names = {None: "all", "transform": "transformers", "predict": "classifiers"}
        lines = ["| check | applies to | meaning |", "|---|---|---|"]
        for needed, check in estimator_checks._CHECKS:
            applies = names.get(needed, f"those with `{needed}`")
            lines.append(f"| `{check.__name__}` | {applies} | {inspect.getdoc(check)} |")
        node = nodes.container()
        self.state.nested_parse(StringList(lines, "image-checks"), 0, node)
        return node.children


def find_top_level_name(app, env, node, contnode):
    """A name that sktl itself hands on is documented there, not in its package."""
    name = node["reftarget"].rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in sktl._HOME:
        return None
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], f"sktl.{name}", node, contnode
    )


def escape_fitted_attributes(app, what, name, obj, options, lines):
    """In the type of a return value, `(n_features_,)` would be taken for a reference."""
    lines[:] = [re.sub(r"(of shape \([^)]*\w)_(?=[,)])", r"\1\\_", line) for line in lines]
    # What is inherited from scikit-learn refers to its glossary.
    lines[:] = [re.sub(r":term:`([^`<]+)`", r"\1", line) for line in lines]


def skip_metadata_requests(app, what, name, obj, skip, options):
    """Methods such as `set_fit_request` are scikit-learn's, with links into its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def check_that_all_is_documented(app, env):
    documented = env.get_domain("py").objects
    for package in [*sktl._PACKAGES, "utils.estimator_checks"]:
        for name in getattr(importlib.import_module(f"sktl.{package}"), "__all__", ()):
            path = f"sktl.{name}" if name in sktl._HOME else f"sktl.{package}.{name}"
            if path not in documented:
                logger.warning("%s is public and not in api.md", path)


def setup(app):
    app.add_directive("image-checks", ImageChecks)
    app.connect("autodoc-skip-member", skip_metadata_requests)
    app.connect("autodoc-process-docstring", escape_fitted_attributes)
    app.connect("missing-reference", find_top_level_name)
    app.connect("env-check-consistency", check_that_all_is_documented)
