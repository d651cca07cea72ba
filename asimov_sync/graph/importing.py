"""Handlers by importable name: "package.module:attribute".

Such a name stands in a program, as a value of `handlers=`. Nothing that is stored, received or
typed by a user is ever imported.
"""

import importlib
from typing import Any

from asimov_sync._json import format_error
from asimov_sync.errors import GraphError

__all__ = ["find_name_fault", "import_name"]


def find_name_fault(name: str) -> str:
    """Return what is wrong with the form of a name, as the end of a sentence; "" if nothing is."""
    module, colon, attribute = name.partition(":")
    parts = module.split(".") + attribute.split(".")
    if colon and all(part.isidentifier() for part in parts):
        return ""
    return f"is named like 'package.module:function', not {name!r}"


def import_name(name: str) -> Any:
    """Return what an importable name names.

    Raises GraphError if the module cannot be imported or has no such attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except Exception as error:  # a module that is imported may raise anything
        raise GraphError(f"{name!r} cannot be imported: {format_error(error)}") from error
    return value
