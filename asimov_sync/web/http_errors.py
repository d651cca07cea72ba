"""HTTP statuses for errors that happen before a response has begun."""

from typing import Sequence, Tuple, Type

from asimov_sync.errors import (
    AsimovError,
    BudgetExceeded,
    CacheError,
    ContextLengthExceeded,
    InferenceError,
    OverloadedError,
    RateLimitError,
    RunInProgress,
)

__all__ = ["error_status"]

STATUSES: Sequence[Tuple[Tuple[Type[AsimovError], ...], int]] = (
    ((ContextLengthExceeded,), 413),
    ((RateLimitError, OverloadedError, BudgetExceeded, CacheError), 503),
    ((RunInProgress,), 409),
)
"""The first entry with a class of the error counts."""


def error_status(error: AsimovError) -> int:
    """Return the HTTP status for an error of this library, for a framework's error handler.

    503 if another attempt may succeed, later: the provider limits or is overloaded, a budget is
    used up, or the cache fails. 504 if the provider took too long, 502 for its other errors, such
    as a refused key: to the browser, that is an error of the server. 413 for a conversation that
    is too long, 409 for a run that is in progress elsewhere, otherwise 500.
    """
    for classes, status in STATUSES:
        if isinstance(error, classes):
            return status
    if isinstance(error, TimeoutError):
        return 504
    return 502 if isinstance(error, InferenceError) else 500
