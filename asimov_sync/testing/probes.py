"""Probes: numbers of waiting calls, runs and threads, for tests that depend on them."""

from typing import TYPE_CHECKING, Union

from asimov_sync.cancellation import Cancellation
from asimov_sync.scheduler import TaskScheduler

if TYPE_CHECKING:  # a test without an async facade does not load it
    from asimov_sync.aio.agent import AsyncAgent
    from asimov_sync.aio.cache import AsyncCache
    from asimov_sync.aio.client import AsyncInferenceClient
    from asimov_sync.aio.scheduler import AsyncTaskScheduler

__all__ = ["count_callbacks", "count_runs", "count_threads"]


def count_callbacks(token: Cancellation) -> int:
    """Return the number of callbacks that are registered with a token.

    A call that is blocked under the token or one of its children has a callback there, so this
    shows that the call waits.
    """
    return len(token._callbacks or ())


def count_runs(scheduler: TaskScheduler) -> int:
    """Return the number of runs of a scheduler that are not over."""
    return len(scheduler._runs)


def count_threads(
    facade: "Union[AsyncAgent, AsyncCache, AsyncInferenceClient, AsyncTaskScheduler]",
) -> int:
    """Return the number of threads that an async facade uses for streams, runs and mailboxes.

    At most `max_threads` of `to_async` are in use at a time.
    """
    return facade._bridge.open_threads
