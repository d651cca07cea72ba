"""Calls `asimov_sync.display`, which draws graphs, results and reports, from the layers below it.

The one file that loads a part of a higher layer. It does so by name and on first use, so that
programs which draw nothing do not load it.
"""

from importlib import import_module
from typing import Any

__all__ = ["draw"]


def draw(function: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of `asimov_sync.display` by its name, and return what it returns."""
    return getattr(import_module("asimov_sync.display"), function)(*args, **kwargs)
