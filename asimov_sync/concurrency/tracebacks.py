"""Short tracebacks: without the frames of the library and of the network."""

import os
import re
from types import TracebackType
from typing import Optional, Type

from asimov_sync.errors import AsimovError

__all__ = ["remove_outer_frames", "shorten_traceback", "short_tracebacks"]

LIBRARIES = frozenset(["asimov_sync", "boto3", "botocore", "requests", "tenacity", "urllib3"])
"""The packages whose frames do not say where the program of the user failed."""

STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


def shorten_traceback(error: BaseException) -> None:
    """Cut the frames below that of the caller, unless code of others is among them.

    Only a KeyboardInterrupt and the errors of this library are cut. Their messages say what
    happened, and the frames only where in the library.

    error: an exception that the caller has caught.
    """
    traceback = error.__traceback__
    if not isinstance(error, (KeyboardInterrupt, AsimovError)) or traceback is None:
        return
    if not _are_internal(traceback.tb_next):
        return
    traceback.tb_next = None
    context = error.__context__
    # An exception that the library has handled, such as urllib3's own for older Pythons.
    while context is not None and _are_internal(context.__traceback__):
        context = context.__context__
    error.__context__ = context


def remove_outer_frames(error: BaseException) -> None:
    """Remove the frames of the library above the first one of others, if there is one.

    error: an exception that the caller has caught, of code that the library has called.
    """
    traceback = error.__traceback__
    while traceback is not None and _is_internal(traceback):
        traceback = traceback.tb_next
    if traceback is not None:
        error.__traceback__ = traceback


class ShortTracebacks:
    """Shortens the traceback of an error that leaves the `with` block."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if error is not None:
            shorten_traceback(error)


short_tracebacks = ShortTracebacks()
"""For `with short_tracebacks:`. It has no state."""


def _are_internal(traceback: Optional[TracebackType]) -> bool:
    """Return whether all frames belong to this library, to those below it, or to Python's own."""
    while traceback is not None:
        if not _is_internal(traceback):
            return False
        traceback = traceback.tb_next
    return True


def _is_internal(traceback: TracebackType) -> bool:
    """Return whether the first frame belongs to this library, to those below it, or to Python."""
    frame = traceback.tb_frame
    if str(frame.f_globals.get("__name__")).partition(".")[0] in LIBRARIES:
        return True
    file = frame.f_code.co_filename
    installed = re.search(r"[\\/](site|dist)-packages[\\/]", file)
    return file.startswith((STANDARD_LIBRARY, "<frozen ")) and not installed
