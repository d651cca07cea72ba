"""What an error is called in a span: a word of which there are few."""

import re

from asimov_sync.errors import InferenceError

__all__ = ["error_type"]


def error_type(error: BaseException) -> str:
    """The provider's own word for it, where it is one; else the full name of the exception's class."""
    if isinstance(error, InferenceError) and re.match(r"[A-Za-z][A-Za-z0-9_.]{0,63}\Z", error.error_type or ""):
        return str(error.error_type)
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else "{}.{}".format(kind.__module__, kind.__qualname__)
