"""Chat completions, the refusals: what a server says is wrong, in any of the shapes that this wire's servers use. Pure.

Facts: https://platform.openai.com/docs/guides/error-codes for OpenAI's words; recorded traffic of OpenAI, Azure, Groq,
OpenRouter, Ollama and Perplexity, and public reports, for the shapes and for the others' words.
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
    # A 429 that no waiting cures: the account has to be paid for first.
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
_UNTOLD: ErrorMap = {"invalid_request_error": InvalidRequestError}
"""A word that OpenAI uses with 400, 401 and 404 alike: it decides only where no status does."""
_WRAPPINGS = ("error", "errors", "detail", "message")


def decode_error(provider: str, status: Optional[int], headers: Mapping[str, str], body: Any) -> InferenceError:
    """The error that a response's status and body, or an error inside a stream, stand for.

    status: None inside a stream, and for a body that came with the status 200; then a status that the error itself tells
    takes its place. body: decoded JSON, or text where it was not JSON. A parameter that the server objects to is named in
    the message.
    """
    told = _unwrapped(body)
    if status is None:
        status = _status(told)
    words = [word for word in (as_str(told.get("code")), as_str(told.get("type"))) if word]
    known = _ERRORS if status else dict(_ERRORS, **_UNTOLD)
    kind = next((known[word.lower()] for word in words if word.lower() in known), None)
    word = words[0] if words else None
    kinds = {word.lower(): kind} if word and kind else {}
    return error_from(provider, status, word, _message(told, body), headers.get("x-request-id"), kinds)


def _unwrapped(body: Any) -> Mapping[str, Any]:
    """The object that says what is wrong, out of what it is wrapped in: "error", "errors", "detail", lists."""
    for _ in range(8):
        if isinstance(body, list) and body:
            body = body[0]  # Google's errors come in a list; of several complaints, the first is told
            continue
        if not isinstance(body, Mapping):
            break
        inner = [body[name] for name in _WRAPPINGS if isinstance(body.get(name), (Mapping, list))]
        if not (inner and inner[0]):
            return body
        body = inner[0]
    return {"message": as_str(body)}


def _status(told: Mapping[str, Any]) -> Optional[int]:
    """The HTTP status that an error inside a 200 tells: Groq's status_code, Azure's status, OpenRouter's code."""
    for name in ("status_code", "status", "code"):
        status = told.get(name)
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return status
    return None


def _message(told: Mapping[str, Any], body: Any) -> str:
    message = next((told[name] for name in ("message", "msg", "detail", "error") if as_str(told.get(name))), "")
    if not message and body:
        message = as_str(body) or json.dumps(body, ensure_ascii=False)
    metadata = told.get("metadata")
    raw = as_str(metadata.get("raw")) if isinstance(metadata, Mapping) else None
    if raw:  # OpenRouter's own message is "Provider returned error"
        message = f"{message}: {raw}"
    parameter = told.get("param") or told.get("loc")
    if isinstance(parameter, list):
        parameter = ".".join(_steps(parameter))
    if isinstance(parameter, str) and parameter and parameter not in message:
        message = f"{message} (parameter: {parameter})"
    return str(message)


def _steps(path: List[Any]) -> List[str]:
    """A path into the request as FastAPI tells it, without the "body" that it begins with."""
    return [str(step) for step in path if step != "body"]
