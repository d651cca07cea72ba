"""Decodes Bedrock's errors, of responses and inside streams. Pure: no IO, no clock.

Facts: the errors of InvokeModel, Converse and their streams in Amazon's API reference
(https://docs.aws.amazon.com/bedrock/latest/APIReference/), Amazon's common errors, and recorded
traffic, which adds that the name comes in the header x-amzn-errortype, followed by an address, or
in the body, and that a stream writes it with a lower-case first letter.
"""

from typing import Any, Mapping, Optional

from asimov_sync.errors import (
    AuthenticationError,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
)
from asimov_sync.inference.providers.coerce import as_str
from asimov_sync.inference.providers.errors import ErrorMap, error_from

__all__ = ["PROVIDER", "REQUEST_ID", "decode_error", "decode_exception", "decode_response_error"]

PROVIDER = "bedrock"
REQUEST_ID = "x-amzn-requestid"
"""The header with the id of a request."""

_ERRORS: ErrorMap = {
    "accessdeniedexception": PermissionDeniedError,
    "optinrequired": PermissionDeniedError,
    "expiredtoken": AuthenticationError,
    "expiredtokenexception": AuthenticationError,
    "incompletesignature": AuthenticationError,
    "incompletesignatureexception": AuthenticationError,
    "invalidclienttokenid": AuthenticationError,
    "invalidsignatureexception": AuthenticationError,
    "missingauthenticationtokenexception": AuthenticationError,
    "signaturedoesnotmatch": AuthenticationError,
    "unauthorizedexception": AuthenticationError,
    "unrecognizedclientexception": AuthenticationError,
    "resourcenotfoundexception": NotFoundError,
    "validationexception": InvalidRequestError,
    "servicequotaexceededexception": RateLimitError,
    "throttlingexception": RateLimitError,
    "toomanyrequestsexception": RateLimitError,
    "modelnotreadyexception": OverloadedError,
    "serviceunavailableexception": OverloadedError,
    "internalserverexception": ProviderError,
    "modelerrorexception": ProviderError,
    "modelstreamerrorexception": ProviderError,
    "modeltimeoutexception": ProviderError,
}
_NO_SUCH_MODEL = "model identifier is invalid"
"""Text of a ValidationException for which other providers send a 404."""


def decode_error(
    status: Optional[int], code: Optional[str], message: str, request_id: Optional[str]
) -> InferenceError:
    """Return the error of an exception of Amazon; status is None inside a stream."""
    if _NO_SUCH_MODEL in message.lower():
        return NotFoundError(
            message, provider=PROVIDER, status=status, error_type=code, request_id=request_id
        )
    return error_from(PROVIDER, status, code, message, request_id, _ERRORS)


def decode_response_error(status: int, headers: Mapping[str, str], body: Any) -> InferenceError:
    """Return the error of a response whose status is not 200.

    headers: with lower-case names.
    body: decoded JSON, or text if it was not JSON.
    """
    details: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    code = headers.get("x-amzn-errortype")
    for key in ("__type", "code", "Code"):
        code = code or as_str(details.get(key))
    if code is not None:
        # "ValidationException:http://internal…", or "com.amazon.coral.service#ValidationException"
        code = code.split(":")[0].rpartition("#")[2]
    return decode_error(status, code or None, _message(body), headers.get(REQUEST_ID))


def decode_exception(name: Optional[str], body: Any) -> InferenceError:
    """Return the error of an exception inside a stream."""
    return decode_error(None, name, _message(body), None)


def _message(body: Any) -> str:
    if isinstance(body, str):
        return body
    details: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    return as_str(details.get("message")) or as_str(details.get("Message")) or ""
