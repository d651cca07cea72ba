"""Converts blocks between the Messages API and Bedrock's Converse. Pure: no IO, no clock.

A Converse block has a single key, its kind
(https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html). A block
without a counterpart is kept in Converse's form, and a block without a "type" is sent in that form.
Received blocks are JSON, with bytes in base64; boto3 is given the bytes themselves. Converse's
redacted thinking is base64 of Anthropic's own text; here it is that text, which the Messages API
accepts as well.

Recorded traffic adds: `toolUse` may have a type, "tool_use" or "server_tool_use"; citations may
come without text.
"""

import base64
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

from asimov_sync.inference.providers.coerce import as_str
from asimov_sync.messages import Block

__all__ = ["ConverseEncoder", "decode_base64", "cache_points", "from_converse", "without_nulls"]

_JSON_KEYS = ("input", "json")
"""Keys whose values are arbitrary JSON, in which "bytes" has no special meaning."""
_BYTES_KEYS = ("bytes", "redactedContent")
"""Keys whose values boto3 expects as bytes."""
_FORMATS = {
    "jpg": "jpeg",
    "quicktime": "mov",
    "x-matroska": "mkv",
    "x-flv": "flv",
    "x-ms-wmv": "wmv",
    "3gpp": "three_gp",
    "plain": "txt",
    "markdown": "md",
    "msword": "doc",
    "vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "vnd.ms-excel": "xls",
    "vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}
"""Converse's names of formats that differ from the media type's subtype."""


# From Converse


def from_converse(block: Mapping[str, Any]) -> Block:
    """Return a block of a reply.

    Raises KeyError, TypeError or ValueError if it does not have the wire's format.
    """
    block = without_nulls(block)
    (kind, value), *others = block.items()
    if not others and kind in _DECODERS:
        decoded = _DECODERS[kind](value)
        if decoded is not None:
            return decoded
    return dict(block)


def without_nulls(union: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a copy without null members: some gateways write all members of a union."""
    return {name: value for name, value in union.items() if value is not None}


def _from_text(text: Any) -> Block:
    if not isinstance(text, str):
        raise ValueError(f"the text of a block must be a string, not {type(text).__name__}")
    return {"type": "text", "text": text}


def _from_tool_use(call: Any) -> Optional[Block]:
    kind = call.get("type") or "tool_use"
    if kind not in ("tool_use", "server_tool_use"):
        return None
    return {"type": kind, "id": call["toolUseId"], "name": call["name"], "input": call["input"]}


def _from_reasoning(content: Any) -> Optional[Block]:
    content = without_nulls(content)
    if set(content) == {"redactedContent"}:
        data = decode_base64(content["redactedContent"])
        if any(byte > 127 for byte in data):
            return None  # of another model, and not text
        return {"type": "redacted_thinking", "data": data.decode("ascii")}
    if set(content) != {"reasoningText"}:
        return None
    reasoning = content["reasoningText"]
    block = {"type": "thinking", "thinking": reasoning["text"]}
    if not isinstance(block["thinking"], str):
        raise ValueError(f"reasoning must be a string, not {type(block['thinking']).__name__}")
    if reasoning.get("signature") is not None:
        block["signature"] = reasoning["signature"]
    return block


def _from_citations(cited: Any) -> Block:
    """Return text with citations in Converse's form; its pieces are kept if there are several."""
    content = cited.get("content") or []
    texts = [piece["text"] for piece in content]
    citations = cited.get("citations") or []
    block: Block = {"type": "text", "text": "".join(texts), "citations": citations}
    if len(texts) > 1:
        block["content"] = content
    return block


def _from_image(image: Any) -> Optional[Block]:
    image = without_nulls(image)
    if set(image) != {"format", "source"} or not isinstance(image["format"], str):
        return None
    data = without_nulls(image["source"])
    if set(data) != {"bytes"}:
        return None
    media_type = "image/" + image["format"]
    source = {"type": "base64", "media_type": media_type, "data": data["bytes"]}
    return {"type": "image", "source": source}


_DECODERS: Dict[str, Callable[[Any], Optional[Block]]] = {
    "text": _from_text,
    "toolUse": _from_tool_use,
    "reasoningContent": _from_reasoning,
    "citationsContent": _from_citations,
    "image": _from_image,
}


# To Converse


class ConverseEncoder:
    """Encodes the blocks of one request for Converse, and keeps its document names unique."""

    def __init__(self) -> None:
        self._names: Set[str] = set()  # document names, unique within a request

    def blocks(self, blocks: List[Block]) -> List[Dict[str, Any]]:
        """Return Converse's blocks.

        Blank text is left out: Converse rejects it, though models answer with it.

        Raises ValueError for a block without a required key, or with a source that Converse does
        not support.
        """
        encoded: List[Dict[str, Any]] = []
        for block in blocks:
            kind = block.get("type")
            is_cited = block.get("citations")
            if kind == "text" and not is_cited and not (as_str(block.get("text")) or "").strip():
                continue
            encode = _ENCODERS.get(kind) if isinstance(kind, str) else None
            try:
                encoded.append(_with_raw_bytes(block) if encode is None else encode(self, block))
            except KeyError as missing:
                raise ValueError(f"a block of type {kind!r} without {missing}") from None
            encoded.extend(cache_points(block))
        return encoded

    def text(self, block: Block) -> Dict[str, Any]:
        """Return a text; a citationsContent if it has citations."""
        if not block.get("citations"):
            return {"text": block["text"]}
        cited: Dict[str, Any] = {"citations": block["citations"]}
        if block.get("content") or block["text"]:
            cited["content"] = block.get("content") or [{"text": block["text"]}]
        return {"citationsContent": cited}

    def thinking(self, block: Block) -> Dict[str, Any]:
        """Return a reasoningContent, with its signature if it has one."""
        reasoning = {"text": block["thinking"]}
        if block.get("signature") is not None:
            reasoning["signature"] = block["signature"]
        return {"reasoningContent": {"reasoningText": reasoning}}

    def redacted_thinking(self, block: Block) -> Dict[str, Any]:
        """Return a redacted reasoningContent."""
        return {"reasoningContent": {"redactedContent": block["data"].encode("ascii")}}

    def tool_use(self, block: Block) -> Dict[str, Any]:
        """Return a toolUse; with a type if it is a server's tool call."""
        arguments = block.get("input") or {}
        call = {"toolUseId": block["id"], "name": block["name"], "input": arguments}
        if block["type"] != "tool_use":
            call["type"] = block["type"]
        return {"toolUse": call}

    def tool_result(self, block: Block) -> Dict[str, Any]:
        """Return a toolResult; with a status if it is an error."""
        content = block.get("content") or []
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        result = {"toolUseId": block["tool_use_id"], "content": self.blocks(blocks)}
        if block.get("is_error"):
            result["status"] = "error"
        return {"toolResult": result}

    def media(self, block: Block) -> Dict[str, Any]:
        """Return an image, a video or audio."""
        source = block["source"]
        return {block["type"]: {"format": _format(source), "source": _source(source)}}

    def document(self, block: Block) -> Dict[str, Any]:
        """Return a document, under a valid name that is unique within the request."""
        source = block["source"]
        document: Dict[str, Any] = {"name": self._name(block.get("title") or "document")}
        if source["type"] == "text":
            document.update(format=_format(source), source={"text": source["data"]})
        elif source["type"] == "content":
            content = source["content"]
            pieces = [{"type": "text", "text": content}] if isinstance(content, str) else content
            document["source"] = {"content": self.blocks(pieces)}
        else:
            document.update(format=_format(source), source=_source(source))
        for name in ("context", "citations"):
            if block.get(name) is not None:
                document[name] = block[name]
        return {"document": document}

    def _name(self, title: str) -> str:
        # Letters, digits, single spaces, hyphens and brackets, at most 200 (Amazon, DocumentBlock).
        plain = re.sub(r"[^A-Za-z0-9\s\-()\[\]]", "-", title)
        plain = re.sub(r"\s+", " ", plain).strip()[:190] or "document"
        name, number = plain, 1
        while name in self._names:
            number += 1
            name = f"{plain} {number}"
        self._names.add(name)
        return name


_ENCODERS: Dict[str, Callable[[ConverseEncoder, Block], Dict[str, Any]]] = {
    "text": ConverseEncoder.text,
    "thinking": ConverseEncoder.thinking,
    "redacted_thinking": ConverseEncoder.redacted_thinking,
    "tool_use": ConverseEncoder.tool_use,
    "server_tool_use": ConverseEncoder.tool_use,
    "tool_result": ConverseEncoder.tool_result,
    "image": ConverseEncoder.media,
    "video": ConverseEncoder.media,
    "audio": ConverseEncoder.media,
    "document": ConverseEncoder.document,
}


def cache_points(marked: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Return the cachePoint after a block or tool with cache_control; otherwise an empty list."""
    control = marked.get("cache_control")
    if not isinstance(control, Mapping):
        return []
    point = {"type": "default"}
    if control.get("ttl") == "1h":
        point["ttl"] = "1h"
    return [{"cachePoint": point}]


def _format(source: Mapping[str, Any]) -> str:
    media_type = str(source.get("media_type") or "text/plain")
    subtype = media_type.partition("/")[2].partition(";")[0]
    return _FORMATS.get(subtype, subtype)


def _source(source: Mapping[str, Any]) -> Dict[str, Any]:
    if source["type"] == "base64":
        return {"bytes": decode_base64(source["data"])}
    if source["type"] == "s3":
        location = {"uri": source["uri"]}
        if source.get("bucket_owner"):
            location["bucketOwner"] = source["bucket_owner"]
        return {"s3Location": location}
    raise ValueError(f"Converse accepts a source of base64 or s3, not {source['type']!r}")


def decode_base64(data: Any) -> bytes:
    """Return the bytes of base64. ValueError if it is not base64."""
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError) as wrong:
        raise ValueError(f"bytes that are not base64: {wrong}") from None


def _with_raw_bytes(value: Any) -> Any:
    """Return a block that was kept in Converse's form, with base64 decoded to bytes."""
    if isinstance(value, list):
        return [_with_raw_bytes(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _member_with_raw_bytes(name, member) for name, member in value.items()}


def _member_with_raw_bytes(name: str, member: Any) -> Any:
    if name in _JSON_KEYS:
        return member
    if name in _BYTES_KEYS and isinstance(member, str):
        return decode_base64(member)
    return _with_raw_bytes(member)
