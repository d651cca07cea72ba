"""Bedrock's Converse, from the server's side: its requests as Messages bodies, replies in its own blocks and events.

Facts of the wire: botocore's service model of bedrock-runtime, and recorded traffic, which adds that only tools' blocks have
a contentBlockStart, that a citation comes before the text that it is for, and that redactedContent is the Messages API's
data, encoded once more. Nothing on this wire tells reasoning tokens, or which reply this is: it has no id and no model.
"""

import base64
from typing import Any, Dict, Iterator, List, Mapping, Optional

from asimov_sync.foreign_json import parsed
from asimov_sync.messages import Reply, Usage
from asimov_sync.testing.wires.bedrock import INVOKE, BedrockWire, event, in_base64
from asimov_sync.testing.wires.contract import as_json, plain
from asimov_sync.testing.wires.eventstream import Message
from asimov_sync.testing.wires.messages import words_of

__all__ = ["CONVERSE", "ConverseWire"]

Block = Dict[str, Any]

_STOPS = {"refusal": "content_filtered", "pause_turn": "end_turn"}
_OPTIONS = {"maxTokens": "max_tokens", "stopSequences": "stop_sequences", "temperature": "temperature", "topP": "top_p"}
_LOCATIONS = {
    "char_location": ("documentChar", "document_index", "documentIndex", "start_char_index", "end_char_index"),
    "page_location": ("documentPage", "document_index", "documentIndex", "start_page_number", "end_page_number"),
    "content_block_location": ("documentChunk", "document_index", "documentIndex", "start_block_index", "end_block_index"),
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

    def read_request(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """The request in Messages' words; a cachePoint marks the block before it."""
        body = {name: value for name, value in told.items() if name not in _RENAMED}
        body["messages"] = [
            {"role": message["role"], "content": plain(_blocks(message["content"]))} for message in told["messages"]
        ]
        if told.get("system"):
            body["system"] = plain(_blocks(told["system"]))
        for theirs, value in (told.get("inferenceConfig") or {}).items():
            body[_OPTIONS.get(theirs, theirs)] = value
        config = told.get("toolConfig") or {}
        if config.get("tools"):
            body["tools"] = _marked(config["tools"], _tool)
        for kind, choice in (config.get("toolChoice") or {}).items():
            body["tool_choice"] = dict({"type": kind}, **choice)
        body.update(told.get("additionalModelRequestFields") or {})
        return body

    def read_count(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """Either wire's request, inside of another."""
        given = told["input"]
        if "converse" in given:
            return self.read_request(given["converse"])
        body = parsed(base64.b64decode(given["invokeModel"]["body"]).decode("utf-8"))
        return INVOKE.read_request(body)

    # The reply

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """A message, why it stopped, its usage."""
        return {
            "output": {"message": {"role": "assistant", "content": [_told(block) for block in reply.message.blocks]}},
            "stopReason": _stop_reason(reply),
            "usage": _figures(reply.usage),
            "metrics": {"latencyMs": 1},
        }

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Message]:
        """messageStart, each block's deltas and contentBlockStop, messageStop, and the usage in metadata."""
        yield event("messageStart", {"role": "assistant"})
        for index, block in enumerate(reply.message.blocks):
            whole = _told(block)
            if "toolUse" in whole:
                start = {name: value for name, value in whole["toolUse"].items() if name != "input"}
                yield event("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": start}})
            for delta in _deltas(whole):
                yield event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
            yield event("contentBlockStop", {"contentBlockIndex": index})
        yield event("messageStop", {"stopReason": _stop_reason(reply)})
        yield event("metadata", {"usage": _figures(reply.usage), "metrics": {"latencyMs": 1}})

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """The count."""
        return {"inputTokens": tokens}


_RENAMED = frozenset("messages system inferenceConfig toolConfig additionalModelRequestFields".split())


# Requests: parts


def _blocks(content: List[Block]) -> List[Block]:
    return _marked(content, _block)


def _marked(told: List[Block], one: Any) -> List[Block]:
    """Blocks or tools, each cachePoint as the cache_control of the one before."""
    found: List[Block] = []
    for item in told:
        if "cachePoint" not in item:
            found.append(one(item))
        elif found:
            ttl = item["cachePoint"].get("ttl")
            control = {"type": "ephemeral"} if ttl is None else {"type": "ephemeral", "ttl": ttl}
            found[-1] = dict(found[-1], cache_control=control)
    return found


def _tool(tool: Mapping[str, Any]) -> Dict[str, Any]:
    if "toolSpec" not in tool:
        return dict(tool)
    spec = dict(tool["toolSpec"])
    return dict({"name": spec.pop("name"), "input_schema": spec.pop("inputSchema")["json"]}, **spec)


