"""Retries: retryable errors, waits and the number of attempts."""

import email.utils

import pytest

from asimov_sync import (
    AuthenticationError,
    Cancellation,
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequestError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    StreamInterrupted,
    Timeout,
)
from asimov_sync.inference.retry import is_retryable, retry_after, retrying
from asimov_sync.testing import ScriptedInferenceClient


@pytest.mark.parametrize(
    "error, retryable",
    [
        (OverloadedError("x", status=529), True),
        (OverloadedError("x", status=200), True),
        (ProviderError("x", status=500), True),
        (ConnectionFailed("x"), True),
        (StreamInterrupted("x"), True),
        (RateLimitError("x", retry_after=59), True),
        (RateLimitError("x", retry_after=61), False),
        (InvalidRequestError("x", status=400), False),
        (InvalidRequestError("x", status=409), True),
        (AuthenticationError("x", status=401), False),
        (ProviderError("x", should_retry=False), False),
        (InvalidRequestError("x", should_retry=True), True),
    ],
    ids=repr,
)
def test_retryable_errors(error, retryable):
    """The class decides, unless should_retry is set. A wait above one minute is never retried."""
    assert is_retryable(error) is retryable


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": email.utils.formatdate(1000000090, usegmt=True)}, 90),
        ({"retry-after": email.utils.formatdate(999999999, usegmt=True)}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "later"}, None),
    ],
    ids=repr,
)
def test_retry_after(headers, seconds):
    """Retry-After is milliseconds, seconds or a date. An invalid value counts as absent."""
    assert retry_after(headers, now=1000000000.0) == seconds


class RecordedWaits(Cancellation):
    """A token that records the seconds of each wait."""

    def __init__(self):
        super().__init__(parent=None)
        self.waits = []

    def wait(self, seconds=None):
        self.waits.append(seconds)
        return False


def run_attempts(errors, max_retries=2, deadline=None, may_retry=lambda: True, token=None):
    """Return the number of attempts with these errors, and the waits between them."""
    token = token or RecordedWaits()
    errors = iter(errors)
    started = 0
    for attempt in retrying(max_retries, token, deadline, may_retry):
        with attempt:
            started += 1
            error = next(errors, None)
            if error is not None:
                raise error
    return started, token.waits


def test_the_number_of_attempts():
    """max_retries=2 allows three attempts. The last error holds the number. Success ends them."""
    busy = [OverloadedError("x") for _ in range(5)]
    with pytest.raises(OverloadedError) as caught:
        run_attempts(busy)
    assert caught.value is busy[2]
    assert caught.value.attempts == 3
    assert run_attempts(busy[:2])[0] == 3
    assert run_attempts([])[0] == 1
    with pytest.raises(OverloadedError):
        run_attempts(busy, max_retries=0)


def test_the_waits():
    """Waits double from 0.5 s to 8 s, minus at most a quarter. Retry-After takes precedence."""
    _, waits = run_attempts([OverloadedError("x")] * 6, max_retries=6)
    for wait, longest in zip(waits, [0.5, 1, 2, 4, 8, 8]):
        assert 0.75 * longest <= wait <= longest
    assert run_attempts([RateLimitError("x", retry_after=7)])[1] == [7]
    assert run_attempts([RateLimitError("x", retry_after=0)])[1] == [0]


def test_errors_that_are_not_retried():
    """Other exceptions, permanent errors and errors after delivery are not retried."""
    for error in (KeyError("x"), AuthenticationError("x"), Cancelled("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            run_attempts([error, None])
    with pytest.raises(OverloadedError):
        run_attempts([OverloadedError("x")], may_retry=lambda: False)


def test_no_wait_beyond_the_deadline():
    """A retry that would start after the total time-out is a DeadlineExceeded at once."""
    token = RecordedWaits()
    with pytest.raises(DeadlineExceeded, match="deadline"):
        run_attempts([RateLimitError("x", retry_after=30)], deadline=0.0, token=token)
    assert token.waits == []


@pytest.mark.parametrize("seconds", [0.05, 0.0], ids=["while it waits", "before it waits"])
def test_a_cancellation_ends_the_wait(seconds):
    """A token that is cancelled before or during the wait of a retry ends it with Cancelled."""
    token = Cancellation(parent=None, timeout=seconds)
    with pytest.raises(Cancelled, match="deadline"):
        run_attempts(
            [RateLimitError("x", retry_after=30)],
            deadline=0.0 if token.cancelled else None,
            token=token,
        )


@pytest.mark.parametrize("name", ["connect", "idle", "total"])
def test_a_timeout_of_nan_is_rejected(name):
    """A client rejects NaN in a Timeout with a ValueError."""
    timeout = Timeout(**{name: float("nan")})
    with pytest.raises(ValueError, match=f"{name}=…. is a number of seconds"):
        ScriptedInferenceClient([], timeout=timeout)
    with pytest.raises(ValueError, match="not nan"):
        ScriptedInferenceClient([]).with_options(timeout=timeout)
