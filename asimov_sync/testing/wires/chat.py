"""The chat completions wire, from the server's side: as OpenAI has it, with reasoning as OpenRouter and DeepSeek have it.

Facts of the wire: https://platform.openai.com/docs/api-reference/chat and …/guides/error-codes, and recorded traffic, which
adds the reasoning (`reasoning_content` for text alone; `reasoning` and `reasoning_details` where it is signed or encrypted)
and `cache_write_tokens`. Nothing on this wire tells how long a cache lives.
"""

from typing import Any, Dict, Iterator, List, Mapping, Optional

from asimov_sync.foreign_json import parsed
from asimov_sync.messages import Reply, Usage
from asimov_sync.testing.script import Failure
from asimov_sync.testing.wires.contract import Wire, as_json, canonical, plain, sse
from asimov_sync.testing.wires.messages import words_of

__all__ = ["CHAT", "ChatWire"]

Block = Dict[str, Any]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_CHOICES = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
_DONE = "[DONE]"


class ChatWire(Wire):
    """POST …/chat/completions."""

    name = "chat"
    request_id_header = "x-request-id"
    stream_headers = {"content-type": "text/event-stream; charset=utf-8"}

    # The request

    def read_request(self, told: Mapping[str, Any]) -> Dict[str, Any]:
        """The request in Messages' words; the results of tools are said by the user, those of one turn in one message."""
        body = {name: value for name, value in told.items() if name not in _RENAMED}
        system: List[Block] = []
        messages: List[Dict[str, Any]] = []
        for message in told["messages"]:
            role = message["role"]
            if role in ("system", "developer"):
                system.extend(_content(message["content"]))
            elif role == "tool":
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
                result["content"] = plain(_content(message["content"]))
                if not (messages and messages[-1]["role"] == "user" and _is_result(messages[-1]["content"])):
                    messages.append({"role": "user", "content": []})
                messages[-1]["content"].append(result)
            elif role == "assistant":
                messages.append({"role": role, "content": plain(_reasoned(message) + _content(message.get("content")))})
                wanted = [_wanted(call) for call in message.get("tool_calls") or []]
                if wanted:
                    messages[-1]["content"] = _content(messages[-1]["content"]) + wanted
            else:
                messages.append({"role": role, "content": plain(_content(message["content"]))})
        body["messages"] = messages
        if system:
            body["system"] = plain(system)
        for theirs, ours in (("max_tokens", "max_tokens"), ("max_completion_tokens", "max_tokens")):
            if told.get(theirs) is not None:
                body[ours] = told[theirs]
        if told.get("stop") is not None:
            body["stop_sequences"] = [told["stop"]] if isinstance(told["stop"], str) else list(told["stop"])
        if told.get("tools"):
            body["tools"] = [_tool(tool) for tool in told["tools"]]
        choice = told.get("tool_choice")
        if choice is not None:
            body["tool_choice"] = (
                _CHOICES[choice] if isinstance(choice, str) else {"type": "tool", "name": choice["function"]["name"]}
            )
        return body

    # The reply

    def reply_body(self, reply: Reply, body: Mapping[str, Any]) -> Dict[str, Any]:
        """A completion with one choice; content is null where there is no text."""
        message: Dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
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
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}],
            "usage": _figures(reply.usage),
        }

    def reply_events(self, reply: Reply, body: Mapping[str, Any]) -> Iterator[Any]:
        """The role, reasoning, text, each call's name and then its arguments, the finish_reason; usage if asked; [DONE]."""
        options = body.get("stream_options")
        include_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))

        def chunk(choices: List[Dict[str, Any]], usage: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
            head = {"id": reply.id, "object": "chat.completion.chunk", "created": 0, "model": reply.model}
            return dict(head, choices=choices, **({"usage": usage} if include_usage else {}))

        def delta(told: Dict[str, Any], finish_reason: Optional[str] = None) -> Dict[str, Any]:
            return chunk([{"index": 0, "delta": told, "logprobs": None, "finish_reason": finish_reason}])

        yield delta({"role": "assistant", "content": "" if reply.text else None, "refusal": None})
        for piece in _reasoning_deltas(reply):
            yield delta(piece)
        for word in words_of(reply.text):
            yield delta({"content": word})
        annotations = _annotations(reply)
        if annotations:
            yield delta({"annotations": annotations})
        for index, call in enumerate(_tool_calls(reply)):
            told = call["function"]["arguments"]
            half = len(told) // 2
            yield delta({"tool_calls": [dict(call, index=index, function=dict(call["function"], arguments=""))]})
            for piece in (told[:half], told[half:]):
                yield delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield delta({}, _finish_reason(reply))
        if include_usage:
            yield chunk([], _figures(reply.usage))
        yield _DONE

    def encode(self, event: Any, newline: str = "\n") -> bytes:
        """An event without a name."""
        return sse(event if isinstance(event, str) else as_json(event), None, newline)

    def count_body(self, tokens: int) -> Dict[str, Any]:
        """ValueError: this wire counts nothing."""
        raise ValueError("chat completions have no endpoint that counts tokens")

    # Failures

    def failure_status(self, failure: Failure) -> int:
        """As given, but for 529, which is a 503 here."""
        return 503 if failure.status == 529 else failure.status

    def failure_body(self, failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
        """A coarse type and a code. A word that is not of the Messages API is the code."""
        known = canonical(failure)
        status = failure.status if known is None else known
        kind, code = _KINDS.get(status, ("invalid_request_error" if 400 <= status < 500 else "server_error", None))
        code = failure.error_type if known is None else code
        return {"error": {"message": failure.message, "type": kind, "param": None, "code": code}}

    def error_event(self, failure: Failure) -> Dict[str, Any]:
        """An event with an `error` in place of choices."""
        return self.failure_body(failure)


_RENAMED = frozenset("messages max_tokens max_completion_tokens stop tools tool_choice".split())

_KINDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("service_unavailable_error", "server_is_overloaded"),
    529: ("service_unavailable_error", "server_is_overloaded"),
}


# Requests: parts


def _content(content: Any) -> List[Block]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_part(part) for part in content]


