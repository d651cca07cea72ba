"""Bedrock's Converse on the server's side: reads its requests, writes its blocks and events.

Sources: botocore's service model of bedrock-runtime, and recorded traffic. Only the recordings show
that contentBlockStart is sent for tool calls only, that a citation precedes its text, and that
redactedContent is the data of the Messages API, encoded in base64 again. Replies have no reasoning
tokens, no id and no model.
"""

import base64
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from asimov_sync._json import loads
from asimov_sync.messages import Reply, Usage
from asimov_sync.testing.wires.bedrock import INVOKE, BedrockWire, encode_base64, make_event
from asimov_sync.testing.wires.eventstream import Message
from asimov_sync.testing.wires.wire import dump_json, split_words, unwrap_text

__all__ = ["CONVERSE", "ConverseWire"]

Block = Dict[str, Any]

_STOP_REASONS = {"refusal": "content_filtered", "pause_turn": "end_turn"}
_OPTIONS = {
    "maxTokens": "max_tokens",
    "stopSequences": "stop_sequences",
    "temperature": "temperature",
    "topP": "top_p",
}
_LOCATIONS = {
    "char_location": (
        "documentChar",
        "document_index",
        "documentIndex",
        "start_char_index",
        "end_char_index",
    ),
    "page_location": (
        "documentPage",
        "document_index",
        "documentIndex",
        "start_page_number",
        "end_page_number",
    ),
    "content_block_location": (
        "documentChunk",
        "document_index",
        "documentIndex",
        "start_block_index",
        "end_block_index",
    ),
    "search_result_location": (
        "searchResultLocation",
        "search_result_index",
        "searchResultIndex",
        "start_block_index",
        "end_block_index",
    ),
}


class ConverseWire(BedrockWire):
    """POST /model/{id}/converse, …/converse-stream and …/count-tokens."""

    name = "converse"

    # The request

    def read_request(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Translate the request. A cachePoint becomes the cache_control of the block before it."""
        body = {name: value for name, value in request.items() if name not in _TRANSLATED}
        body["messages"] = [
            {"role": message["role"], "content": unwrap_text(_decode_blocks(message["content"]))}
            for message in request["messages"]
        ]
        if request.get("system"):
            body["system"] = unwrap_text(_decode_blocks(request["system"]))
        for theirs, value in (request.get("inferenceConfig") or {}).items():
            body[_OPTIONS.get(theirs, theirs)] = value
        config = request.get("toolConfig") or {}
        if config.get("tools"):
            body["tools"] = _decode_items(config["tools"], _decode_tool)
        for kind, choice in (config.get("toolChoice") or {}).items():
            body["tool_choice"] = dict({"type": kind}, **choice)
        body.update(request.get("additionalModelRequestFields") or {})
        return body

    def read_count(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Translate the Converse or InvokeModel request inside the count request."""
        counted = request["input"]
        if "converse" in counted:
            return self.read_request(counted["converse"])
        body = loads(base64.b64decode(counted["invokeModel"]["body"]))
        return INVOKE.read_request(body)

    # The reply

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """Return the message, its stop reason and its usage."""
        return {
            "output": {
                "message": {
                    "role": "assistant",
                    "content": [_encode_block(block) for block in reply.message.blocks],
                }
            },
            "stopReason": _stop_reason(reply),
            "usage": _usage(reply.usage),
            "metrics": {"latencyMs": 1},
        }

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Message]:
        """Yield messageStart, deltas and contentBlockStop of each block, messageStop, metadata."""
        yield make_event("messageStart", {"role": "assistant"})
        for index, block in enumerate(reply.message.blocks):
            encoded = _encode_block(block)
            if "toolUse" in encoded:
                start = {
                    name: value for name, value in encoded["toolUse"].items() if name != "input"
                }
                yield make_event(
                    "contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": start}}
                )
            for delta in _deltas(encoded):
                yield make_event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
            yield make_event("contentBlockStop", {"contentBlockIndex": index})
        yield make_event("messageStop", {"stopReason": _stop_reason(reply)})
        yield make_event("metadata", {"usage": _usage(reply.usage), "metrics": {"latencyMs": 1}})

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """Return the count."""
        return {"inputTokens": tokens}


_TRANSLATED = frozenset(
    "messages system inferenceConfig toolConfig additionalModelRequestFields".split()
)


# Parts of requests


def _decode_blocks(content: List[Block]) -> List[Block]:
    return _decode_items(content, _decode_block)


def _decode_items(items: List[Block], decode: Callable[[Block], Block]) -> List[Block]:
    """Translate blocks or tools. A cachePoint becomes the cache_control of the item before it."""
    decoded: List[Block] = []
    for item in items:
        if "cachePoint" not in item:
            decoded.append(decode(item))
        elif decoded:
            ttl = item["cachePoint"].get("ttl")
            control = {"type": "ephemeral"} if ttl is None else {"type": "ephemeral", "ttl": ttl}
            decoded[-1] = dict(decoded[-1], cache_control=control)
    return decoded


def _decode_tool(tool: Block) -> Dict[str, Any]:
    if "toolSpec" not in tool:
        return dict(tool)
    spec = dict(tool["toolSpec"])
    return dict({"name": spec.pop("name"), "input_schema": spec.pop("inputSchema")["json"]}, **spec)


