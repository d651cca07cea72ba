"""Messages as the conventions write them: a JSON text of roles and parts. Pure.

What is sealed is left out, and of binary data there is only how much it is: neither is for those who read spans.
"""

import json
from typing import Any, Dict, List, Optional

from asimov_sync.inference.request import System
from asimov_sync.messages import Block, ChatMessage, ChatRole, Reply, jsonable

__all__ = ["arguments", "input_messages", "output_messages", "system_instructions", "tool_definitions"]

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
}
"""The conventions' words for our stop reasons; others stay as they are, and none at all is an error."""

SEALED = frozenset(["data", "signature", "encrypted_content", "encrypted_index"])
"""What only the provider can read, or what is binary."""


def input_messages(messages: List[ChatMessage]) -> str:
    """What is sent to a model."""
    return _json([{"role": _role(message), "parts": _parts(message.blocks)} for message in messages])


def output_messages(reply: Reply, with_reason: bool) -> str:
    """What came from a model. with_reason: whether the message says why it ended, in the conventions' own words."""
    told: Dict[str, Any] = {"role": _role(reply.message), "parts": _parts(reply.message.blocks)}
    if with_reason:
        reason = reply.stop_reason
        told["finish_reason"] = "error" if reason is None else FINISH_REASONS.get(reason, reason)
    return _json([told])


def system_instructions(system: System) -> Optional[str]:
    """The system prompt; None where there is none."""
    if not system:
        return None
    return _json(_parts([{"type": "text", "text": system}] if isinstance(system, str) else system))


def tool_definitions(tools: List[Dict[str, Any]]) -> Optional[str]:
    """The tools that a model may want called; None where there are none."""
    if not tools:
        return None
    return _json(
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


def arguments(given: Dict[str, Any]) -> str:
    """What a tool is called with."""
    return _json(given)


def _json(value: Any) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False)


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
        return {"type": "tool_call", "id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}
    if kind == "tool_result":
        return {"type": "tool_call_response", "id": block.get("tool_use_id"), "response": _response(block.get("content"))}
    if kind == "server_tool_use":
        call = {"type": block.get("name"), "arguments": block.get("input")}
        return {"type": "server_tool_call", "id": block.get("id"), "name": block.get("name"), "server_tool_call": call}
    source = block.get("source")
    if kind in ("image", "document") and isinstance(source, dict):
        return _media(str(kind), source)
    return dict(_unsealed(block), type=str(kind))


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
    return {"type": kind, "modality": kind, "mime_type": source.get("media_type"), "base64_characters": size}


def _unsealed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unsealed(part) for name, part in value.items() if name not in SEALED}
    return [_unsealed(part) for part in value] if isinstance(value, list) else value
