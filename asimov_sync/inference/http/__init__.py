"""HTTP over requests: one request and its response, with time-outs and cancellation.

The names load on first use, so that a codec can be imported without requests or boto3.
"""

from typing import TYPE_CHECKING

from asimov_sync._exports import export_lazily

if TYPE_CHECKING:
    from asimov_sync.inference.http.client import (
        HttpInferenceClient as HttpInferenceClient,
        NetworkClient as NetworkClient,
        resolve_api_key as resolve_api_key,
    )
    from asimov_sync.inference.http.redaction import Headers as Headers
    from asimov_sync.inference.http.response import (
        Response as Response,
        SendOptions as SendOptions,
    )
    from asimov_sync.inference.http.sse import SSEParser as SSEParser
    from asimov_sync.inference.http.transport import HttpTransport as HttpTransport

if not TYPE_CHECKING:  # a type checker reports every name that is not imported above
    __getattr__, __dir__, __all__ = export_lazily(
        __name__,
        {
            "client": "HttpInferenceClient NetworkClient resolve_api_key",
            "redaction": "Headers",
            "response": "Response SendOptions",
            "sse": "SSEParser",
            "transport": "HttpTransport",
        },
    )
