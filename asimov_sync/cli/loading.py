"""Loads the scheduler that an argument names, as `module:name`."""

import importlib
import os
import sys
from typing import Any

from asimov_sync.scheduler import TaskScheduler

__all__ = ["UsageError", "load_scheduler"]


class UsageError(Exception):
    """An argument is wrong. The message is for the user, without a traceback."""


def load_scheduler(path: str) -> TaskScheduler:
    """Import the scheduler that `module:name` names. Modules of the current folder are found.

    Raises UsageError if there is no such scheduler, and what the module itself raises.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".") + name.split(".")):
        raise UsageError(
            f"{path!r} does not name a scheduler: write module:name, such as myapp.tasks:scheduler"
        )
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # a module that this one imports
        raise UsageError(
            f"there is no module {error.name!r} in {folder} or on the path of Python"
        ) from None
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise UsageError(f"{module_name} has no {name!r}") from None
    if not isinstance(value, TaskScheduler):
        raise UsageError(f"{path} is {value!r}, not a TaskScheduler")
    return value