def _block(told: Block) -> Block:
    """A block in Messages' words; one of which they have none as it is."""
    if "text" in told:
        return {"type": "text", "text": told["text"]}
    if "toolUse" in told:
        use = told["toolUse"]
        return {"type": "tool_use", "id": use["toolUseId"], "name": use["name"], "input": use["input"]}
    if "toolResult" in told:
        result = told["toolResult"]
        content = [_result(item) for item in result["content"]]
        failed = {"is_error": True} if result.get("status") == "error" else {}
        return dict({"type": "tool_result", "tool_use_id": result["toolUseId"], "content": plain(content)}, **failed)
    if "reasoningContent" in told:
        return _thought(told["reasoningContent"])
    if "citationsContent" in told:
        cited = told["citationsContent"]
        text = "".join(part["text"] for part in cited["content"])
        return {"type": "text", "text": text, "citations": cited["citations"]}
    for kind in ("image", "document"):
        if kind in told and "bytes" in told[kind]["source"]:
            media_type = {"pdf": "application/pdf", "txt": "text/plain"}.get(told[kind]["format"])
            source = {"type": "base64", "media_type": media_type or "{}/{}".format(kind, told[kind]["format"])}
            return {"type": kind, "source": dict(source, data=told[kind]["source"]["bytes"])}
    return dict(told)


def _result(item: Block) -> Block:
    return {"type": "text", "text": as_json(item["json"])} if "json" in item else _block(item)


def _thought(told: Block) -> Block:
    if "redactedContent" in told:
        return {"type": "redacted_thinking", "data": base64.b64decode(told["redactedContent"]).decode("utf-8")}
    text = told["reasoningText"]
    signature = {"signature": text["signature"]} if "signature" in text else {}
    return dict({"type": "thinking", "thinking": text["text"]}, **signature)


# Replies: parts


def _told(block: Block) -> Block:
    """A block in Converse's words. ValueError where there are none."""
    kind = block.get("type")
    if kind == "text":
        cited = [_citation(citation) for citation in block.get("citations") or []]
        text = {"text": block["text"]}
        return {"citationsContent": {"content": [text], "citations": cited}} if cited else text
    if kind == "tool_use":
        return {"toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}
    if kind == "thinking":
        signature = {"signature": block["signature"]} if "signature" in block else {}
        return {"reasoningContent": {"reasoningText": dict({"text": block["thinking"]}, **signature)}}
    if kind == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": in_base64(block["data"])}}
    raise ValueError("Converse has no {} block".format(kind))


def _citation(citation: Block) -> Block:
    if "location" in citation:
        return citation  # as this wire has it: taken from a reply of its own
    kind = citation.get("type")
    told = {"title": citation.get("document_title") or citation.get("title"), "source": citation.get("source")}
    told["sourceContent"] = [{"text": citation["cited_text"]}] if citation.get("cited_text") else None
    if kind == "web_search_result_location":
        told["location"] = {"web": {"url": citation["url"]}}
    elif kind in _LOCATIONS:
        name, ours, theirs, start, end = _LOCATIONS[kind]
        told["location"] = {name: {theirs: citation[ours], "start": citation[start], "end": citation[end]}}
    else:
        raise ValueError("Converse has no {} citation".format(kind))
    return {name: value for name, value in told.items() if value is not None}


def _deltas(whole: Block) -> Iterator[Block]:
    """The deltas that make up a block."""
    if "toolUse" in whole:
        told = as_json(whole["toolUse"]["input"])
        half = len(told) // 2
        for piece in (told[:half], told[half:]):
            yield {"toolUse": {"input": piece}}
    elif "reasoningContent" in whole:
        text = whole["reasoningContent"].get("reasoningText")
        if text is None:
            yield {"reasoningContent": whole["reasoningContent"]}
            return
        for word in words_of(text["text"]):
            yield {"reasoningContent": {"text": word}}
        if "signature" in text:
            yield {"reasoningContent": {"signature": text["signature"]}}
    else:
        cited = whole.get("citationsContent", {"citations": [], "content": [whole]})
        for citation in cited["citations"]:
            yield {"citation": citation}
        for word in words_of(cited["content"][0]["text"]):
            yield {"text": word}


def _stop_reason(reply: Reply) -> Optional[str]:
    return reply.raw_stop_reason or _STOPS.get(reply.stop_reason or "", reply.stop_reason)


def _figures(usage: Usage) -> Dict[str, Any]:
    figures: Dict[str, Any] = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cache_read_input_tokens,
        "cacheWriteInputTokens": usage.cache_write_input_tokens,
    }
    split = {"5m": usage.cache_write_5m_input_tokens, "1h": usage.cache_write_1h_input_tokens}
    details = [{"ttl": ttl, "inputTokens": tokens} for ttl, tokens in split.items() if tokens]
    if details:
        figures["cacheDetails"] = details
    return figures


CONVERSE = ConverseWire()
