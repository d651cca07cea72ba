"""Decodes errors of chat completions, in all the forms that servers of this wire use. Pure.

Facts: https://platform.openai.com/docs/guides/error-codes for OpenAI's error codes; recorded
traffic of OpenAI, Azure, Groq, OpenRouter, Ollama and Perplexity, and public reports, for the
forms and for the other servers' codes.
"""

import json
from typing import Any, List, Mapping, Optional

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
from asimov_sync.inference.providers.coerce import as_str
from asimov_sync.inference.providers.errors import ErrorMap, error_from

__all__ = ["decode_error"]

_ERRORS: ErrorMap = {
    "authentication_error": AuthenticationError,
    "invalid_api_key": AuthenticationError,
    "invalid_authentication_error": AuthenticationError,
    # A 429 that waiting does not fix: the account has to be paid first.
    "insufficient_quota": PermissionDeniedError,
    "billing_hard_limit_reached": PermissionDeniedError,
    "billing_not_active": PermissionDeniedError,
    "exceeded_current_quota_error": PermissionDeniedError,  # Moonshot
    "permission_error": PermissionDeniedError,
    "unsupported_country_region_territory": PermissionDeniedError,
    "content_filter": InvalidRequestError,  # Azure, of a prompt
    "content_policy_violation": InvalidRequestError,
    "unprocessable_entity": InvalidRequestError,
    "context_length_exceeded": ContextLengthExceeded,
    "exceed_context_size_error": ContextLengthExceeded,  # llama.cpp
    "too_many_prompt_tokens": ContextLengthExceeded,  # Perplexity
    "model_not_found": NotFoundError,
    "not_found_error": NotFoundError,
    "rate_limit_error": RateLimitError,
    "rate_limit_exceeded": RateLimitError,
    "rate_limit_reached_error": RateLimitError,  # Moonshot
    "ratelimitreached": RateLimitError,  # Azure
    "engine_overloaded_error": OverloadedError,  # Moonshot
    "overloaded_error": OverloadedError,
    "insufficient_system_resource": OverloadedError,  # DeepSeek, as a finish_reason
    "server_error": ProviderError,
    "internal_server_error": ProviderError,
}
_WITHOUT_STATUS: ErrorMap = {"invalid_request_error": InvalidRequestError}
"""A type that OpenAI uses with 400, 401 and 404 alike: it counts only without a status."""
_WRAPPER_KEYS = ("error", "errors", "detail", "message")


def decode_error(
    provider: str, status: Optional[int], headers: Mapping[str, str], body: Any
) -> InferenceError:
    """Return the error of a response, or of an error inside a stream.

    status: of the response; None inside a stream and for an error that came with the status 200.
        Then a status in the error itself is used.
    body: decoded JSON, or text if it was not JSON.

    The message names the parameter that the server rejects.
    """
    details = _unwrap(body)
    if status is None:
        status = _find_status(details)
    codes = [code for code in (as_str(details.get("code")), as_str(details.get("type"))) if code]
    known = _ERRORS if status else dict(_ERRORS, **_WITHOUT_STATUS)
    kind = next((known[code.lower()] for code in codes if code.lower() in known), None)
    error_type = codes[0] if codes else None
    error_map = {error_type.lower(): kind} if error_type and kind else {}
    message = _message(details, body)
    return error_from(provider, status, error_type, message, headers.get("x-request-id"), error_map)


def _unwrap(body: Any) -> Mapping[str, Any]:
    """Return the object that describes the error, without the wrappers around it."""
    for _ in range(8):
        if isinstance(body, list) and body:
            body = body[0]  # Google sends a list of errors; the first one is reported
            continue
        if not isinstance(body, Mapping):
            break
        inner = [
            body[name] for name in _WRAPPER_KEYS if isinstance(body.get(name), (Mapping, list))
        ]
        if not (inner and inner[0]):
            return body
        body = inner[0]
    return {"message": as_str(body)}


def _find_status(details: Mapping[str, Any]) -> Optional[int]:
    """Return the status inside an error: Groq's status_code, Azure's status, OpenRouter's code."""
    for name in ("status_code", "status", "code"):
        status = details.get(name)
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return status
    return None


def _message(details: Mapping[str, Any], body: Any) -> str:
    message = next(
        (
            details[name]
            for name in ("message", "msg", "detail", "error")
            if as_str(details.get(name))
        ),
        "",
    )
    if not message and body:
        message = as_str(body) or json.dumps(body, ensure_ascii=False)
    metadata = details.get("metadata")
    raw = as_str(metadata.get("raw")) if isinstance(metadata, Mapping) else None
    if raw:  # OpenRouter's own message is "Provider returned error"
        message = f"{message}: {raw}"
    parameter = details.get("param") or details.get("loc")
    if isinstance(parameter, list):
        parameter = ".".join(_steps(parameter))
    if isinstance(parameter, str) and parameter and parameter not in message:
        message = f"{message} (parameter: {parameter})"
    return str(message)


def _steps(path: List[Any]) -> List[str]:
    """Return the steps of FastAPI's path into the request, without the leading "body"."""
    return [str(step) for step in path if step != "body"]