def _decode_block(block: Block) -> Block:
    """Translate a block to the Messages API. A block without a counterpart there is kept."""
    if "text" in block:
        return {"type": "text", "text": block["text"]}
    if "toolUse" in block:
        use = block["toolUse"]
        return {
            "type": "tool_use",
            "id": use["toolUseId"],
            "name": use["name"],
            "input": use["input"],
        }
    if "toolResult" in block:
        result = block["toolResult"]
        content = [_decode_result(item) for item in result["content"]]
        failed = {"is_error": True} if result.get("status") == "error" else {}
        return dict(
            {
                "type": "tool_result",
                "tool_use_id": result["toolUseId"],
                "content": unwrap_text(content),
            },
            **failed,
        )
    if "reasoningContent" in block:
        return _decode_thinking(block["reasoningContent"])
    if "citationsContent" in block:
        cited = block["citationsContent"]
        text = "".join(part["text"] for part in cited["content"])
        return {"type": "text", "text": text, "citations": cited["citations"]}
    for kind in ("image", "document"):
        if kind in block and "bytes" in block[kind]["source"]:
            media_type = {"pdf": "application/pdf", "txt": "text/unwrap_text"}.get(
                block[kind]["format"]
            )
            source = {
                "type": "base64",
                "media_type": media_type or f"{kind}/{block[kind]['format']}",
            }
            return {"type": kind, "source": dict(source, data=block[kind]["source"]["bytes"])}
    return dict(block)


def _decode_result(item: Block) -> Block:
    return (
        {"type": "text", "text": dump_json(item["json"])} if "json" in item else _decode_block(item)
    )


def _decode_thinking(block: Block) -> Block:
    if "redactedContent" in block:
        return {
            "type": "redacted_thinking",
            "data": base64.b64decode(block["redactedContent"]).decode("utf-8"),
        }
    text = block["reasoningText"]
    signature = {"signature": text["signature"]} if "signature" in text else {}
    return dict({"type": "thinking", "thinking": text["text"]}, **signature)


# Parts of replies


def _encode_block(block: Block) -> Block:
    """Translate a block from the Messages API. Raises ValueError if Converse does not have it."""
    kind = block.get("type")
    if kind == "text":
        cited = [_encode_citation(citation) for citation in block.get("citations") or []]
        text = {"text": block["text"]}
        return {"citationsContent": {"content": [text], "citations": cited}} if cited else text
    if kind == "tool_use":
        return {
            "toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}
        }
    if kind == "thinking":
        signature = {"signature": block["signature"]} if "signature" in block else {}
        return {
            "reasoningContent": {"reasoningText": dict({"text": block["thinking"]}, **signature)}
        }
    if kind == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": encode_base64(block["data"])}}
    raise ValueError(f"Converse has no {kind} block")


def _encode_citation(citation: Block) -> Block:
    if "location" in citation:
        return citation  # already in Converse's format: it comes from a reply of this wire
    kind = citation.get("type")
    encoded = {
        "title": citation.get("document_title") or citation.get("title"),
        "source": citation.get("source"),
    }
    encoded["sourceContent"] = (
        [{"text": citation["cited_text"]}] if citation.get("cited_text") else None
    )
    if kind == "web_search_result_location":
        encoded["location"] = {"web": {"url": citation["url"]}}
    elif kind in _LOCATIONS:
        name, ours, theirs, start, end = _LOCATIONS[kind]
        encoded["location"] = {
            name: {theirs: citation[ours], "start": citation[start], "end": citation[end]}
        }
    else:
        raise ValueError(f"Converse has no {kind} citation")
    return {name: value for name, value in encoded.items() if value is not None}


def _deltas(block: Block) -> Iterator[Block]:
    """Yield the deltas that make up a block."""
    if "toolUse" in block:
        arguments = dump_json(block["toolUse"]["input"])
        half = len(arguments) // 2
        for piece in (arguments[:half], arguments[half:]):
            yield {"toolUse": {"input": piece}}
    elif "reasoningContent" in block:
        text = block["reasoningContent"].get("reasoningText")
        if text is None:
            yield {"reasoningContent": block["reasoningContent"]}
            return
        for word in split_words(text["text"]):
            yield {"reasoningContent": {"text": word}}
        if "signature" in text:
            yield {"reasoningContent": {"signature": text["signature"]}}
    else:
        cited = block.get("citationsContent", {"citations": [], "content": [block]})
        for citation in cited["citations"]:
            yield {"citation": citation}
        for word in split_words(cited["content"][0]["text"]):
            yield {"text": word}


def _stop_reason(reply: Reply) -> Optional[str]:
    return reply.raw_stop_reason or _STOP_REASONS.get(reply.stop_reason or "", reply.stop_reason)


def _usage(usage: Usage) -> Dict[str, Any]:
    counts: Dict[str, Any] = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cache_read_input_tokens,
        "cacheWriteInputTokens": usage.cache_write_input_tokens,
    }
    split = {"5m": usage.cache_write_5m_input_tokens, "1h": usage.cache_write_1h_input_tokens}
    details = [{"ttl": ttl, "inputTokens": tokens} for ttl, tokens in split.items() if tokens]
    if details:
        counts["cacheDetails"] = details
    return counts


CONVERSE = ConverseWire()
