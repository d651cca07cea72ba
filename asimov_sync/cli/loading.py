"""Loads the object of a module that an argument names, as `module:name`."""

import importlib
import os
import sys
import traceback
from types import TracebackType
from typing import Any, Optional

from asimov_sync.cli.command import CommandError, UsageError
from asimov_sync.cli.text import escape
from asimov_sync.runs.store import RunStore
from asimov_sync.scheduler import TaskScheduler

__all__ = ["load_object", "load_scheduler", "load_store", "print_user_traceback", "store_of"]

_HIDDEN = (os.path.dirname(__file__), "<frozen importlib")
"""The first characters of the file names of frames that are not shown: ours and the import's."""


def load_object(path: str, kind: str, example: str) -> Any:
    """Import the object that `module:name` names. Modules of the current folder are found.

    kind: the kind of the object, with its article, for messages.
    example: an example of such a path, likewise.

    Raises UsageError if there is no such object, and CommandError if the module cannot be imported;
    its traceback has been printed then.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".") + name.split(".")):
        raise UsageError(f"{path!r} does not name {kind}: write module:name, such as {example}")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    value = _import_module(module_name, folder)
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise UsageError(f"{module_name} has no {name!r}") from None
    return value


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
    """Print an exception of the user's code, without the frames of the command before it."""
    shown: Optional[TracebackType] = error.__traceback__
    while shown is not None and shown.tb_frame.f_code.co_filename.startswith(_HIDDEN):
        shown = shown.tb_next
    lines = traceback.format_exception(type(error), error, shown)
    sys.stderr.write(escape("".join(lines)))


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
