"""Chat completions, the request: a Request to a JSON body, Anthropic's blocks to this wire's messages. Pure: no IO, no clock.

Facts of the wire: https://platform.openai.com/docs/api-reference/chat/create, and recorded traffic, which adds that some
servers take content only as text (DeepSeek), and that reasoning goes back under the name under which it came:
`reasoning_content` (DeepSeek: "must" once tools were called, https://api-docs.deepseek.com/guides/thinking_mode),
`reasoning_details` (https://openrouter.ai/docs/guides/best-practices/reasoning-tokens), parts of the content (Mistral).
"""

import json
from typing import Any, Dict, List, Optional, Tuple

from asimov_sync.inference.request import Request
from asimov_sync.messages import Block, ChatMessage, ChatRole

__all__ = ["encode_request"]

OPTIONS = frozenset(
    "frequency_penalty max_completion_tokens max_tokens metadata parallel_tool_calls presence_penalty reasoning_effort "
    "response_format seed service_tier stop_sequences stream_options temperature tool_choice top_p".split()
)
"""The options of a request that a caller may give, beside `extra`."""

PARTS = frozenset("audio_url file image_url input_audio reference refusal video_url".split())
"""The parts of a content in this wire's own dialect: blocks of these types are sent as they are."""

KEPT_CALL_KEYS = ("extra_content",)
"""Keys of a tool call that have to be sent back: Google's signatures are in it, and without them it refuses the request
(https://ai.google.dev/gemini-api/docs/thought-signatures)."""

Part = Dict[str, Any]


def encode_request(request: Request, completion_limit: bool = False, reasoning: bool = True) -> Dict[str, Any]:
    """The JSON body of a request, without "stream". TypeError for an option that the wire does not have.

    completion_limit: whether max_tokens is sent as max_completion_tokens, which OpenAI's reasoning models insist on.
    reasoning: whether reasoning that came over this wire is sent back. Thinking that came over another one never is: it is
    for its own provider.
    """
    unknown = sorted(set(request.options) - OPTIONS - {"extra"})
    if unknown:
        raise TypeError(
            "unknown option {}; there are {}, and extra={{…}} for what is to be sent as it is".format(
                ", ".join(map(repr, unknown)), ", ".join(sorted(OPTIONS))
            )
        )
    if not request.messages:
        raise ValueError("there is no message to answer: messages is empty")
    messages: List[Dict[str, Any]] = []
    if request.system:
        messages.append(_system(ChatMessage(role=ChatRole.SYSTEM, content=request.system).blocks))
    for message in request.messages:
        if message.role is ChatRole.SYSTEM:
            messages.append(_system(message.blocks))
        elif message.role is ChatRole.ASSISTANT:
            messages.append(_said(message.blocks, reasoning))
        else:
            messages.extend(_heard(message.blocks))
    body: Dict[str, Any] = {"model": request.model, "messages": messages}
    if request.tools:
        body["tools"] = [_tool(definition) for definition in request.tools]
    for name in sorted(OPTIONS & set(request.options)):
        body[name] = request.options[name]
    if "stop_sequences" in body:
        body["stop"] = body.pop("stop_sequences")
    if "tool_choice" in body:
        body["tool_choice"] = _choice(body["tool_choice"])
    if completion_limit and "max_tokens" in body:
        limit = body.pop("max_tokens")
        body.setdefault("max_completion_tokens", limit)
    body.update(request.options.get("extra") or {})
    return body


def _tool(definition: Dict[str, Any]) -> Dict[str, Any]:
    function = {"name": definition["name"], "parameters": definition["input_schema"]}
    if definition.get("description"):
        function["description"] = definition["description"]
    return {"type": "function", "function": function}


def _choice(choice: Any) -> Any:
    """A tool_choice in this wire's form, from a word, a tool's name or Anthropic's form; another dict is sent as it is."""
    words = {"auto": "auto", "any": "required", "required": "required", "none": "none"}
    if isinstance(choice, dict) and choice.get("type") != "tool":
        return words.get(str(choice.get("type")), choice)
    name = choice.get("name") if isinstance(choice, dict) else choice
    if isinstance(choice, str) and choice in words:
        return words[choice]
    return {"type": "function", "function": {"name": name}}


# What was said to the model


def _system(blocks: List[Block]) -> Dict[str, Any]:
    return {"role": "system", "content": _content(_parts(blocks))}


def _heard(blocks: List[Block]) -> List[Dict[str, Any]]:
    """A user's turn: a message of its own for each tool result, and then one for the rest."""
    messages: List[Dict[str, Any]] = []
    parts: List[Part] = []
    for block in blocks:
        if block.get("type") == "tool_result":
            message, shown = _result(block)
            messages.append(message)
            parts.extend(shown)
    parts.extend(_parts([block for block in blocks if block.get("type") != "tool_result"]))
    if parts or not messages:
        messages.append({"role": "user", "content": _content(parts)})
    return messages


