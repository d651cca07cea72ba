"""The Messages wire, from the server's side: requests as they are, replies as JSON or as server-sent events.

Facts of the wire: https://docs.anthropic.com/en/api/messages, …/messages-streaming and …/errors.
"""

import re
from typing import Any, Dict, Iterator, List, Mapping, Optional

from asimov_sync.messages import Reply, Usage
from asimov_sync.testing.script import WORDS, Failure
from asimov_sync.testing.wires.contract import Wire, as_json, sse

__all__ = ["MESSAGES", "MessagesWire", "words_of"]

_PIECE = re.compile(r"\s*\S+\s*")
_BY_STATUS = {status: word for word, status in WORDS.items()}


class MessagesWire(Wire):
    """POST /v1/messages and /v1/messages/count_tokens."""

    name = "messages"
    request_id_header = "request-id"
    stream_headers = {"content-type": "text/event-stream; charset=utf-8"}

    def read_request(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """The request itself."""
        if not isinstance(told["messages"], list):
            raise TypeError("messages: a list is required")
        return dict(told)

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """A message."""
        return {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": reply.message.blocks,
            "stop_reason": reply.raw_stop_reason or reply.stop_reason,
            "stop_sequence": None,
            "usage": self.figures(reply.usage),
        }

    def figures(self, usage: Usage) -> Dict[str, Any]:
        """The usage of a message."""
        figures = {
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
            figures["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
        return figures

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
        """message_start, each block with its deltas, message_delta, message_stop; a ping within the first block."""
        message = self.reply_body(reply, body)
        figures = message["usage"]
        started = dict(figures, output_tokens=1)
        started.pop("output_tokens_details", None)
        yield {"type": "message_start", "message": dict(message, content=[], stop_reason=None, usage=started)}
        for index, block in enumerate(message["content"]):
            start, deltas = _streamed(block)
            yield {"type": "content_block_start", "index": index, "content_block": start}
            if index == 0:
                yield {"type": "ping"}
            for delta in deltas:
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
            # The split of the cache's writes is told in message_start only.
            "usage": {name: figure for name, figure in figures.items() if name != "cache_creation"},
        }
        yield {"type": "message_stop"}

    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """A named event."""
        return sse(as_json(event), event["type"], newline)

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """The count."""
        return {"input_tokens": tokens}

    def failure_status(self, failure: Failure) -> int:
        """As given."""
        return failure.status

    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """An error, with the id of the request."""
        return {"type": "error", "error": _error(failure), "request_id": request_id}

    def error_event(self, failure: Failure) -> Dict[str, Any]:
        """An `error` event."""
        return {"type": "error", "error": _error(failure)}

    def admits(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether x-api-key, or a bearer token, is the key."""
        return headers.get("x-api-key") == key or super().admits(headers, key)


def _error(failure: Failure) -> Dict[str, Any]:
    other = "invalid_request_error" if 400 <= failure.status < 500 else "api_error"
    return {"type": failure.error_type or _BY_STATUS.get(failure.status, other), "message": failure.message}


def words_of(text: str) -> List[str]:
    """A text word by word, with the white space around; nothing of it is lost."""
    return _PIECE.findall(text) or ([text] if text else [])


def _streamed(block: Dict[str, Any]) -> Any:
    """A block as it starts, and the deltas that make it whole."""
    kind = block.get("type")
    if kind == "text":
        deltas: List[Dict[str, Any]] = [{"type": "text_delta", "text": piece} for piece in words_of(block["text"])]
        if not isinstance(block.get("citations"), list):
            return dict(block, text=""), deltas
        cited = [{"type": "citations_delta", "citation": citation} for citation in block["citations"]]
        return dict(block, text="", citations=[]), cited + deltas
    if kind == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in words_of(block.get("thinking", ""))]
        if "signature" not in block:
            return dict(block, thinking=""), deltas
        return dict(block, thinking="", signature=""), deltas + [{"type": "signature_delta", "signature": block["signature"]}]
    if kind == "tool_use":
        told = as_json(block["input"])
        half = len(told) // 2
        pieces = ["", told[:half], told[half:]]
        return dict(block, input={}), [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block, []


MESSAGES = MessagesWire()
