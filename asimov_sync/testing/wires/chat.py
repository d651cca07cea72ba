"""Chat completions on the server's side: OpenAI's, with OpenRouter's and DeepSeek's reasoning.

Sources: https://platform.openai.com/docs/api-reference/chat and …/guides/error-codes, and recorded
traffic. Only the recordings show reasoning (`reasoning_content` for plain text; `reasoning` and
`reasoning_details` if it is signed or encrypted) and `cache_write_tokens`. The format does not
say how long a cache entry lives.
"""

from typing import Any, Dict, Iterator, List, Mapping, Optional

from asimov_sync._json import loads
from asimov_sync.messages import Reply, Usage
from asimov_sync.testing.script import Failure
from asimov_sync.testing.wires.wire import (
    Wire,
    dump_json,
    encode_sse,
    messages_status,
    split_words,
    unwrap_text,
)

__all__ = ["CHAT", "ChatWire"]

Block = Dict[str, Any]

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_TOOL_CHOICES = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
_DONE = "[DONE]"


class ChatWire(Wire):
    """POST …/chat/completions."""

    name = "chat"
    request_id_header = "x-request-id"
    stream_headers = {"content-type": "text/event-stream; charset=utf-8"}

    # The request

    def read_request(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Translate the request. Tool results become user messages, one for each turn."""
        body = {name: value for name, value in request.items() if name not in _TRANSLATED}
        system: List[Block] = []
        messages: List[Dict[str, Any]] = []
        for message in request["messages"]:
            role = message["role"]
            if role in ("system", "developer"):
                system.extend(_decode_content(message["content"]))
            elif role == "tool":
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
                result["content"] = unwrap_text(_decode_content(message["content"]))
                if not (messages and _is_result_message(messages[-1])):
                    messages.append({"role": "user", "content": []})
                messages[-1]["content"].append(result)
            elif role == "assistant":
                blocks = _decode_reasoning(message) + _decode_content(message.get("content"))
                blocks += [_decode_call(call) for call in message.get("tool_calls") or []]
                messages.append({"role": role, "content": unwrap_text(blocks)})
            else:
                messages.append(
                    {"role": role, "content": unwrap_text(_decode_content(message["content"]))}
                )
        body["messages"] = messages
        if system:
            body["system"] = unwrap_text(system)
        for theirs, ours in (("max_tokens", "max_tokens"), ("max_completion_tokens", "max_tokens")):
            if request.get(theirs) is not None:
                body[ours] = request[theirs]
        if request.get("stop") is not None:
            body["stop_sequences"] = (
                [request["stop"]] if isinstance(request["stop"], str) else list(request["stop"])
            )
        if request.get("tools"):
            body["tools"] = [_decode_tool(tool) for tool in request["tools"]]
        choice = request.get("tool_choice")
        if choice is not None:
            body["tool_choice"] = (
                _TOOL_CHOICES[choice]
                if isinstance(choice, str)
                else {"type": "tool", "name": choice["function"]["name"]}
            )
        return body

    # The reply

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """Return a completion with one choice. Its content is null if there is no text."""
        message: Dict[str, Any] = {
            "role": "assistant",
            "content": reply.text or None,
            "refusal": None,
        }
        message.update(_reasoning(reply))
        wanted = _tool_calls(reply)
        if wanted:
            message["tool_calls"] = wanted
        annotations = _annotations(reply)
        if annotations:
            message["annotations"] = annotations
        return {
            "id": reply.id,
            "object": "chat.completion",
            "created": 0,
            "model": reply.model,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": _finish_reason(reply),
                }
            ],
            "usage": _usage(reply.usage),
        }

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Any]:
        """Yield role, reasoning, text, tool calls, the finish_reason, the usage and [DONE].

        The usage is sent only if `stream_options` asks for it.
        """
        options = body.get("stream_options")
        include_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))

        def chunk(
            choices: List[Dict[str, Any]], usage: Optional[Dict[str, Any]] = None
        ) -> Dict[str, Any]:
            head = {
                "id": reply.id,
                "object": "chat.completion.chunk",
                "created": 0,
                "model": reply.model,
            }
            return dict(head, choices=choices, **({"usage": usage} if include_usage else {}))

        def delta(content: Dict[str, Any], finish_reason: Optional[str] = None) -> Dict[str, Any]:
            return chunk(
                [{"index": 0, "delta": content, "logprobs": None, "finish_reason": finish_reason}]
            )

        yield delta({"role": "assistant", "content": "" if reply.text else None, "refusal": None})
        for piece in _reasoning_deltas(reply):
            yield delta(piece)
        for word in split_words(reply.text):
            yield delta({"content": word})
        annotations = _annotations(reply)
        if annotations:
            yield delta({"annotations": annotations})
        for index, call in enumerate(_tool_calls(reply)):
            arguments = call["function"]["arguments"]
            half = len(arguments) // 2
            function = dict(call["function"], arguments="")
            yield delta({"tool_calls": [dict(call, index=index, function=function)]})
            for piece in (arguments[:half], arguments[half:]):
                yield delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield delta({}, _finish_reason(reply))
        if include_usage:
            yield chunk([], _usage(reply.usage))
        yield _DONE

    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """Encode an event without a name."""
        return encode_sse(event if isinstance(event, str) else dump_json(event), None, newline)

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """Raise ValueError: this API has no endpoint that counts tokens."""
        raise ValueError("chat completions have no endpoint that counts tokens")

    # Failures

    def failure_status(self, failure: Failure) -> int:
        """Return the failure's own status, but 503 for 529."""
        return 503 if failure.status == 529 else failure.status

    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """Return an error with a type and a code. An unknown error type is sent as the code."""
        known = messages_status(failure)
        status = failure.status if known is None else known
        kind, code = _ERROR_TYPES.get(
            status, ("invalid_request_error" if 400 <= status < 500 else "server_error", None)
        )
        code = failure.error_type if known is None else code
        return {"error": {"message": failure.message, "type": kind, "param": None, "code": code}}

    def error_event(self, failure: Failure) -> Dict[str, Any]:
        """Return an event with an `error` in place of choices."""
        return self.failure_body(failure)


_TRANSLATED = frozenset("messages max_tokens max_completion_tokens stop tools tool_choice".split())

_ERROR_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "server_is_overloaded"),
    529: ("service_unavailable_error", "server_is_overloaded"),
}


