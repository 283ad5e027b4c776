"""How Sphinx makes the site of these pages (`make docs`). Pages are Markdown that reads well in a repository, too."""

from __future__ import annotations

import re
from typing import Any

import megalith

project = "Megalith"
author = "the authors of Megalith"
release = version = megalith.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_argparse_cli"]
exclude_patterns = ["requirements.txt"]
myst_heading_anchors = 3
# `sh`-like prompts of several hosts, TOML with comments: what a lexer does not know is shown as it is.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"Megalith {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./(?!build/)[^)]*\)")

_COLON = "\ue000"  # A character for private use.


def _without_links_to_sources(_: Any, page: str, text: list[str]) -> None:
    """The site has the pages alone: a link to a source file, which a repository shows, is its words here."""
    if "/" not in page:
        text[0] = _OUTSIDE.sub(r"\1", text[0])


def _without_constructor(_: Any, what: str, name: str, *__: Any) -> tuple[str, None] | None:
    """Of what a machine makes, and nobody else."""
    made = name == "megalith.Machine" or name.startswith("megalith.sync.")
    return ("", None) if what == "class" and made else None


def _hide_colons(_: Any, what: str, *rest: Any) -> None:
    """Napoleon takes what stands before a colon for a type, in the first line of an attribute's docstring."""
    if what in {"attribute", "data", "property"}:
        rest[-1][:] = [line.replace(": ", _COLON) for line in rest[-1]]


def _show_colons(_: Any, *rest: Any) -> None:
    """The other way round, when Napoleon has been there."""
    rest[-1][:] = [line.replace(_COLON, ": ") for line in rest[-1]]


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _without_links_to_sources)
    app.connect("autodoc-process-signature", _without_constructor)
    app.connect("autodoc-process-docstring", _hide_colons, priority=400)  # Napoleon's has 500.
    app.connect("autodoc-process-docstring", _show_colons, priority=600)
    # autodoc lists what dir() does: names that are loaded when they are first asked for must be there.
    vars(megalith).update({name: getattr(megalith, name) for name in megalith.__all__})
