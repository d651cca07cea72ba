"""Short tracebacks after Ctrl-C: without the frames of the library and of the network."""

import os
import re
from types import TracebackType
from typing import Optional, Type

__all__ = ["shorten_traceback", "short_interrupts"]

LIBRARIES = frozenset(["asimov_sync", "boto3", "botocore", "requests", "tenacity", "urllib3"])
"""The packages whose frames do not say where the user's program was interrupted."""

STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


def shorten_traceback(interrupt: BaseException) -> None:
    """Cut the frames below that of the caller, unless code of others is among them.

    interrupt: a KeyboardInterrupt that the caller has caught.
    """
    traceback = interrupt.__traceback__
    if traceback is None or not _are_internal(traceback.tb_next):
        return
    traceback.tb_next = None
    context = interrupt.__context__
    # An exception that the library has handled, such as urllib3's own for older Pythons.
    while context is not None and _are_internal(context.__traceback__):
        context = context.__context__
    interrupt.__context__ = context


class ShortInterrupts:
    """Shortens the traceback of a KeyboardInterrupt that leaves the `with` block."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            shorten_traceback(error)


short_interrupts = ShortInterrupts()
"""For `with short_interrupts:`. It has no state."""


def _are_internal(traceback: Optional[TracebackType]) -> bool:
    """Return whether all frames belong to this library, to those below it, or to Python's own."""
    while traceback is not None:
        frame = traceback.tb_frame
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        file = frame.f_code.co_filename
        installed = re.search(r"[\\/](site|dist)-packages[\\/]", file)
        of_python = file.startswith((STANDARD_LIBRARY, "<frozen ")) and not installed
        if package not in LIBRARIES and not of_python:
            return False
        traceback = traceback.tb_next
    return True