# Parts of requests


def _decode_content(content: Any) -> List[Block]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_decode_part(part) for part in content]


def _decode_part(part: Block) -> Block:
    if part.get("type") != "image_url":
        return dict(part)
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, data = url[len("data:") :].split(";base64,", 1)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _is_result_message(message: Mapping[str, Any]) -> bool:
    content = message["content"]
    return isinstance(content, list) and bool(content) and content[-1].get("type") == "tool_result"


def _decode_call(call: Mapping[str, Any]) -> Block:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": function["name"],
        "input": loads(function["arguments"] or "{}"),
    }


def _decode_reasoning(message: Mapping[str, Any]) -> List[Block]:
    """Return the thinking blocks of an assistant's message."""
    details = message.get("reasoning_details")
    if not details:
        thought = message.get("reasoning_content") or message.get("reasoning")
        return [{"type": "thinking", "thinking": thought}] if thought else []
    blocks = []
    for detail in details:
        if detail["type"] == "reasoning.encrypted":
            blocks.append({"type": "redacted_thinking", "data": detail["data"]})
        elif detail["type"] == "reasoning.text":
            signature = (
                {} if detail.get("signature") is None else {"signature": detail["signature"]}
            )
            blocks.append(
                dict({"type": "thinking", "thinking": detail.get("text") or ""}, **signature)
            )
        else:
            blocks.append(dict(detail))
    return blocks