def _part(part: Block) -> Block:
    if part.get("type") != "image_url":
        return dict(part)
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, data = url[len("data:") :].split(";base64,", 1)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _is_result(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and content[-1].get("type") == "tool_result"


def _wanted(call: Mapping[str, Any]) -> Block:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": parsed(function["arguments"] or "{}")}


def _reasoned(message: Mapping[str, Any]) -> List[Block]:
    """The thinking in an assistant's message."""
    details = message.get("reasoning_details")
    if not details:
        thought = message.get("reasoning_content") or message.get("reasoning")
        return [{"type": "thinking", "thinking": thought}] if thought else []
    blocks = []
    for detail in details:
        if detail["type"] == "reasoning.encrypted":
            blocks.append({"type": "redacted_thinking", "data": detail["data"]})
        elif detail["type"] == "reasoning.text":
            signature = {} if detail.get("signature") is None else {"signature": detail["signature"]}
            blocks.append(dict({"type": "thinking", "thinking": detail.get("text") or ""}, **signature))
        else:
            blocks.append(dict(detail))
    return blocks


def _tool(tool: Mapping[str, Any]) -> Dict[str, Any]:
    if tool["type"] != "function":
        return dict(tool)
    function = dict(tool["function"])
    return dict({"name": function.pop("name"), "input_schema": function.pop("parameters", {"type": "object"})}, **function)


# Replies: parts


def _tool_calls(reply: Reply) -> List[Dict[str, Any]]:
    for block in reply.message.blocks:
        if block.get("type") not in ("text", "thinking", "redacted_thinking", "tool_use"):
            raise ValueError("chat completions have no {} block".format(block.get("type")))
    return [
        {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": as_json(block["input"])}}
        for block in reply.message.blocks
        if block["type"] == "tool_use"
    ]


def _thoughts(reply: Reply) -> List[Block]:
    return [block for block in reply.message.blocks if block.get("type") in ("thinking", "redacted_thinking")]


def _sealed(thoughts: List[Block]) -> bool:
    """Whether there is more to the thoughts than text."""
    return any(block["type"] == "redacted_thinking" or "signature" in block for block in thoughts)


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
    thoughts = _thoughts(reply)
    if not thoughts:
        return {}
    text = "".join(block.get("thinking", "") for block in thoughts)
    if not _sealed(thoughts):
        return {"reasoning_content": text}
    return {"reasoning": text, "reasoning_details": [_detail(index, block) for index, block in enumerate(thoughts)]}


def _reasoning_deltas(reply: Reply) -> Iterator[Dict[str, Any]]:
    """Reasoning word by word; of one that is sealed, the signature comes last, as a detail of its own."""
    thoughts = _thoughts(reply)
    sealed = _sealed(thoughts)
    for index, block in enumerate(thoughts):
        for word in words_of(block.get("thinking", "")):
            if sealed:
                yield {"reasoning": word, "reasoning_details": [{"type": "reasoning.text", "text": word, "index": index}]}
            else:
                yield {"reasoning_content": word}
        if block["type"] == "redacted_thinking":
            yield {"reasoning_details": [_detail(index, block)]}
        elif "signature" in block:
            yield {"reasoning_details": [{"type": "reasoning.text", "signature": block["signature"], "index": index}]}


def _annotations(reply: Reply) -> List[Dict[str, Any]]:
    """Citations of web pages, with the part of the text that they are for."""
    told, start = [], 0
    for block in reply.message.blocks:
        if block.get("type") != "text":
            continue
        end = start + len(block["text"])
        for citation in block.get("citations") or []:
            if "url" not in citation:
                raise ValueError("chat completions have no {} citation".format(citation.get("type")))
            page = {"url": citation["url"], "title": citation.get("title"), "start_index": start, "end_index": end}
            told.append({"type": "url_citation", "url_citation": page})
        start = end
    return told


def _finish_reason(reply: Reply) -> Optional[str]:
    return reply.raw_stop_reason or _FINISH.get(reply.stop_reason or "", reply.stop_reason)


def _figures(usage: Usage) -> Dict[str, Any]:
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
