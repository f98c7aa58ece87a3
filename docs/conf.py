"""The documentation site, made by Sphinx from the Markdown files in this folder; `.ci/docs` builds it.

The files are plain Markdown. Three conventions make a site of them:

- docs/index.md is the navigation: a page belongs to the site once a list there links to it.
- In docs/api.md, a heading that names a module is followed by the docstrings of the module's public names.
- Docstrings are text with `code` in backticks and sections in Google's style, not reStructuredText.
"""

import importlib
import re
from collections.abc import Iterator
from importlib.metadata import version as version_of
from types import ModuleType
from typing import Any

import transformer.config
from transformer.config.bounds import Bound

project = "transformer-jax"
version = release = version_of(project)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
myst_heading_anchors = 3
default_role = "literal"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has the types
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # flax's docstring of `setup` is about flax
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True

_COLON = "\ue000"  # a character that no docstring has

# A field's bounds are shown by their words; by default they would be shown as the address of a function.
Bound.__repr__ = lambda self: f"'{self.words}'"


def setup(app: Any) -> None:
    """Connects the conventions with Sphinx."""
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _to_restructured_text, priority=400)  # before napoleon's, 500
    app.connect("autodoc-process-docstring", _restore_colons, priority=600)
    app.connect("autodoc-skip-member", _skip_types)
    app.connect("autodoc-process-signature", _shorten)


def _read_source(app: Any, page: str, content: list[str]) -> None:
    """Adds to a page what the site needs and Markdown has no word for."""
    if page == "index":
        content[0] = "".join(_with_navigation(content[0]))
    elif page == "api":
        content[0] = "".join(_with_docstrings(content[0]))
    # What is not in this folder has no page: its name is shown without a link.
    content[0] = re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", content[0])


def _with_navigation(text: str) -> Iterator[str]:
    """The text, each section followed by a hidden table of contents of the pages that it links to."""
    for section in re.split(r"(?m)^(?=## )", text):
        yield section
        title, pages = section.partition("\n")[0].strip("# "), re.findall(r"(?m)^- \[[^]]+\]\((\S+)\.md\)", section)
        if pages:
            yield "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", "", ""])


def _with_docstrings(text: str) -> Iterator[str]:
    """The text, each section whose heading names a module followed by the module's documentation."""
    for section in re.split(r"(?m)^(?=## )", text):
        yield section
        if named := re.match(r"## `([\w.]+)`", section):
            options = [f"   {option}" for option in _options(importlib.import_module(named[1]))]
            yield "\n".join(["", "```{eval-rst}", f".. automodule:: {named[1]}", *options, "```", "", ""])


def _options(module: ModuleType) -> Iterator[str]:
    """What is shown of a module: its public names, wherever they are defined, except submodules."""
    yield ":members:"
    if hasattr(module, "__all__"):
        yield ":imported-members:"
        other = set(transformer.config.__all__) if module is transformer else set()
        hidden = [name for name in module.__all__ if name in other or isinstance(getattr(module, name), ModuleType)]
        if hidden:
            yield f":exclude-members: {', '.join(hidden)}"


def _to_restructured_text(app: Any, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring: indented blocks are literal, and characters of markup are escaped."""
    text = "\n".join(_with_literal_blocks([*_with_attributes(lines)]))
    parts = re.split(r"(`[^`]*`|(?m:^::\n(?:\n| .*(?:\n|$))*))", text)
    escaped = [part if index % 2 else re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part) for index, part in enumerate(parts)]
    lines[:] = "".join(escaped).split("\n")
    if lines[0].startswith("Alias for field number"):  # of a named tuple; the type is what it says
        lines.clear()
    if what in {"attribute", "data", "property"}:  # napoleon takes what comes before a colon for the type
        lines[:] = [line.replace(":", _COLON) for line in lines]


def _restore_colons(app: Any, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Undoes what `_to_restructured_text` did to keep a colon from napoleon."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _skip_types(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out fields whose default is a type: autodoc would show them as another name for it."""
    return True if what == "class" and isinstance(member, type) and member.__name__ != name else None


def _with_attributes(lines: list[str]) -> Iterator[str]:
    """The lines, with a list of `name: meaning` at their margin made a section of attributes."""
    inside, before = False, ""
    for line in lines:
        if not line.strip():
            inside = False
        elif not before.strip() and re.match(r"[a-z_]+: ", line):
            inside = True
            yield "Attributes:"
        yield f"    {line}" if inside else line
        before = line


def _with_literal_blocks(lines: list[str]) -> Iterator[str]:
    """The lines, with `::` before each indented block that begins after an empty line."""
    for number, line in enumerate(lines):
        before = lines[max(number - 2, 0) : number]
        begins = len(before) == 2 and not before[1].strip() and before[0][:1].strip() and line.startswith("    ")
        if begins:
            yield "::"
            yield ""
        yield line


def _shorten(
    app: Any, what: str, name: str, member: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Writes types as the code does, and leaves out the arguments that flax adds to every module."""

    def short(text: str | None) -> str | None:
        if text is None:
            return None
        text = re.sub(r", parent: .*_Sentinel object.*?>, name: str \| None = None", "", text)
        return re.sub(r"<class '([\w.]+)'>", r"\1", re.sub(r"\b(?:jaxlib\._jax|jax)\.Array\b", "Array", text))

    return short(signature), short(returned)