def _result(block: Block) -> Tuple[Dict[str, Any], List[Part]]:
    """A tool's result, which is only text on this wire, and what of it has to be shown by the user's next message."""
    content = block.get("content") or ""
    parts = _parts([{"type": "text", "text": content}] if isinstance(content, str) else content)
    shown = [part for part in parts if part["type"] != "text"]
    told = [part["text"] for part in parts if part["type"] == "text"]
    name = block.get("tool_use_id")
    if shown:
        told.append("(The rest of this result is shown in the user's next message.)")
        shown.insert(0, _text(f"(Of the result of the tool call {name}:)"))
    words = "\n".join(told)
    if block.get("is_error"):
        words = "Error: " + words  # the wire has no field for it
    return {"role": "tool", "tool_call_id": name, "content": words}, shown


def _content(parts: List[Part]) -> Any:
    """Text where it is only text, for the sake of servers that take nothing else; lines between, as vLLM joins them."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _parts(blocks: List[Block]) -> List[Part]:
    return [part for block in blocks for part in _part(block)]


def _part(block: Block) -> List[Part]:
    kind = block.get("type")
    source = block.get("source")
    address = _address(source) if isinstance(source, dict) else None
    if kind == "text":
        return [_text(block.get("text") or "")]
    if isinstance(kind, str) and kind in PARTS:
        return [block]
    if kind == "image" and address:
        return [{"type": "image_url", "image_url": {"url": address}}]
    if kind == "document" and isinstance(source, dict):
        if source.get("type") in ("text", "content"):
            return _document(block, source)
        if source.get("type") == "file":
            return [{"type": "file", "file": {"file_id": source.get("file_id")}}]
        if address:
            return [{"type": "file", "file": {"filename": block.get("title") or "document.pdf", "file_data": address}}]
    if kind in ("thinking", "redacted_thinking"):
        return []
    return [_text(_told(block))]


def _address(source: Dict[str, Any]) -> Optional[str]:
    """The address of what a block holds: a data: URL where it holds it itself."""
    if source.get("type") == "base64":
        return "data:{};base64,{}".format(source.get("media_type"), source.get("data"))
    return source.get("url") if source.get("type") == "url" else None


def _document(block: Block, source: Dict[str, Any]) -> List[Part]:
    """A document that holds text, or blocks, with its title and context before them."""
    inner = source.get("data") if source.get("type") == "text" else source.get("content")
    before = [_text(block[name]) for name in ("title", "context") if block.get(name)]
    return before + (_parts(inner) if isinstance(inner, list) else [_text(inner or "")])


def _text(words: str) -> Part:
    return {"type": "text", "text": words}


def _told(block: Block) -> str:
    """A block that this wire has no form for, as text: all of it that a model could read."""
    return json.dumps(_readable(block), ensure_ascii=False)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = [name for name in value if name.startswith("encrypted_") or name in ("cache_control", "signature")]
        return {name: _readable(one) for name, one in value.items() if name not in hidden}
    return [_readable(one) for one in value] if isinstance(value, list) else value


# What the model said


def _said(blocks: List[Block], reasoning: bool) -> Dict[str, Any]:
    """An assistant's turn, as it came: one message with its content, its reasoning and its calls.

    A block's "field" says where in the server's message it was (see the fold): in its content, in a field for reasoning, or
    in one beside them. Of the last, none is wanted back but the id of what was spoken.
    """
    message: Dict[str, Any] = {"role": "assistant", "content": None}
    parts: List[Part] = []
    calls = []
    for block in blocks:
        kind, field = block.get("type"), block.get("field")
        if kind == "thinking":
            if reasoning:
                _think(block, message, parts)
        elif field == "content":
            parts.append(_without(block, "field"))
        elif kind == "tool_use":
            calls.append(_call(block))
        elif kind == "audio" and isinstance(block.get("audio"), dict):
            message["audio"] = {"id": block["audio"].get("id")}
        elif kind == "text" and block.get("refusal") is True:
            parts.append({"type": "refusal", "refusal": block.get("text") or ""})
        elif field is None:
            parts.extend(_part(block))
    if any(part["type"] != "text" for part in parts):
        message["content"] = parts
    else:
        words = "".join(part["text"] for part in parts)
        # Beside calls, too: some servers take no null there (llama-cpp-python, LM Studio, Google); an empty text they take.
        message["content"] = words or (None if "audio" in message else "")
    if calls:
        message["tool_calls"] = calls
    return message


def _think(block: Block, message: Dict[str, Any], parts: List[Part]) -> None:
    """Reasoning, where it was when it came; what does not say where came over another wire."""
    field, words = block.get("field"), block.get("thinking") or ""
    if field == "content":
        parts.append(dict(_without(block, "field"), thinking=[_text(words)]))
    elif field in ("reasoning", "reasoning_content"):
        message[field] = message.get(field, "") + words
    if block.get("reasoning_details"):
        message["reasoning_details"] = message.get("reasoning_details", []) + block["reasoning_details"]


def _without(block: Block, name: str) -> Block:
    return {key: value for key, value in block.items() if key != name}


def _call(block: Block) -> Dict[str, Any]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    call = {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }
    call.update((name, block[name]) for name in KEPT_CALL_KEYS if name in block)
    return call
