"""Retries of failed requests: errors, waits and attempts. Only this file imports tenacity.

The error's type decides, not its status: an `overloaded_error` inside a stream has the status 200.
The waits are those of the official SDKs: 0.5 s, doubled for each retry up to 8 s, minus a random
part of up to a quarter. A provider's Retry-After takes precedence.
"""

import email.utils
import math
import random
from typing import Callable, List, Mapping, Optional

import tenacity

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.errors import (
    BudgetExceeded,
    ConnectionFailed,
    DeadlineExceeded,
    IdleTimeout,
    InferenceError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
)
from asimov_sync.instrumentation import Activity

__all__ = ["MAX_RETRY_AFTER", "RetryPolicy", "retry_after", "retrying", "with_retry_headers"]

logger = get_logger("asimov_sync.inference")

RetryPolicy = tenacity.Retrying
"""Iterate over it for attempts, each of which is a context manager that records its outcome."""

FIRST_WAIT, MAX_WAIT = 0.5, 8.0
"""Seconds before the first retry, and at most before a later one."""

MAX_RETRY_AFTER = 60.0
"""Seconds. If a provider asks for more, its error is raised at once, with `retry_after` set."""

RETRYABLE_ERRORS = (
    RateLimitError,
    OverloadedError,
    ProviderError,
    ConnectionFailed,
    IdleTimeout,
    StreamInterrupted,
)


def retrying(
    max_retries: int,
    cancellation: Cancellation,
    deadline: Optional[float],
    may_retry: Callable[[], bool],
) -> RetryPolicy:
    """Return a policy, for `for attempt in retrying(…): with attempt: …`.

    max_retries: how often a failed attempt may be repeated.
    cancellation: interrupts the waits between attempts.
    deadline: the `clock.monotonic()` moment after which no attempt starts; None for none.
    may_retry: called after each failure; returns False once events were delivered.

    Raises the last error of the attempts, DeadlineExceeded if the next attempt would start too
    late, or Cancelled.
    """

    last: List[InferenceError] = []

    def should_retry(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, InferenceError):
            return False
        if isinstance(error, BudgetExceeded) and last:
            error.__cause__ = last[0]  # the reason for the retry
        last[:] = [error]
        error.attempts = state.attempt_number
        return state.attempt_number <= max_retries and may_retry() and is_retryable(error)

    def sleep(seconds: float) -> None:
        cancellation.raise_if_cancelled()
        if deadline is not None and clock.monotonic() + seconds >= deadline:
            raise DeadlineExceeded(
                "the next attempt would start after the deadline (timeout.total)",
                provider=last[0].provider,
                attempts=last[0].attempts,
                retry_after=last[0].retry_after,
            ) from last[0]
        logger.info(
            "a request failed: %s; attempt %d of %d starts in %.1f s",
            describe_error(last[0]),
            (last[0].attempts or 0) + 1,
            max_retries + 1,
            seconds,
        )
        kind = type(last[0])
        activity = "rate limit" if kind is RateLimitError else f"retry after {kind.__name__}"
        with Activity(activity, clock.monotonic() + seconds):
            cancellation.wait(seconds)
        cancellation.raise_if_cancelled()

    return RetryPolicy(retry=should_retry, wait=_wait_seconds, sleep=sleep, reraise=True)


def is_retryable(error: InferenceError) -> bool:
    """Return whether the same request may succeed when it is sent again."""
    if (error.retry_after or 0) > MAX_RETRY_AFTER:
        return False
    if error.should_retry is not None:
        return error.should_retry
    return isinstance(error, RETRYABLE_ERRORS) or error.status in (408, 409)


def _wait_seconds(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, InferenceError) and error.retry_after is not None:
        return error.retry_after
    seconds = min(FIRST_WAIT * 2.0 ** (state.attempt_number - 1), MAX_WAIT)
    return seconds * (1 - 0.25 * random.random())


def with_retry_headers(
    error: InferenceError, headers: Mapping[str, str], now: float
) -> InferenceError:
    """Set `retry_after` and `should_retry` of an error from the response's headers; return it.

    headers: with names in lower case.
    now: seconds since the epoch.
    """
    error.retry_after = retry_after(headers, now)
    error.should_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    return error


def retry_after(headers: Mapping[str, str], now: float) -> Optional[float]:
    """Return how many seconds the provider asks the client to wait.

    Reads retry-after-ms, then Retry-After as seconds or as a date.

    headers: with names in lower case.
    now: seconds since the epoch.

    Returns None if the headers are absent or invalid.
    """
    for name, parse in (
        ("retry-after-ms", lambda value: float(value) / 1000),
        ("retry-after", float),
        ("retry-after", lambda value: email.utils.parsedate_to_datetime(value).timestamp() - now),
    ):
        try:
            seconds = parse(headers[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
