"""The Messages API on the server's side: requests unchanged, replies as JSON or server-sent events.

Sources: https://docs.anthropic.com/en/api/messages, …/messages-streaming and …/errors.
"""

from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.messages import Reply, Usage
from asimov_sync.testing.script import ERROR_STATUSES, Failure
from asimov_sync.testing.wires.wire import Wire, dump_json, encode_sse, split_words

__all__ = ["MESSAGES", "MessagesWire"]

_ERROR_TYPES = {status: error_type for error_type, status in ERROR_STATUSES.items()}


class MessagesWire(Wire):
    """POST /v1/messages and /v1/messages/count_tokens."""

    name = "messages"
    request_id_header = "request-id"
    stream_headers = {"content-type": "text/event-stream; charset=utf-8"}

    def read_request(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the request. Raises TypeError if its messages are not a list."""
        if not isinstance(request["messages"], list):
            raise TypeError("messages must be a list")
        return dict(request)

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """Return a message."""
        return {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": reply.message.blocks,
            "stop_reason": reply.raw_stop_reason or reply.stop_reason,
            "stop_sequence": None,
            "usage": self.usage_body(reply.usage),
        }

    def usage_body(self, usage: Usage) -> Dict[str, Any]:
        """Return the usage of a message."""
        body = {
            "input_tokens": usage.input_tokens,
            "cache_creation_input_tokens": usage.cache_write_input_tokens,
            "cache_read_input_tokens": usage.cache_read_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": usage.cache_write_5m_input_tokens,
                "ephemeral_1h_input_tokens": usage.cache_write_1h_input_tokens,
            },
            "output_tokens": usage.output_tokens,
        }
        if usage.reasoning_tokens:
            body["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
        return body

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
        """Yield message_start, each block with its deltas, message_delta and message_stop.

        A ping follows the start of the first block.
        """
        message = self.reply_body(reply, body)
        usage = message["usage"]
        started = dict(usage, output_tokens=1)
        started.pop("output_tokens_details", None)
        yield {
            "type": "message_start",
            "message": dict(message, content=[], stop_reason=None, usage=started),
        }
        for index, block in enumerate(message["content"]):
            start, deltas = _split_block(block)
            yield {"type": "content_block_start", "index": index, "content_block": start}
            if index == 0:
                yield {"type": "ping"}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
            # Only message_start splits the cache writes.
            "usage": {name: count for name, count in usage.items() if name != "cache_creation"},
        }
        yield {"type": "message_stop"}

    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """Encode a named event."""
        return encode_sse(dump_json(event), event["type"], newline)

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """Return the count."""
        return {"input_tokens": tokens}

    def failure_status(self, failure: Failure) -> int:
        """Return the failure's own status."""
        return failure.status

    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """Return an error with the id of the request."""
        return {"type": "error", "error": _error(failure), "request_id": request_id}

    def error_event(self, failure: Failure) -> Dict[str, Any]:
        """Return an `error` event."""
        return {"type": "error", "error": _error(failure)}

    def authorizes(self, headers: Mapping[str, str], key: str) -> bool:
        """Return whether x-api-key or a bearer token is the key."""
        return headers.get("x-api-key") == key or super().authorizes(headers, key)


def _error(failure: Failure) -> Dict[str, Any]:
    default = "invalid_request_error" if 400 <= failure.status < 500 else "api_error"
    return {
        "type": failure.error_type or _ERROR_TYPES.get(failure.status, default),
        "message": failure.message,
    }


def _split_block(block: Dict[str, Any]) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    """Return a block as its content_block_start has it, and the deltas that complete it."""
    kind = block.get("type")
    if kind == "text":
        deltas: List[Dict[str, Any]] = [
            {"type": "text_delta", "text": piece} for piece in split_words(block["text"])
        ]
        if not isinstance(block.get("citations"), list):
            return dict(block, text=""), deltas
        cited = [
            {"type": "citations_delta", "citation": citation} for citation in block["citations"]
        ]
        return dict(block, text="", citations=[]), cited + deltas
    if kind == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": piece}
            for piece in split_words(block.get("thinking", ""))
        ]
        if "signature" not in block:
            return dict(block, thinking=""), deltas
        return dict(block, thinking="", signature=""), deltas + [
            {"type": "signature_delta", "signature": block["signature"]}
        ]
    if kind == "tool_use":
        arguments = dump_json(block["input"])
        half = len(arguments) // 2
        pieces = ["", arguments[:half], arguments[half:]]
        return dict(block, input={}), [
            {"type": "input_json_delta", "partial_json": piece} for piece in pieces
        ]
    return block, []


MESSAGES = MessagesWire()
