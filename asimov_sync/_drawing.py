"""Calls `asimov_sync.display`, which draws graphs, results, reports and progress, from the layers
below it.

The one file that loads a part of a higher layer. It does so by name and on first use, so that
programs which draw nothing do not load it.
"""

from importlib import import_module
from typing import Any, Callable

__all__ = ["draw", "draw_progress"]


def draw(function: str, *args: Any, **kwargs: Any) -> str:
    """Call a function of `asimov_sync.display.methods` by its name, and return the text."""
    methods = import_module("asimov_sync.display.methods")
    text: str = getattr(methods, function)(*args, **kwargs)
    return text


def draw_progress(snapshot: Callable[[], Any], hint: str) -> Any:
    """Return a context manager that draws the progress of a run: `display.progress.Progress`."""
    return import_module("asimov_sync.display.progress").Progress(snapshot, hint)
