"""HTTP over requests: one request and its response, with time-outs and cancellation.

The names load on first use, so that a codec can be imported without requests or boto3.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asimov_sync.inference.http.client import (
        HttpInferenceClient as HttpInferenceClient,
        NetworkClient as NetworkClient,
        resolve_api_key as resolve_api_key,
    )
    from asimov_sync.inference.http.redaction import Headers as Headers
    from asimov_sync.inference.http.response import (
        RequestOptions as RequestOptions,
        Response as Response,
    )
    from asimov_sync.inference.http.sse import SSEParser as SSEParser
    from asimov_sync.inference.http.transport import HttpTransport as HttpTransport

_HOMES = {
    "Headers": "redaction",
    "HttpInferenceClient": "client",
    "HttpTransport": "transport",
    "NetworkClient": "client",
    "RequestOptions": "response",
    "resolve_api_key": "client",
    "Response": "response",
    "SSEParser": "sse",
}

__all__ = [
    "Headers",
    "HttpInferenceClient",
    "HttpTransport",
    "NetworkClient",
    "RequestOptions",
    "resolve_api_key",
    "Response",
    "SSEParser",
]


if not TYPE_CHECKING:  # to a type checker, a name that is not imported above is an error

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
