"""How Sphinx makes the site: ``make docs``. Nothing is fetched, neither by the build nor by the pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import latex2mathml.converter
from docutils import nodes

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import pictures  # noqa: E402

import gmkern  # noqa: E402

project, author = "gmkern", "the gmkern authors"
copyright = author
version = release = gmkern.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["templates"]
templates_path = ["templates"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "text"  # where a block names none
nitpicky = True
nitpick_ignore_regex = [("py:exc", ".*")]  # the Raises of a docstring are Python's own

autodoc_typehints = "none"  # docstrings say more: shapes, dtypes, units
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_param = napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"gmkern {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sphinx = html_show_copyright = False
html_math_renderer = "mathml"

_INNER = {"bind", "last_atom", "nodes", "packed", "parameters_in", "reach", "remembers", "terms"}
_SECTION = re.compile(r"^(Parameters|Attributes|Returns|Raises|Warns)$")
_ITEM = re.compile(r"^(\S.*?) : (.+)$")
_RESULT = re.compile(r"^(\w+(?: \[[^\]]*\](?: or \[[^\]]*\])*)?)(?:[:;,.]? |(?=\())(.+)$")
_PAGE = re.compile(r"docs/(\w[\w-]*)\.md")
_PICTURE = re.compile(r"^<!-- picture (\w+): (.+?) -->$", flags=re.M | re.S)
_OUTSIDE = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changes.md", "../README.md": "index.md"}
_LITERAL = re.compile(r"(``.+?``|:\w+:`.+?`)")


def plain_docstring(app, what, name, obj, options, lines):
    """Docstrings as they are written, to what napoleon and reStructuredText read.

    "name : text that goes on / in the next line" has no type apart from the text; nor has what is returned, where prose
    says it: "Tensor [N], and more"; | and * stand for themselves; and docs/page.md is a link.
    """
    within, prose, made = False, False, []
    for at, line in enumerate(lines):
        if at + 1 < len(lines) and lines[at + 1].startswith("---"):
            within, prose = bool(_SECTION.match(line)), False
        item = _ITEM.match(line) if within else None
        if at > 1 and lines[at - 2] == "Returns" and not item and not "".join(lines[at + 1 : at + 2]).startswith(" "):
            item = _RESULT.match(line)
            prose = bool(item)
        elif prose:
            item, line = None, "    " + line if line else line
        made += [item[1], "    " + item[2]] if item else [line]
    lines[:] = [line if line.lstrip().startswith(">>>") else _marked(line) for line in made]


def _marked(line):
    indent = line[: len(line) - len(line.lstrip())]
    words = _LITERAL.split(line.lstrip())
    for at in range(0, len(words), 2):  # between literals and roles
        text = re.sub(r"\||(?<!^)\*", r"\\\g<0>", words[at])  # but not a bullet
        words[at] = _PAGE.sub(r":doc:`\1 </\1>`", text)
    return indent + "".join(words)


def leave_out(app, what, name, obj, skip, options):
    """Fields of a named tuple are described with the tuple; and some methods are for the house alone."""
    is_alias = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if is_alias or name in _INNER else None


def complete_page(app, docname, source):
    """A comment "picture NAME: caption" becomes that picture, for light pages and dark: code hosts show neither. And
    links to the pages outside docs/ lead to their copies on the site."""

    def figure(found):
        caption = " ".join(found[2].split())
        alt = re.sub(r"[*`]", "", caption)
        return "\n\n".join(
            f"```{{figure}} /pictures/{found[1]}-{theme}.png\n:figclass: only-{theme}\n:alt: {alt}\n\n{caption}\n```"
            for theme in ("light", "dark")
        )

    source[0] = _PICTURE.sub(figure, source[0])
    for outside, page in _OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside})", f"]({page})")


def visit_math(self, node):
    self.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def visit_display(self, node):
    self.body.append(f'<div class="math">{latex2mathml.converter.convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_display, None))
    app.connect("builder-inited", lambda app: pictures.draw(DOCS))
    app.connect("source-read", complete_page)
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)  # before napoleon's
    app.connect("autodoc-skip-member", leave_out)
    return {"parallel_read_safe": True}
