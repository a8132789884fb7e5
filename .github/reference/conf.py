"""The reference of the public API, as Sphinx builds it: one page for each public name, from its docstring.

``.ci/reference`` runs it. The pages are written anew for each build, from the ``__all__`` of the modules in ``FACES``;
a name that several of them show has its page under the first one. A name without a docstring, and a word in a
docstring that should lead to another one and does not, are warnings, which ``.ci/reference`` takes for errors.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as version_of
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils.nodes import Element, TextElement, literal
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import TypeAliasForwardRef
from sphinx.util.logging import getLogger

PACKAGES = ("captum_attn", "shap_attn", "lightning_callbacks")

FACES = {
    "Explain": ("captum_attn", "captum_attn.visualization", "captum_attn.generation"),
    "Measure and doubt": (
        "captum_attn.metrics",
        "captum_attn.comparison",
        "captum_attn.concepts",
        "captum_attn.controls",
    ),
    "SHAP and Lightning": ("shap_attn", "shap_attn.plots", "lightning_callbacks"),
    "Build with it": (
        "captum_attn.methods",
        "captum_attn.functional",
        "captum_attn.core",
        "captum_attn.core.observers",
        "captum_attn.core.propagation",
        "captum_attn.bench",
        "captum_attn.drawing",
        "captum_attn.pages",
    ),
}
"""The public modules, in the order of the front page."""

project = "captum-attn"
version = release = version_of(project)
copyright = "the captum-attn authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = html_show_sphinx = False
default_role = "code"
add_module_names = autosummary_generate = False
toc_object_entries_show_parents = "hide"
autodoc_inherit_docstrings = False
autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    "Inputs": "~captum_attn.methods.Inputs",
    "Target": "~captum_attn.core.Target",
}  # else spelled out
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_use_rtype = False
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(abc|captum|collections|lightning|matplotlib|pathlib|shap|torch|torchmetrics|transformers)\..*")
]

_log = getLogger(__name__)
_homes: dict[tuple[str, int], str] = {}


def write_pages(app: Sphinx) -> None:
    """The front page, one for each public module, and one for each name in it."""
    sys.path.insert(0, str(Path(app.confdir).parents[1]))
    for name in (name for names in FACES.values() for name in names):
        module = import_module(name)
        for public in _names_of(module):
            _homes.setdefault((public, id(getattr(module, public))), f"{name}.{public}")
        _write(app, name, _module_page(module))
    for (public, _), home in _homes.items():
        value = getattr(import_module(home.rpartition(".")[0]), public)
        _write(app, home, _name_page(public, home, value))
    _write(app, "index", _front_page())
    _warn_of_lost_faces()


def doc_as_written(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Data say what they are where they are defined; what stands before a colon is no type; all public names say it."""
    if what == "data":
        lines[:] = _written_below(name.rpartition(".")[2], obj)
    if what in {"attribute", "data", "property"} and lines:
        lines[:1] = lines[0].replace(": ", ":\n", 1).splitlines()
    generated = isinstance(obj, type) and (obj.__doc__ or "").startswith(f"{obj.__name__}(")  # by dataclass
    if name in _homes.values() and (generated or not any(lines)):
        _log.warning("%s has no docstring", name)


def is_theirs(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """What other libraries put into our classes is left out, and fields of named tuples: their class has them."""
    if (obj.__doc__ or "").startswith("Alias for field number"):
        return True
    return True if inspect.isfunction(obj) and not obj.__module__.startswith(PACKAGES) else None


def public_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[type]) -> None:
    """Bases that are not public are passed over for theirs."""
    while hidden := [base for base in bases if base.__module__.startswith(PACKAGES) and not _home(base.__name__, base)]:
        at = bases.index(hidden[0])
        bases[at : at + 1] = [base for base in hidden[0].__bases__ if base not in bases]


def find_elsewhere(app: Sphinx, env: BuildEnvironment, node: Element, words: TextElement) -> Element | None:
    """Where to names lead that are not on the page of a docstring: annotations may lead nowhere, docstrings not."""
    if not isinstance(words, literal):
        return words
    module, _, name = node["reftarget"].rpartition(".")
    value = getattr(sys.modules.get(module), name, None)
    node["refspecific"] = True  # any name that ends so
    target = _home(name, value) or node["reftarget"]
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, words)


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    TypeAliasForwardRef.__repr__ = lambda alias: alias.name.lstrip("~")  # which Sphinx shows of list[Target]
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", doc_as_written, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", is_theirs)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("missing-reference", find_elsewhere)


def _names_of(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return [name for name in names if not inspect.ismodule(getattr(module, name))]


def _front_page() -> Iterator[str]:
    yield from _title(html_title)
    yield "Every public name, from its docstring. The README shows how they are used together."
    for caption, names in FACES.items():
        yield from _title(caption, "-")
        yield from (".. toctree::", f"   :caption: {caption}", "   :hidden:", "", *(f"   {name}" for name in names), "")
        for name in names:
            yield f"- :doc:`{name}`: {_first_line(import_module(name))}"


def _module_page(module: ModuleType) -> Iterator[str]:
    yield from _title(module.__name__)
    yield from (f".. automodule:: {module.__name__}", "", ".. autosummary::", "   :nosignatures:", "")
    for name in _names_of(module):
        home = _homes[name, id(getattr(module, name))]
        yield f"   {name}" if home == f"{module.__name__}.{name}" else f"   ~{home}"


def _name_page(name: str, home: str, value: Any) -> Iterator[str]:
    yield ":orphan:"  # furo would list all names beside each of them
    yield from _title(name)
    yield from (f"In :doc:`{home.rpartition('.')[0]}`.", "")
    yield f".. auto{_kind(value)}:: {home}"
    if _kind(value) == "class":
        theirs = [base for base in value.__mro__ if not base.__module__.startswith(PACKAGES)]
        ours = {name for base in value.__mro__ if base not in theirs for name in vars(base)}
        declared = {name for base in theirs for name in vars(base).get("__annotations__", ())} - ours
        yield from ("   :members:", "   :special-members: __call__", "   :show-inheritance:")
        yield f"   :inherited-members: {', '.join(base.__name__ for base in theirs)}"
        yield f"   :exclude-members: {', '.join(sorted(declared))}"


def _kind(value: Any) -> str:
    return "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"


def _home(name: str, value: Any) -> str | None:
    return _homes.get((name, id(value)))


def _title(text: str, line: str = "=") -> tuple[str, ...]:
    return ("", text, line * len(text), "")


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0]


def _written_below(name: str, value: Any) -> list[str]:
    for module in [*sys.modules.values()]:
        if module.__name__.startswith(PACKAGES) and vars(module).get(name) is value:
            docs = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            if ("", name) in docs:
                return list(docs["", name])
    return []


def _write(app: Sphinx, name: str, lines: Iterator[str]) -> None:
    (Path(app.srcdir) / f"{name}.rst").write_text("\n".join(lines) + "\n")


def _warn_of_lost_faces() -> None:
    listed = {name for names in FACES.values() for name in names}
    for package in PACKAGES:
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if found.ispkg and hasattr(import_module(found.name), "__all__") and found.name not in listed:
                _log.warning("%s has an __all__, but no place on the front page (FACES)", found.name)
