"""Bedrock's InvokeModel on the server's side: Messages bodies, AWS errors, binary event streams.

Sources: botocore's service model of bedrock-runtime, and recorded traffic. Only the recordings show
the padding `p`, that message_delta has output tokens only, and that message_stop has metrics.
"""

import base64
import zlib
from typing import Any, ClassVar, Dict, Iterator, Mapping, Optional

from asimov_sync.messages import Reply
from asimov_sync.testing.script import Failure
from asimov_sync.testing.wires.eventstream import Message, encode
from asimov_sync.testing.wires.messages import MESSAGES
from asimov_sync.testing.wires.wire import Wire, dump_json, messages_status

__all__ = ["INVOKE", "BedrockWire", "InvokeWire"]

_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

_DELTA_USAGE = ("output_tokens", "output_tokens_details")

_STATUSES = {401: 403, 402: 403, 413: 400, 504: 408, 529: 503}
_EXCEPTIONS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


class BedrockWire(Wire):
    """The common part of InvokeModel and Converse: failures, and streams of binary messages."""

    request_id_header = "x-amzn-requestid"
    stream_headers: ClassVar[Mapping[str, str]] = {
        "content-type": "application/vnd.amazon.eventstream"
    }
    uses_sse = False

    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """Encode a binary message; newline is ignored."""
        return encode(event)

    def failure_status(self, failure: Failure) -> int:
        """Return the status, or AWS's closest one: it has no 401, 402, 413, 504 and 529."""
        return _STATUSES.get(failure.status, failure.status)

    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """Return the error's message. Its type is in the headers."""
        return {"message": failure.message}

    def failure_headers(self, failure: Failure) -> Dict[str, str]:
        """Return the header with the name of the exception."""
        return {"x-amzn-errortype": exception_name(failure)}

    def error_event(self, failure: Failure) -> Message:
        """Return an exception message. It names the exception with a lower-case first letter."""
        name = exception_name(failure)
        # Streams have another name for this exception.
        name = "ModelStreamErrorException" if name == "ModelErrorException" else name
        headers = {
            ":exception-type": name[0].lower() + name[1:],
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return Message(headers, dump_json({"message": failure.message}).encode("utf-8"))


def exception_name(failure: Failure) -> str:
    """Return the name of AWS's exception for a failure."""
    known = messages_status(failure)
    if known is None:
        return str(failure.error_type)
    status = _STATUSES.get(known, known)
    return _EXCEPTIONS.get(
        status, "ValidationException" if 400 <= status < 500 else "InternalServerException"
    )


def make_event(event_type: str, payload: Dict[str, Any]) -> Message:
    """Make an event of a stream. It is padded as AWS does to hide its length, but reproducibly."""
    headers = {
        ":event-type": event_type,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    length = zlib.crc32(dump_json(payload).encode("utf-8")) % len(_PADDING)
    return Message(headers, dump_json(dict(payload, p=_PADDING[: length + 1])).encode("utf-8"))


class InvokeWire(BedrockWire):
    """POST /model/{id}/invoke and …/invoke-with-response-stream.

    Bodies are those of the Messages API; a stream has one of its events in each message.
    """

    name = "invoke"
    stream_headers = dict(
        BedrockWire.stream_headers, **{"x-amzn-bedrock-content-type": "application/json"}
    )

    def read_request(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the request. Its model is in the path."""
        return MESSAGES.read_request(request)

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """Return a message of the Messages API."""
        return MESSAGES.reply_body(reply, body)

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Message]:
        """Yield the events of the Messages API, without pings."""
        for data in MESSAGES.reply_events(reply, body):
            if data["type"] == "ping":
                continue
            if data["type"] == "message_delta":
                usage = {name: n for name, n in data["usage"].items() if name in _DELTA_USAGE}
                data = dict(data, usage=usage)
            elif data["type"] == "message_stop":
                metrics = {
                    "inputTokenCount": reply.usage.input_tokens,
                    "outputTokenCount": reply.usage.output_tokens,
                    "invocationLatency": 1,
                    "firstByteLatency": 1,
                }
                data = dict(data, **{"amazon-bedrock-invocationMetrics": metrics})
            yield make_event("chunk", {"bytes": encode_base64(dump_json(data))})

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """Return the count."""
        return {"inputTokens": tokens}


def encode_base64(text: str) -> str:
    """Encode a text's UTF-8 bytes in base64, as JSON carries a blob."""
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


INVOKE = InvokeWire()
