"""Encodes message content as the conventions define it: JSON text of roles and parts. Pure.

Encrypted fields are left out, and binary data is replaced by its size.
"""

import json
from typing import Any, Dict, List, Optional, Tuple

from asimov_sync._json import loads, to_jsonable
from asimov_sync.inference.request import System
from asimov_sync.messages import Block, ChatMessage, ChatRole, Reply

__all__ = [
    "input_messages",
    "message_value",
    "output_messages",
    "system_instructions",
    "tool_call_arguments",
    "tool_call_result",
    "tool_definitions",
    "value",
]

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
}
"""Maps stop reasons to the conventions' finish reasons. Others are kept; None becomes "error"."""

OPAQUE = frozenset(["data", "signature", "encrypted_content", "encrypted_index"])
"""Fields that only the provider can read, or that hold binary data."""


def input_messages(messages: List[ChatMessage]) -> str:
    """Encode the messages of a request."""
    return _to_json(
        [{"role": _role(message), "parts": _parts(message.blocks)} for message in messages]
    )


def output_messages(reply: Reply) -> str:
    """Encode the message of a reply, with its finish reason.

    The reason is optional in the newest conventions, but backends ignore a message without it.
    """
    reason = reply.stop_reason
    encoded = {
        "role": _role(reply.message),
        "parts": _parts(reply.message.blocks),
        "finish_reason": "error" if reason is None else FINISH_REASONS.get(reason, reason),
    }
    return _to_json([encoded])


def system_instructions(system: System) -> Optional[str]:
    """Encode the system prompt. Returns None if there is none."""
    if not system:
        return None
    return _to_json(
        _parts([{"type": "text", "text": system}] if isinstance(system, str) else system)
    )


def tool_definitions(tools: List[Dict[str, Any]]) -> Optional[str]:
    """Encode the tools of a request. Returns None if there are none."""
    if not tools:
        return None
    return _to_json(
        [
            {
                "type": "function",
                "name": tool["name"],
                "description": tool.get("description"),
                "parameters": tool.get("input_schema"),
            }
            for tool in tools
        ]
    )


def tool_call_arguments(arguments: Dict[str, Any]) -> str:
    """Encode the arguments of a tool call. A value that JSON cannot hold is written as text."""
    return _to_json(arguments)


def tool_call_result(text: str, as_object: bool) -> str:
    """Encode the text of a tool's result, as the model receives it.

    as_object: whether a result that is not a JSON object becomes one: {"result": …}.
    """
    if not as_object:
        return text
    try:
        value = loads(text)
    except ValueError:
        value = text
    return _to_json(value if isinstance(value, dict) else {"result": value})


def message_value(message: ChatMessage) -> Any:
    """Return the text of a message, or its parts if it has no text."""
    return message.text or _parts(message.blocks)


def value(value: Any) -> Tuple[str, str]:
    """Encode a value for OpenInference. Returns the text and its MIME type: text or JSON."""
    if isinstance(value, str):
        return value, "text/plain"
    return _to_json(value), "application/json"


def _to_json(value: Any) -> str:
    return json.dumps(to_jsonable(value), ensure_ascii=False)


def _role(message: ChatMessage) -> str:
    return "tool" if message.role is ChatRole.TOOL_RESULT else message.role.value


def _parts(blocks: List[Block]) -> List[Dict[str, Any]]:
    return [_part(block) for block in blocks if isinstance(block, dict)]


def _part(block: Block) -> Dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "content": block.get("text") or ""}
    if kind == "thinking":
        return {"type": "reasoning", "content": block.get("thinking") or ""}
    if kind == "tool_use":
        return {
            "type": "tool_call",
            "id": block.get("id"),
            "name": block.get("name"),
            "arguments": block.get("input"),
        }
    if kind == "tool_result":
        return {
            "type": "tool_call_response",
            "id": block.get("tool_use_id"),
            "response": _response(block.get("content")),
        }
    if kind == "server_tool_use":
        call = {"type": block.get("name"), "arguments": block.get("input")}
        return {
            "type": "server_tool_call",
            "id": block.get("id"),
            "name": block.get("name"),
            "server_tool_call": call,
        }
    source = block.get("source")
    if kind in ("image", "document") and isinstance(source, dict):
        return _media(str(kind), source)
    return dict(_without_opaque(block), type=str(kind))


def _response(content: Any) -> Any:
    return _parts(content) if isinstance(content, list) else content


def _media(kind: str, source: Dict[str, Any]) -> Dict[str, Any]:
    if source.get("type") == "url":
        return {"type": "uri", "modality": kind, "uri": source.get("url")}
    if source.get("type") == "file":
        return {"type": "file", "modality": kind, "file_id": source.get("file_id")}
    if source.get("type") == "text":
        return {"type": "text", "content": source.get("data") or ""}
    size = len(source["data"]) if isinstance(source.get("data"), str) else 0
    return {
        "type": kind,
        "modality": kind,
        "mime_type": source.get("media_type"),
        "base64_characters": size,
    }


def _without_opaque(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_opaque(part) for name, part in value.items() if name not in OPAQUE}
    return [_without_opaque(part) for part in value] if isinstance(value, list) else value
