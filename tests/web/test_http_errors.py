"""The HTTP status of an error before the first byte."""

import pytest

from asimov_sync import (
    AuthenticationError,
    CacheUnavailable,
    ConnectTimeout,
    ContextLengthExceeded,
    GraphError,
    IdleTimeout,
    OverloadedError,
    ProviderError,
    RateLimitError,
    RunInProgress,
)
from asimov_sync.web import error_status


@pytest.mark.parametrize(
    "error, status",
    [
        (AuthenticationError, 502),
        (CacheUnavailable, 503),
        (ConnectTimeout, 504),
        (ContextLengthExceeded, 413),
        (GraphError, 500),
        (IdleTimeout, 504),
        (OverloadedError, 503),
        (ProviderError, 502),
        (RateLimitError, 503),
        (RunInProgress, 409),
    ],
)
def test_the_status_of_an_error(error, status):
    """A browser learns whether to try again; that a key is wrong is an error of the server."""
    assert error_status(error.__new__(error)) == status
