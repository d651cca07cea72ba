"""Blocks of the Messages dialect and of Bedrock's Converse, one into the other. Pure: no IO, no clock.

Converse (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html) says the kind of a block by
the only key it has. A block that has no counterpart is kept as Converse has it, and a block without a "type" is sent as one of
those. What comes is JSON, with bytes in base64; what is sent is given to boto3, which wants the bytes themselves. Converse's
redacted thinking is base64 of Anthropic's own text, and here it is that text, which the Messages API takes as well.

Recorded traffic adds: `toolUse` may say its type, "tool_use" or "server_tool_use"; citations may come without text.
"""

import base64
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

from asimov_sync.inference.providers.coerce import as_str
from asimov_sync.messages import Block

__all__ = ["Outgoing", "blob", "cache_points", "from_converse", "without_nulls"]

_DOCUMENTS = ("input", "json")
"""Keys under which anybody's JSON lies, in which "bytes" is just a word."""
_BLOBS = ("bytes", "redactedContent")
"""Keys whose values are bytes to boto3."""
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
"""Converse's names of formats where they are not the second half of the media type."""


# From Converse


def from_converse(block: Mapping[str, Any]) -> Block:
    """One block of a reply. KeyError, TypeError or ValueError for what is not of the wire."""
    block = without_nulls(block)
    (kind, told), *more = block.items()
    if not more and kind in _FROM:
        made = _FROM[kind](told)
        if made is not None:
            return made
    return dict(block)


def without_nulls(union: Mapping[str, Any]) -> Dict[str, Any]:
    """A copy without the members that are null, as boto3 reads it: some gateways write all members of a union."""
    return {name: value for name, value in union.items() if value is not None}


def _from_text(told: Any) -> Block:
    if not isinstance(told, str):
        raise ValueError("a text that is no text")
    return {"type": "text", "text": told}


def _from_tool_use(told: Any) -> Optional[Block]:
    kind = told.get("type") or "tool_use"
    if kind not in ("tool_use", "server_tool_use"):
        return None
    return {"type": kind, "id": told["toolUseId"], "name": told["name"], "input": told["input"]}


def _from_reasoning(told: Any) -> Optional[Block]:
    told = without_nulls(told)
    if set(told) == {"redactedContent"}:
        data = blob(told["redactedContent"])
        if any(byte > 127 for byte in data):
            return None  # another model's, and no text
        return {"type": "redacted_thinking", "data": data.decode("ascii")}
    if set(told) != {"reasoningText"}:
        return None
    block = {"type": "thinking", "thinking": told["reasoningText"]["text"]}
    if not isinstance(block["thinking"], str):
        raise ValueError("a thinking that is no text")
    if told["reasoningText"].get("signature") is not None:
        block["signature"] = told["reasoningText"]["signature"]
    return block


def _from_citations(told: Any) -> Block:
    """Text with citations in Converse's shape; its pieces beside it, where there is not just one."""
    content = told.get("content") or []
    texts = [one["text"] for one in content]
    block: Block = {"type": "text", "text": "".join(texts), "citations": told.get("citations") or []}
    if len(texts) > 1:
        block["content"] = content
    return block


def _from_image(told: Any) -> Optional[Block]:
    told = without_nulls(told)
    if set(told) != {"format", "source"} or not isinstance(told["format"], str):
        return None
    place = without_nulls(told["source"])
    if set(place) != {"bytes"}:
        return None
    source = {"type": "base64", "media_type": "image/" + told["format"], "data": place["bytes"]}
    return {"type": "image", "source": source}


_FROM: Dict[str, Callable[[Any], Optional[Block]]] = {
    "text": _from_text,
    "toolUse": _from_tool_use,
    "reasoningContent": _from_reasoning,
    "citationsContent": _from_citations,
    "image": _from_image,
}


# To Converse


