"""Loads the object of a module that an argument names, as `module:name`."""

import importlib
import os
import sys
import traceback
from types import TracebackType
from typing import Any, Optional, Tuple

import asimov_sync
from asimov_sync.cli.command import CommandError, UsageError
from asimov_sync.cli.text import escape
from asimov_sync.runs.store import RunStore
from asimov_sync.scheduler import TaskScheduler

__all__ = [
    "is_from_user",
    "load_module",
    "load_object",
    "load_scheduler",
    "load_store",
    "print_user_traceback",
    "store_of",
]

_HIDDEN = (os.path.dirname(asimov_sync.__file__) + os.sep, "<frozen importlib")
"""The first characters of the names of files whose frames are hidden: ours, and the import's."""


def load_object(path: str, kind: str, example: str) -> Any:
    """Import the object that `module:name` names. Modules of the current folder are found.

    kind: the kind of the object, with its article, for messages.
    example: an example of such a path, likewise.

    Raises UsageError if there is no such object, and CommandError if the module cannot be imported;
    its traceback has been printed then.
    """
    value, name = load_module(path, kind, example)
    module_name = value.__name__
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise UsageError(f"{module_name} has no {name!r}") from None
    return value


def load_module(path: str, kind: str, example: str) -> Tuple[Any, str]:
    """Import the module of `module:name`, and return it with the name, which is not looked up.

    The parameters and errors are those of `load_object`.
    """
    module_name, _, name = path.partition(":")
    if not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"{path!r} does not name {kind}: write module:name, such as {example}")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return _import_module(module_name, folder), name


def _import_module(name: str, folder: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise UsageError(
                f"there is no module {error.name!r} in {folder} or on the path of Python"
            ) from None
        print_user_traceback(error)  # a module that this one imports
    except Exception as error:
        print_user_traceback(error)
    raise CommandError(f"the module {name} could not be loaded")


def print_user_traceback(error: BaseException) -> None:
    """Print an exception of the user's code, without the frames of this library before it."""
    lines = traceback.format_exception(type(error), error, _find_user_frame(error))
    sys.stderr.write(escape("".join(lines)))


def is_from_user(error: BaseException) -> bool:
    """Return whether an exception was raised by the user's code, or by what it called."""
    return _find_user_frame(error) is not None


def _find_user_frame(error: BaseException) -> Optional[TracebackType]:
    frame: Optional[TracebackType] = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_HIDDEN):
        frame = frame.tb_next
    return frame


def load_scheduler(path: str) -> TaskScheduler:
    """Import the scheduler that `module:name` names. Raises the errors of `load_object`."""
    value = load_object(path, "a scheduler", "myapp.tasks:scheduler")
    if not isinstance(value, TaskScheduler):
        raise UsageError(f"{path} is {value!r}, not a TaskScheduler")
    return value


def load_store(path: str) -> RunStore:
    """Import the store that `module:name` names, or that of a scheduler.

    Raises the errors of `load_object`.
    """
    value = load_object(path, "a scheduler or a store", "myapp.tasks:scheduler")
    if isinstance(value, RunStore):
        return value
    if not isinstance(value, TaskScheduler):
        raise UsageError(f"{path} is {value!r}, not a TaskScheduler or a RunStore")
    return store_of(value, path)


def store_of(scheduler: TaskScheduler, path: str) -> RunStore:
    """Return the store of a scheduler. Raises UsageError if it has none.

    path: the argument that named the scheduler.
    """
    if scheduler.runs is None:
        raise UsageError(f"{path} has no store of runs: TaskScheduler(…, runs=RunStore(…))")
    return scheduler.runs
