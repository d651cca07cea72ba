"""Configures the documentation site. `tox -e docs` builds it and treats warnings as errors."""

import enum
import functools
import inspect
import pathlib
import re
import sys

import pydantic
from sphinx.util.typing import stringify_annotation

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import asimov_sync  # noqa: E402

for name in asimov_sync.__all__:
    getattr(asimov_sync, name)  # loads every module
import asimov_sync.testing  # noqa: E402

project = "asimov_sync"
author = "The asimov_sync authors"
copyright = author
version = release = asimov_sync.__version__

extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "asimov_sync " + version
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"code-font-size": "81.25%"},
    "dark_css_variables": {"code-font-size": "81.25%"},
}
html_show_copyright = False
html_show_sphinx = False
exclude_patterns = ["_build"]
default_role = "code"
highlight_language = "default"
pygments_style = "default"
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "model_config, model_post_init"}

nitpicky = True
# Types in signatures that no page describes: types of other packages, type variables, and types
# that callers never name.
nitpick_ignore_regex = [("py:.*", r"(?!asimov_sync\.).*")]

PUBLIC_MODULES = [
    "asimov_sync",
    "asimov_sync.testing",
    "asimov_sync.aio",
    "asimov_sync.display",
    "asimov_sync.telemetry",
    "asimov_sync.integrations.celery",
]


def list_parameters(app, what, name, obj, options, lines):
    """Turn each `name: description` in a docstring's paragraph into an item of a list."""
    if lines and lines[0].startswith("Alias for field number"):
        lines[:] = []
    names = parameter_names(obj)
    # Docstrings hold no emphasis: an asterisk outside of backticks belongs to *args or **kwargs.
    text = re.sub(
        r"(`[^`]*`)|(\*+)", lambda match: match[1] or match[2].replace("*", "\\*"), "\n".join(lines)
    )
    if not names or "::" in text:
        lines[:] = text.split("\n")
        return
    any_name = "|".join(map(re.escape, names))
    start = re.compile(rf"(?:^|(?<=[.;] ))((?:{any_name})(?:, (?:{any_name}))*): ")
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        parts = start.split(" ".join(paragraph.split()))
        if len(parts) > 1 and not paragraph.startswith(("- ", "* ", "==")):
            paragraph = parts[0].strip()
            for words, description in zip(parts[1::2], parts[2::2]):
                terms = ", ".join(f"``{word}``" for word in words.split(", "))
                description = description.strip().rstrip(";")
                paragraph += f"\n\n- {terms}: {description}"
        paragraphs.append(paragraph)
    lines[:] = "\n\n".join(paragraphs).split("\n")


TYPE_ALIASES = "Answers AnyTool Approvals Dependencies Messages System When".split()
"""Types with long definitions. Signatures show the names; docs/reference/index.rst defines them."""


@functools.lru_cache(maxsize=None)
def alias_texts():
    """Return (definition as a signature shows it, name) of each type alias, the longest first."""
    texts = []
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("asimov_sync."):
            found = [(vars(module)[name], name) for name in TYPE_ALIASES if name in vars(module)]
            texts += [(stringify_annotation(alias, "smart"), name) for alias, name in found]
    missing = set(TYPE_ALIASES) - {name for _, name in texts}
    if missing:
        raise LookupError(
            f"TYPE_ALIASES in docs/conf.py has names that no module defines: {missing}"
        )
    return sorted(set(texts), key=lambda text: -len(text[0]))


def name_aliases(app, what, name, obj, options, signature, return_annotation):
    """Replace a type alias's definition by its name, and a private object as default by `...`."""
    if signature is None:
        return None
    for text, alias in alias_texts():
        signature = signature.replace(text, alias)
    return signature.replace("<object object>", "..."), return_annotation


def show_fields(app, what, name, obj, options, signature, return_annotation):
    """Show the fields of a pydantic model as its signature, and no signature for an enum."""
    if what != "class" or not inspect.isclass(obj):
        return None
    if issubclass(obj, enum.Enum):
        return "", None
    if not issubclass(obj, pydantic.BaseModel):
        return None
    fields = []
    for field_name, field in obj.model_fields.items():
        annotation = stringify_annotation(field.annotation, "smart")
        text = f"{field_name}: {annotation}"
        if not field.is_required():
            default = field.get_default(call_default_factory=False)
            shown = "..." if field.default_factory else getattr(default, "name", repr(default))
            text += f" = {shown}"
        fields.append(text)
    return f"(*, {', '.join(fields)})", None


def parameter_names(obj):
    """Return the names that a docstring may describe: parameters, fields and attributes."""
    names = set(getattr(obj, "__annotations__", ()))
    function = obj.__init__ if inspect.isclass(obj) else obj
    try:
        names.update(inspect.signature(function).parameters)
        if inspect.isclass(obj):
            names.update(vars(obj))
            names.update(re.findall(r"self\.(\w+)", inspect.getsource(obj)))
    except (TypeError, ValueError, OSError):
        pass
    return sorted(name for name in names if not name.startswith("_"))


def resolve_by_public_name(app, env, node, contnode):
    """Link a type in a signature to its public name, wherever the module that defines it is."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    target = node["reftarget"].rsplit(".", 1)[-1]
    for module in PUBLIC_MODULES:
        full_name = module + "." + target
        if full_name in domain.objects:
            kind = "exc" if domain.objects[full_name].objtype == "exception" else "obj"
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, kind, full_name, node, contnode
            )
    # A type that is not public: its name stands there without a link.
    return contnode if re.match(r"asimov_sync\.\w+\.", node["reftarget"]) else None


def setup(app):
    """Register the hooks."""
    app.connect("autodoc-process-signature", show_fields, priority=400)
    app.connect("autodoc-process-signature", name_aliases)
    app.connect("autodoc-process-docstring", list_parameters)
    app.connect("missing-reference", resolve_by_public_name)