class Outgoing:
    """Turns the blocks of one request into Converse's; it knows which documents it has named."""

    def __init__(self) -> None:
        self._names: Set[str] = set()  # no two documents of a request may have the same

    def blocks(self, blocks: List[Block]) -> List[Dict[str, Any]]:
        """Converse's blocks. ValueError for one that lacks what it needs, or whose source Converse cannot take.

        Blank text is left out: Converse refuses it, though models answer with it.
        """
        sent: List[Dict[str, Any]] = []
        for block in blocks:
            kind = block.get("type")
            if kind == "text" and not block.get("citations") and not (as_str(block.get("text")) or "").strip():
                continue
            make = _TO.get(kind) if isinstance(kind, str) else None
            try:
                sent.append(_as_sent(block) if make is None else make(self, block))
            except KeyError as missing:
                raise ValueError(f"a block of type {kind!r} without {missing}") from None
            sent.extend(cache_points(block))
        return sent

    def text(self, block: Block) -> Dict[str, Any]:
        """Text; with citations, a citationsContent."""
        if not block.get("citations"):
            return {"text": block["text"]}
        told: Dict[str, Any] = {"citations": block["citations"]}
        if block.get("content") or block["text"]:
            told["content"] = block.get("content") or [{"text": block["text"]}]
        return {"citationsContent": told}

    def thinking(self, block: Block) -> Dict[str, Any]:
        """A reasoningContent, with its signature if it has one."""
        told = {"text": block["thinking"]}
        if block.get("signature") is not None:
            told["signature"] = block["signature"]
        return {"reasoningContent": {"reasoningText": told}}

    def redacted_thinking(self, block: Block) -> Dict[str, Any]:
        """A reasoningContent that nobody can read."""
        return {"reasoningContent": {"redactedContent": block["data"].encode("ascii")}}

    def tool_use(self, block: Block) -> Dict[str, Any]:
        """A toolUse; its type is said where the server made the call."""
        told = {"toolUseId": block["id"], "name": block["name"], "input": block.get("input") or {}}
        if block["type"] != "tool_use":
            told["type"] = block["type"]
        return {"toolUse": told}

    def tool_result(self, block: Block) -> Dict[str, Any]:
        """A toolResult; its status is said where it is an error."""
        content = block.get("content") or []
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        told: Dict[str, Any] = {"toolUseId": block["tool_use_id"], "content": self.blocks(blocks)}
        if block.get("is_error"):
            told["status"] = "error"
        return {"toolResult": told}

    def media(self, block: Block) -> Dict[str, Any]:
        """An image or a video."""
        source = block["source"]
        return {block["type"]: {"format": _format(source), "source": _source(source)}}

    def document(self, block: Block) -> Dict[str, Any]:
        """A document, under a name that Converse allows and no other document of the request has."""
        source = block["source"]
        told: Dict[str, Any] = {"name": self._name(block.get("title") or "document")}
        if source["type"] == "text":
            told.update(format=_format(source), source={"text": source["data"]})
        elif source["type"] == "content":
            content = source["content"]
            pieces = [{"type": "text", "text": content}] if isinstance(content, str) else content
            told["source"] = {"content": self.blocks(pieces)}
        else:
            told.update(format=_format(source), source=_source(source))
        for name in ("context", "citations"):
            if block.get(name) is not None:
                told[name] = block[name]
        return {"document": told}

    def _name(self, title: str) -> str:
        # Letters, digits, single blanks, hyphens and brackets (Amazon, DocumentBlock); 200 characters at most.
        plain = re.sub(r"\s+", " ", re.sub(r"[^A-Za-z0-9\s\-()\[\]]", "-", title)).strip()[:190] or "document"
        name, number = plain, 1
        while name in self._names:
            number += 1
            name = f"{plain} {number}"
        self._names.add(name)
        return name


_TO: Dict[str, Callable[[Outgoing, Block], Dict[str, Any]]] = {
    "text": Outgoing.text,
    "thinking": Outgoing.thinking,
    "redacted_thinking": Outgoing.redacted_thinking,
    "tool_use": Outgoing.tool_use,
    "server_tool_use": Outgoing.tool_use,
    "tool_result": Outgoing.tool_result,
    "image": Outgoing.media,
    "video": Outgoing.media,
    "audio": Outgoing.media,
    "document": Outgoing.document,
}


def cache_points(marked: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The cachePoint that follows a block or a tool with cache_control, or nothing."""
    control = marked.get("cache_control")
    if not isinstance(control, Mapping):
        return []
    point = {"type": "default"}
    if control.get("ttl") == "1h":
        point["ttl"] = "1h"
    return [{"cachePoint": point}]


def _format(source: Mapping[str, Any]) -> str:
    half = str(source.get("media_type") or "text/plain").partition("/")[2].partition(";")[0]
    return _FORMATS.get(half, half)


def _source(source: Mapping[str, Any]) -> Dict[str, Any]:
    if source["type"] == "base64":
        return {"bytes": blob(source["data"])}
    if source["type"] == "s3":
        place = {"uri": source["uri"]}
        if source.get("bucket_owner"):
            place["bucketOwner"] = source["bucket_owner"]
        return {"s3Location": place}
    raise ValueError("Converse takes a source of base64 or s3, and not of {!r}".format(source["type"]))


def blob(data: Any) -> bytes:
    """The bytes of base64; ValueError for what is none."""
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError) as wrong:
        raise ValueError(f"bytes that are not base64: {wrong}") from None


def _as_sent(value: Any) -> Any:
    """A block that was kept as Converse has it, with its bytes as bytes."""
    if isinstance(value, list):
        return [_as_sent(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: one if name in _DOCUMENTS else blob(one) if name in _BLOBS and isinstance(one, str) else _as_sent(one)
        for name, one in value.items()
    }
