"""Encodes a Request as the JSON body of a chat completion. Pure: no IO, no clock.

Messages come as Anthropic's blocks and are encoded as this wire's messages.

Facts of the wire: https://platform.openai.com/docs/api-reference/chat/create, and recorded
traffic, which adds that some servers accept content only as text (DeepSeek), and that reasoning is
sent back under the name under which it arrived: `reasoning_content` (DeepSeek: "must" once tools
were called, https://api-docs.deepseek.com/guides/thinking_mode), `reasoning_details`
(https://openrouter.ai/docs/guides/best-practices/reasoning-tokens), parts of the content (Mistral).
"""

import json
from typing import Any, Dict, List, Optional, Tuple

from asimov_sync.inference.request import Request
from asimov_sync.messages import Block, ChatMessage, ChatRole

__all__ = ["encode_request"]

PARTS = frozenset("audio_url file image_url input_audio reference refusal video_url".split())
"""Content parts of this wire itself: blocks of these types are sent unchanged."""

KEPT_CALL_KEYS = ("extra_content",)
"""Keys of a tool call that have to be sent back. They hold Google's signatures, without which it
rejects the request (https://ai.google.dev/gemini-api/docs/thought-signatures)."""

Part = Dict[str, Any]


def encode_request(
    request: Request, completion_limit: bool = False, reasoning: bool = True
) -> Dict[str, Any]:
    """Return the JSON body of a request, without "stream".

    completion_limit: send max_tokens as max_completion_tokens, which OpenAI's reasoning models
        require.
    reasoning: send back reasoning that came over this wire. Thinking of another wire is never
        sent: only its own provider can read it.

    Raises ValueError without messages.
    """
    if not request.messages:
        raise ValueError("there is no message to answer: messages is empty")
    messages: List[Dict[str, Any]] = []
    if request.system:
        messages.append(
            _encode_system(ChatMessage(role=ChatRole.SYSTEM, content=request.system).blocks)
        )
    for message in request.messages:
        if message.role is ChatRole.SYSTEM:
            messages.append(_encode_system(message.blocks))
        elif message.role is ChatRole.ASSISTANT:
            messages.append(_encode_assistant(message.blocks, reasoning))
        else:
            messages.extend(_encode_user(message.blocks))
    body: Dict[str, Any] = {"model": request.model, "messages": messages}
    if request.tools:
        body["tools"] = [_encode_tool(definition) for definition in request.tools]
    for name in sorted(set(request.options) - {"extra"}):
        body[name] = request.options[name]
    if "stop_sequences" in body:
        body["stop"] = body.pop("stop_sequences")
    if "tool_choice" in body:
        body["tool_choice"] = _encode_tool_choice(body["tool_choice"])
    if completion_limit and "max_tokens" in body:
        limit = body.pop("max_tokens")
        body.setdefault("max_completion_tokens", limit)
    body.update(request.options.get("extra") or {})
    return body


def _encode_tool(definition: Dict[str, Any]) -> Dict[str, Any]:
    function = {"name": definition["name"], "parameters": definition["input_schema"]}
    if definition.get("description"):
        function["description"] = definition["description"]
    return {"type": "function", "function": function}


def _encode_tool_choice(choice: Any) -> Any:
    """Return a tool_choice in this wire's form.

    choice: "auto", "any", "required" or "none", a tool's name, or Anthropic's form. Any other dict
        is sent unchanged.
    """
    modes = {"auto": "auto", "any": "required", "required": "required", "none": "none"}
    if isinstance(choice, dict) and choice.get("type") != "tool":
        return modes.get(str(choice.get("type")), choice)
    name = choice.get("name") if isinstance(choice, dict) else choice
    if isinstance(choice, str) and choice in modes:
        return modes[choice]
    return {"type": "function", "function": {"name": name}}


# Messages to the model


def _encode_system(blocks: List[Block]) -> Dict[str, Any]:
    return {"role": "system", "content": _content(_parts(blocks))}


def _encode_user(blocks: List[Block]) -> List[Dict[str, Any]]:
    """Return the messages of a user's turn: one for each tool result, then one for the rest."""
    messages: List[Dict[str, Any]] = []
    parts: List[Part] = []
    for block in blocks:
        if block.get("type") == "tool_result":
            message, shown = _encode_tool_result(block)
            messages.append(message)
            parts.extend(shown)
    parts.extend(_parts([block for block in blocks if block.get("type") != "tool_result"]))
    if parts or not messages:
        messages.append({"role": "user", "content": _content(parts)})
    return messages


