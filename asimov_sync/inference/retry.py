"""What is tried again, when, and how often; the only file that imports tenacity.

By error type, not by status: an `overloaded_error` inside a stream has the status 200. The waits are those of the official
SDKs: half a second, doubled each time, 8 s at most, up to a quarter less by chance; a provider's Retry-After comes first.
"""

import email.utils
import math
import random
import time
from typing import Callable, List, Mapping, Optional

import tenacity

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    IdleTimeout,
    InferenceError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
)

__all__ = ["advised", "retry_after", "retrying"]

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
LONGEST_RETRY_AFTER = 60.0
"""A provider that asks for more is not waited for: its error is raised, with retry_after, and the caller may decide."""

TRANSIENT = (RateLimitError, OverloadedError, ProviderError, ConnectionFailed, IdleTimeout, StreamInterrupted)


def retrying(
    max_retries: int, cancellation: Cancellation, deadline: Optional[float], may_retry: Callable[[], bool]
) -> tenacity.Retrying:
    """A tenacity policy: `for attempt in retrying(…): with attempt: …`.

    deadline: the monotonic moment after which nothing is tried again. may_retry: asked after each failure; False once
    something was handed out that cannot be taken back. Waits end when the cancellation does.
    """

    last: List[InferenceError] = []

    def again(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, InferenceError):
            return False
        last[:] = [error]
        error.attempts = state.attempt_number
        return state.attempt_number <= max_retries and may_retry() and transient(error)

    def sleep(seconds: float) -> None:
        cancellation.raise_if_cancelled()
        if deadline is not None and time.monotonic() + seconds >= deadline:
            raise DeadlineExceeded(
                "the next attempt would begin after the deadline (timeout.total)",
                provider=last[0].provider,
                attempts=last[0].attempts,
                retry_after=last[0].retry_after,
            ) from last[0]
        cancellation.wait(seconds)
        cancellation.raise_if_cancelled()

    return tenacity.Retrying(retry=again, wait=_wait, sleep=sleep, reraise=True)


def transient(error: InferenceError) -> bool:
    """Whether the same request may succeed if it is sent again."""
    if (error.retry_after or 0) > LONGEST_RETRY_AFTER:
        return False
    if error.should_retry is not None:
        return error.should_retry
    return isinstance(error, TRANSIENT) or error.status in (408, 409)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, InferenceError) and error.retry_after is not None:
        return error.retry_after
    return min(FIRST_WAIT * 2.0 ** (state.attempt_number - 1), LONGEST_WAIT) * (1 - 0.25 * random.random())


def advised(error: InferenceError, headers: Mapping[str, str], now: float) -> InferenceError:
    """The error itself, with what the response's headers say of trying again."""
    error.retry_after = retry_after(headers, now)
    error.should_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    return error


def retry_after(headers: Mapping[str, str], now: float) -> Optional[float]:
    """How many seconds the provider asks to wait, from retry-after-ms, or Retry-After in seconds or as a date.

    now: seconds since the epoch. None where it does not ask, or asks for nonsense.
    """
    for name, seconds_of in (
        ("retry-after-ms", lambda told: float(told) / 1000),
        ("retry-after", float),
        ("retry-after", lambda told: email.utils.parsedate_to_datetime(told).timestamp() - now),
    ):
        try:
            seconds = seconds_of(headers[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
