"""Bedrock's InvokeModel, from the server's side: Messages bodies, errors in AWS's form, streams of binary messages.

Facts of the wire: botocore's service model of bedrock-runtime, and recorded traffic, which adds the padding `p`, that
message_delta tells output_tokens only, and that message_stop carries metrics.
"""

import base64
import zlib
from typing import Any, ClassVar, Dict, Iterator, Mapping, Optional

from asimov_sync.messages import Reply
from asimov_sync.testing.script import Failure
from asimov_sync.testing.wires.contract import Wire, as_json, canonical
from asimov_sync.testing.wires.eventstream import Message, encode
from asimov_sync.testing.wires.messages import MESSAGES

__all__ = ["INVOKE", "BedrockWire", "InvokeWire"]

_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

_FINAL_FIGURES = ("output_tokens", "output_tokens_details")

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
    """What InvokeModel and Converse have in common: failures, and the form of a stream's messages."""

    request_id_header = "x-amzn-requestid"
    stream_headers: ClassVar[Mapping[str, str]] = {"content-type": "application/vnd.amazon.eventstream"}
    lines = False

    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """A binary message."""
        return encode(event)

    def failure_status(self, failure: Failure) -> int:
        """As given, or the one that AWS has in its place: it knows no 401, 402, 413, 504 and 529."""
        return _STATUSES.get(failure.status, failure.status)

    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """A message; the rest is in the headers."""
        return {"message": failure.message}

    def failure_headers(self, failure: Failure) -> Dict[str, str]:
        """The name of the exception."""
        return {"x-amzn-errortype": exception_of(failure)}

    def error_event(self, failure: Failure) -> Message:
        """An exception message: the same exceptions, with a small first letter."""
        name = exception_of(failure)
        # The one that has another name in the middle of a stream.
        name = "ModelStreamErrorException" if name == "ModelErrorException" else name
        headers = {
            ":exception-type": name[0].lower() + name[1:],
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return Message(headers, as_json({"message": failure.message}).encode("utf-8"))


def exception_of(failure: Failure) -> str:
    """AWS's name of a failure."""
    known = canonical(failure)
    if known is None:
        return str(failure.error_type)
    status = _STATUSES.get(known, known)
    return _EXCEPTIONS.get(status, "ValidationException" if 400 <= status < 500 else "InternalServerException")


def event(kind: str, payload: Dict[str, Any]) -> Message:
    """An event of a stream, padded as AWS pads it, so that its length tells nothing: by any length, here always the same."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    length = zlib.crc32(as_json(payload).encode("utf-8")) % len(_PADDING)
    return Message(headers, as_json(dict(payload, p=_PADDING[: length + 1])).encode("utf-8"))


class InvokeWire(BedrockWire):
    """POST /model/{id}/invoke and …/invoke-with-response-stream: a Messages body, in a stream one event in each message."""

    name = "invoke"
    stream_headers = dict(BedrockWire.stream_headers, **{"x-amzn-bedrock-content-type": "application/json"})

    def read_request(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """The request itself; its model is in the path."""
        return MESSAGES.read_request(told)

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """A message."""
        return MESSAGES.reply_body(reply, body)

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Message]:
        """The events of the Messages wire, without pings."""
        for told in MESSAGES.reply_events(reply, body):
            if told["type"] == "ping":
                continue
            if told["type"] == "message_delta":
                told = dict(told, usage={name: n for name, n in told["usage"].items() if name in _FINAL_FIGURES})
            elif told["type"] == "message_stop":
                metrics = {
                    "inputTokenCount": reply.usage.input_tokens,
                    "outputTokenCount": reply.usage.output_tokens,
                    "invocationLatency": 1,
                    "firstByteLatency": 1,
                }
                told = dict(told, **{"amazon-bedrock-invocationMetrics": metrics})
            yield event("chunk", {"bytes": in_base64(as_json(told))})

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """The count."""
        return {"inputTokens": tokens}


def in_base64(text: str) -> str:
    """A text's bytes, as JSON carries a blob."""
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


INVOKE = InvokeWire()