def _encode_tool_result(block: Block) -> Tuple[Dict[str, Any], List[Part]]:
    """Return the message of a tool result, and the parts for the user's next message.

    This wire accepts only text in a tool result.
    """
    content = block.get("content") or ""
    parts = _parts([{"type": "text", "text": content}] if isinstance(content, str) else content)
    shown = [part for part in parts if part["type"] != "text"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    name = block.get("tool_use_id")
    if shown:
        texts.append("(The rest of this result is shown in the user's next message.)")
        shown.insert(0, _text(f"(Of the result of the tool call {name}:)"))
    text = "\n".join(texts)
    if block.get("is_error"):
        text = "Error: " + text  # the wire has no field for it
    return {"role": "tool", "tool_call_id": name, "content": text}, shown


def _content(parts: List[Part]) -> Any:
    """Return the parts; or a str if all are text, because some servers accept nothing else.

    The texts are joined with newlines, as vLLM does.
    """
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _parts(blocks: List[Block]) -> List[Part]:
    return [part for block in blocks for part in _part(block)]


def _part(block: Block) -> List[Part]:
    kind = block.get("type")
    source = block.get("source")
    url = _source_url(source) if isinstance(source, dict) else None
    if kind == "text":
        return [_text(block.get("text") or "")]
    if isinstance(kind, str) and kind in PARTS:
        return [block]
    if kind == "image" and url:
        return [{"type": "image_url", "image_url": {"url": url}}]
    if kind == "document" and isinstance(source, dict):
        if source.get("type") in ("text", "content"):
            return _document(block, source)
        if source.get("type") == "file":
            return [{"type": "file", "file": {"file_id": source.get("file_id")}}]
        if url:
            return [
                {
                    "type": "file",
                    "file": {"filename": block.get("title") or "document.pdf", "file_data": url},
                }
            ]
    if kind in ("thinking", "redacted_thinking"):
        return []
    return [_text(_as_text(block))]


def _source_url(source: Dict[str, Any]) -> Optional[str]:
    """Return the URL of a block's source; a data: URL if the block holds the data."""
    if source.get("type") == "base64":
        return f"data:{source.get('media_type')};base64,{source.get('data')}"
    return source.get("url") if source.get("type") == "url" else None


def _document(block: Block, source: Dict[str, Any]) -> List[Part]:
    """Return the parts of a document of text or blocks, after its title and context."""
    inner = source.get("data") if source.get("type") == "text" else source.get("content")
    before = [_text(block[name]) for name in ("title", "context") if block.get(name)]
    return before + (_parts(inner) if isinstance(inner, list) else [_text(inner or "")])


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _as_text(block: Block) -> str:
    """Return a block that this wire cannot express as JSON text, without its unreadable fields."""
    return json.dumps(_readable(block), ensure_ascii=False)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = [
            name
            for name in value
            if name.startswith("encrypted_") or name in ("cache_control", "signature")
        ]
        return {name: _readable(item) for name, item in value.items() if name not in hidden}
    return [_readable(item) for item in value] if isinstance(value, list) else value


# Messages of the model


def _encode_assistant(blocks: List[Block], reasoning: bool) -> Dict[str, Any]:
    """Return the message of an assistant's turn, with its content, reasoning and calls.

    A block's "field" records where in the server's message it was (see `ChatFold`): in the
    content, in a field for reasoning, or in another field. Of the other fields, only the id of
    spoken audio is sent back.
    """
    message: Dict[str, Any] = {"role": "assistant", "content": None}
    parts: List[Part] = []
    calls = []
    for block in blocks:
        kind, field = block.get("type"), block.get("field")
        if kind == "thinking":
            if reasoning:
                _add_reasoning(block, message, parts)
        elif field == "content":
            parts.append(_without(block, "field"))
        elif kind == "tool_use":
            calls.append(_encode_call(block))
        elif kind == "audio" and isinstance(block.get("audio"), dict):
            message["audio"] = {"id": block["audio"].get("id")}
        elif kind == "text" and block.get("refusal") is True:
            parts.append({"type": "refusal", "refusal": block.get("text") or ""})
        elif field is None:
            parts.extend(_part(block))
    if any(part["type"] != "text" for part in parts):
        message["content"] = parts
    else:
        text = "".join(part["text"] for part in parts)
        # Also with calls: some servers (llama-cpp-python, LM Studio, Google) reject null, not "".
        message["content"] = text or (None if "audio" in message else "")
    if calls:
        message["tool_calls"] = calls
    return message


def _add_reasoning(block: Block, message: Dict[str, Any], parts: List[Part]) -> None:
    """Add reasoning to the field in which it arrived. Without a "field" it is of another wire."""
    field, text = block.get("field"), block.get("thinking") or ""
    if field == "content":
        parts.append(dict(_without(block, "field"), thinking=[_text(text)]))
    elif field in ("reasoning", "reasoning_content"):
        message[field] = message.get(field, "") + text
    if block.get("reasoning_details"):
        message["reasoning_details"] = (
            message.get("reasoning_details", []) + block["reasoning_details"]
        )


def _without(block: Block, name: str) -> Block:
    return {key: value for key, value in block.items() if key != name}


def _encode_call(block: Block) -> Dict[str, Any]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    call = {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }
    call.update((name, block[name]) for name in KEPT_CALL_KEYS if name in block)
    return call
