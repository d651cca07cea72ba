"""A Reply as a provider would put it on the wire: the JSON body, and the events of a stream."""

import json
import re
from typing import Any, Dict, Iterator, List

from asimov_sync.messages import Reply, Usage

__all__ = ["reply_body", "reply_events", "sse"]

_PIECE = re.compile(r"\s*\S+\s*")


def reply_body(reply: Reply) -> Dict[str, Any]:
    """The body of a Messages response that is not streamed."""
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": reply.message.blocks,
        "stop_reason": reply.stop_reason,
        "stop_sequence": None,
        "usage": _figures(reply.usage),
    }


def _figures(usage: Usage) -> Dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_input_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_input_tokens,
        },
        "output_tokens": usage.output_tokens,
    }


def reply_events(reply: Reply) -> Iterator[Dict[str, Any]]:
    """The events of a streamed Messages response: text word by word, a tool's input in two pieces."""
    body = reply_body(reply)
    figures = body["usage"]
    yield {
        "type": "message_start",
        "message": dict(body, content=[], stop_reason=None, usage=dict(figures, output_tokens=1)),
    }
    for index, block in enumerate(body["content"]):
        start, deltas = _streamed(block)
        yield {"type": "content_block_start", "index": index, "content_block": start}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": reply.stop_reason, "stop_sequence": None},
        "usage": {"output_tokens": figures["output_tokens"]},
    }
    yield {"type": "message_stop"}


def _streamed(block: Dict[str, Any]) -> Any:
    """A block as it starts, and the deltas that make it whole."""
    kind = block.get("type")
    if kind == "text":
        pieces = _PIECE.findall(block["text"]) or ([block["text"]] if block["text"] else [])
        return dict(block, text=""), [{"type": "text_delta", "text": piece} for piece in pieces]
    if kind == "thinking":
        deltas: List[Dict[str, Any]] = [{"type": "thinking_delta", "thinking": block.get("thinking", "")}]
        deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
        return dict(block, thinking="", signature=""), deltas
    if kind == "tool_use":
        told = json.dumps(block["input"], ensure_ascii=False)
        half = len(told) // 2
        pieces = ["", told[:half], told[half:]]
        return dict(block, input={}), [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block, []


def sse(event: Dict[str, Any]) -> bytes:
    """One event as server-sent bytes."""
    return "event: {}\ndata: {}\n\n".format(event["type"], json.dumps(event, ensure_ascii=False)).encode("utf-8")
