"""What a provider's refusal stands for: an error class, by the provider's own word for it first, by the HTTP status then."""

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

__all__ = ["Kinds", "MESSAGE_CHARACTERS", "as_body", "refusal"]

Kinds = Mapping[str, Type[InferenceError]]
"""A provider's words for what is wrong, in lower case, and the classes that they mean."""

MESSAGE_CHARACTERS = 2000
"""How much of a provider's message an error shows."""

_BY_STATUS: Dict[int, Type[InferenceError]] = {
    401: AuthenticationError,
    402: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitError,
    529: OverloadedError,
}
_TOO_LONG = (
    "prompt is too long",
    "input is too long",
    "exceed context limit",
    "context window",
    "context length",
    "context_length",
    "maximum context",
    "context size",
)


def refusal(
    provider: str, status: Optional[int], error_type: Optional[str], message: str, request_id: Optional[str], kinds: Kinds
) -> InferenceError:
    """The error of a response's status, or of an error event inside a stream (status None), with the provider's words."""
    by_status = _BY_STATUS.get(status or 0) or (InvalidRequestError if 400 <= (status or 500) < 500 else ProviderError)
    if 300 <= (status or 0) < 400:  # not followed: it would take the key along, and the prompt
        by_status, message = NotFoundError, "{} (a redirect: is this the whole address?)".format(message.strip())
    kind = kinds.get((error_type or "").lower(), by_status)
    if kind is InvalidRequestError and any(words in message.lower() for words in _TOO_LONG):
        kind = ContextLengthExceeded
    message = message.strip() or "the provider gave no reason"
    return kind(message[:MESSAGE_CHARACTERS], provider=provider, status=status, error_type=error_type, request_id=request_id)


def as_body(data: bytes) -> Any:
    """An error's body: the JSON in it, or its text."""
    body = data.decode("utf-8", "replace")
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return body