def _decode_tool(tool: Mapping[str, Any]) -> Dict[str, Any]:
    if tool["type"] != "function":
        return dict(tool)
    function = dict(tool["function"])
    return dict(
        {
            "name": function.pop("name"),
            "input_schema": function.pop("parameters", {"type": "object"}),
        },
        **function,
    )


# Parts of replies


def _tool_calls(reply: Reply) -> List[Dict[str, Any]]:
    for block in reply.message.blocks:
        if block.get("type") not in ("text", "thinking", "redacted_thinking", "tool_use"):
            raise ValueError(f"chat completions have no {block.get('type')} block")
    return [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": dump_json(block["input"])},
        }
        for block in reply.message.blocks
        if block["type"] == "tool_use"
    ]


def _thinking_blocks(reply: Reply) -> List[Block]:
    return [
        block
        for block in reply.message.blocks
        if block.get("type") in ("thinking", "redacted_thinking")
    ]


def _needs_details(thinking: List[Block]) -> bool:
    """Return whether the thinking is signed or encrypted."""
    return any(block["type"] == "redacted_thinking" or "signature" in block for block in thinking)


def _detail(index: int, block: Block) -> Dict[str, Any]:
    if block["type"] == "redacted_thinking":
        return {"type": "reasoning.encrypted", "data": block["data"], "index": index}
    return {
        "type": "reasoning.text",
        "text": block["thinking"],
        "signature": block.get("signature"),
        "format": "anthropic-claude-v1",
        "index": index,
    }


def _reasoning(reply: Reply) -> Dict[str, Any]:
    thinking = _thinking_blocks(reply)
    if not thinking:
        return {}
    text = "".join(block.get("thinking", "") for block in thinking)
    if not _needs_details(thinking):
        return {"reasoning_content": text}
    return {
        "reasoning": text,
        "reasoning_details": [_detail(index, block) for index, block in enumerate(thinking)],
    }


def _reasoning_deltas(reply: Reply) -> Iterator[Dict[str, Any]]:
    """Yield the reasoning word by word. A signature follows as a detail of its own."""
    thinking = _thinking_blocks(reply)
    with_details = _needs_details(thinking)
    for index, block in enumerate(thinking):
        for word in split_words(block.get("thinking", "")):
            if with_details:
                yield {
                    "reasoning": word,
                    "reasoning_details": [{"type": "reasoning.text", "text": word, "index": index}],
                }
            else:
                yield {"reasoning_content": word}
        if block["type"] == "redacted_thinking":
            yield {"reasoning_details": [_detail(index, block)]}
        elif "signature" in block:
            yield {
                "reasoning_details": [
                    {"type": "reasoning.text", "signature": block["signature"], "index": index}
                ]
            }


def _annotations(reply: Reply) -> List[Dict[str, Any]]:
    """Return the citations of web pages, with the range of text that each one supports."""
    annotations, start = [], 0
    for block in reply.message.blocks:
        if block.get("type") != "text":
            continue
        end = start + len(block["text"])
        for citation in block.get("citations") or []:
            if "url" not in citation:
                raise ValueError(f"chat completions have no {citation.get('type')} citation")
            page = {
                "url": citation["url"],
                "title": citation.get("title"),
                "start_index": start,
                "end_index": end,
            }
            annotations.append({"type": "url_citation", "url_citation": page})
        start = end
    return annotations


def _finish_reason(reply: Reply) -> Optional[str]:
    return reply.raw_stop_reason or _FINISH_REASONS.get(reply.stop_reason or "", reply.stop_reason)


def _usage(usage: Usage) -> Dict[str, Any]:
    prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_write_input_tokens
    cached = {"cached_tokens": usage.cache_read_input_tokens}
    if usage.cache_write_input_tokens:
        cached["cache_write_tokens"] = usage.cache_write_input_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": cached,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


CHAT = ChatWire()
