"""Exceptions as text: how they are stored, and rebuilt in another process.

Only classes of a fixed table are rebuilt: those of this library and the builtins. A stored name
never decides what is imported or called.
"""

import builtins
import traceback
from typing import Dict, Optional, Type

from asimov_sync import errors
from asimov_sync._json import format_error
from asimov_sync.errors import RemoteError
from asimov_sync.graph.journal import ErrorRecord

__all__ = ["class_name", "describe_exception", "find_class", "rebuild_exception"]

MAX_TRACEBACK = 20000
"""The longest traceback that is kept, in characters. The beginning of a longer one is removed."""


def _table() -> Dict[str, Type[Exception]]:
    table = {}
    for module in (builtins, errors):
        for name, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, Exception):
                table[name] = value
    # They are not made from one message.
    for name in ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError"):
        del table[name]
    for name in ("BaseExceptionGroup", "ExceptionGroup"):
        table.pop(name, None)
    return table


_CLASSES = _table()


def class_name(kind: object) -> Optional[str]:
    """Return the name of a class of the table; None for anything else."""
    return next((name for name, value in _CLASSES.items() if value is kind), None)


def find_class(name: str) -> Optional[Type[Exception]]:
    """Return the class of the table with this name; None without."""
    return _CLASSES.get(name)


def describe_exception(error: BaseException) -> ErrorRecord:
    """Return an exception as text. It may call the `__str__` of its class."""
    line = format_error(error)
    name = type(error).__name__
    message = line[len(name) + 2 :] if line.startswith(f"{name}: ") else line
    if isinstance(error, RemoteError):
        return ErrorRecord(error.type_name, error.message, error.traceback_text)
    if line == name:
        message = ""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        text = "".join(lines)[-MAX_TRACEBACK:]
    except Exception:  # a faulty __str__ of the exception or of one of its causes
        text = ""
    return ErrorRecord(name, message, text)


def rebuild_exception(record: ErrorRecord) -> BaseException:
    """Return the exception that was described: of its own class, or a RemoteError."""
    kind = _CLASSES.get(record.type)
    if kind is not None and not issubclass(kind, RemoteError):
        try:
            return kind(record.message)
        except Exception:  # a class whose constructor wants more
            pass
    error = RemoteError(record.text)
    error.type_name = record.type
    error.message = record.message
    error.traceback_text = record.traceback
    return error
