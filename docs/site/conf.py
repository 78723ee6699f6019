"""How Sphinx builds the site. docs/build_site.py lays out the sources and starts it."""

import tomllib
from pathlib import Path

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import ddetr_edu

ROOT = Path(__file__).parents[2]  # of the repository, also in build/source, where this is copied
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "ddetr-edu"
author = "The ddetr-edu contributors"
copyright = f"2026, {author}"
release = ddetr_edu.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
root_doc = "index"
default_role = "code"

# Lessons are shown as they are committed; their tests are what runs them.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # the committed outputs hold no state of widgets, so no script is needed
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4

html_static_path = ["_static"]
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "ddetr-edu"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "repository_url": PROJECT["urls"]["Repository"],
    "repository_branch": "main",
    "use_repository_button": True,
    "use_issues_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def setup(app) -> None:
    """Formulas become MathML, which browsers show by themselves, without scripts or fonts."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before napoleon


def mark_code(app, what, name, thing, options, lines: list[str]) -> None:
    """What is indented in a docstring, and is no section, is code."""
    for i in range(len(lines) - 1, 1, -1):
        before = next((line for line in reversed(lines[:i]) if line.strip()), "")
        starts = lines[i].startswith("    ") and not lines[i - 1].strip()
        if starts and not before.startswith(" ") and not before.endswith(":"):
            lines[i:i] = ["::", ""]


def inline_formula(translator, node) -> None:
    translator.body.append(convert(node.astext()))
    raise SkipNode


def displayed_formula(translator, node) -> None:
    formula = convert(node.astext(), display="block")
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode
