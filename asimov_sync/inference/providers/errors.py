"""Maps a provider's error to an error class: by the provider's own error type, then by status."""

from typing import Any, Dict, Mapping, Optional, Type

from asimov_sync._json import loads
from asimov_sync.errors import (
    AuthenticationError,
    ContextLengthExceeded,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
)

__all__ = ["ErrorMap", "MESSAGE_CHARACTERS", "error_from", "parse_error_body"]

ErrorMap = Mapping[str, Type[InferenceError]]
"""A provider's error types, in lower case, and their error classes."""

MESSAGE_CHARACTERS = 2000
"""The number of characters of a provider's message that an error shows."""

_BY_STATUS: Dict[int, Type[InferenceError]] = {
    401: AuthenticationError,
    402: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitError,
    529: OverloadedError,
}
_TOO_LONG_PHRASES = (
    "prompt is too long",
    "input is too long",
    "exceed context limit",
    "context window",
    "context length",
    "context_length",
    "maximum context",
    "context size",
)


def error_from(
    provider: str,
    status: Optional[int],
    error_type: Optional[str],
    message: str,
    request_id: Optional[str],
    error_map: ErrorMap,
) -> InferenceError:
    """Return the error of a response, or of an error event inside a stream.

    status: of the response; None inside a stream.
    error_type: the provider's name for the error; `error_map` is looked up with it.
    """
    code = status or 0
    by_status = _BY_STATUS.get(code)
    if by_status is None:
        by_status = InvalidRequestError if 400 <= code < 500 else ProviderError
    if 300 <= code < 400:  # not followed, because the target would receive the key and the prompt
        by_status = NotFoundError
        message = f"{message.strip()} (a redirect: is this the whole address?)"
    kind = error_map.get((error_type or "").lower(), by_status)
    if kind is InvalidRequestError and any(
        phrase in message.lower() for phrase in _TOO_LONG_PHRASES
    ):
        kind = ContextLengthExceeded
    return kind(
        (message.strip() or "the provider gave no reason")[:MESSAGE_CHARACTERS],
        provider=provider,
        status=status,
        error_type=error_type,
        request_id=request_id,
    )


def parse_error_body(data: bytes) -> Any:
    """Return the JSON in an error's body, or its text if it is not JSON."""
    body = data.decode("utf-8", "replace")
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return body
