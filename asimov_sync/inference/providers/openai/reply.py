"""Decodes replies of chat completions, streamed or whole, to a Reply. Pure: no IO, no clock.

Facts of the wire: https://platform.openai.com/docs/api-reference/chat-streaming, and recorded
traffic of many servers, which adds:

- usage may be on no chunk, on each, on the last choice's or on one without choices;
- `[DONE]` may be missing, or come without a finish_reason before it;
- a finish_reason may come twice, or before the last call;
- "" stands for null anywhere;
- a content may be null, a list of parts, or a JSON object.
"""

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from asimov_sync._json import loads
from asimov_sync.inference.providers.coerce import as_count, as_str, parse_object
from asimov_sync.inference.providers.fold import Fold
from asimov_sync.inference.providers.openai.errors import decode_error
from asimov_sync.inference.providers.openai.request import KEPT_CALL_KEYS
from asimov_sync.messages import (
    Block,
    ChatMessage,
    ChatRole,
    Event,
    Reply,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallReady,
    Usage,
)

__all__ = ["ChatFold", "decode_reply"]

DONE = "[DONE]"
"""The data of the final event, in place of JSON."""

_STOP_REASONS = {
    "stop": "end_turn",
    "eos": "end_turn",  # Together
    "eos_token": "end_turn",  # text-generation-inference
    "length": "max_tokens",
    "model_length": "model_context_window_exceeded",  # Mistral
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_FAILURES = ("error", "abort", "insufficient_system_resource")
"""Finish reasons of a server that gave up (Mistral and OpenRouter; vLLM; DeepSeek). The text so
far is not the reply."""

_RESERVED = ("text", "thinking", "tool_use", "type")
"""Reserved keys of blocks. A server's field with such a name is not kept."""

_ANNOTATIONS = ("citations", "search_results")
"""Fields beside the choices in which Perplexity describes the text."""

ID_CHARACTERS = 28
"""Characters of a reply's id in a generated call id. OpenAI accepts 40 characters in all."""


def decode_reply(provider: str, body: Any) -> Reply:
    """Return the reply of a response that was not streamed.

    Raises ValueError, KeyError, TypeError or AttributeError if the body is not a reply, and the
    server's own error if it came with the status 200.
    """
    fold = ChatFold(provider, in_pieces=False)
    choices = body.get("choices") or ()
    choice = next((choice for choice in choices if not choice.get("index")), None)
    if choice is None:
        fold.feed(body)  # raises if it is an error
        raise ValueError("the response has no choice")
    message = dict(choice["message"])
    # Each of these is a complete call, whatever its index is.
    message["tool_calls"] = [
        dict(call, index=index) for index, call in enumerate(message.get("tool_calls") or [])
    ]
    fold.feed(dict(body, choices=[dict(choice, delta=message)]))
    return fold.end()


class ChatFold(Fold):
    """Folds the chunks of a chat-completions stream.

    Only the first choice is read. Figures that the wire repeats (usage) are overwritten, never
    added.

    in_pieces: False for a whole message, whose values are not joined.

    Fields that a Reply does not have go into its blocks: annotations and citations into the
    text's, any other field of the server's message (audio, say) into a block of that name. A
    "field" in a block records where it was, for sending it back.
    """

    def __init__(self, provider: str, in_pieces: bool = True) -> None:
        self._provider = provider
        self._in_pieces = in_pieces
        self._id = self._model = ""
        self._finish_reason: Optional[str] = None
        self._figures: Dict[str, Any] = {}
        self._additions = 0  # how often something was added to the reply
        self._has_final_usage = (
            False  # usage came with or after the finish reason, or after all content
        )
        self._reasoning = _Reasoning()
        self._content: List[_BlockBuilder] = []
        self._text: Optional[List[str]] = None  # the pieces of the current text block
        self._refusal: List[str] = []
        self._annotations: Dict[str, List[Any]] = {}
        self._fields: Dict[str, Any] = {}
        self._audio: Dict[str, List[str]] = {}
        self._calls = _ToolCalls()

    # The events

    def feed_text(self, data: str) -> Sequence[Event]:
        """Take an event as text. `[DONE]` is the final event."""
        if data.strip() != DONE:
            return self.feed(loads(data))
        if self._finish_reason is None and not (self._has_final_usage and self._additions):
            return ()  # servers send [DONE] after their own failures, too
        return self._end()

    def finish(self, length_known: bool) -> Sequence[Event]:
        """Complete a reply without `[DONE]`.

        It is complete if its finish reason arrived and nothing can be missing after that.
        """
        complete = self._finish_reason is not None and (length_known or self._has_final_usage)
        return self._end() if complete else ()

    def end(self) -> Reply:
        """Return the reply of a whole message. ValueError if it is empty."""
        if self._finish_reason is None and not self._additions:
            raise ValueError("the message is empty, and has no finish_reason")
        self._end()
        return self.partial()

    def _end(self) -> Sequence[Event]:
        self.done = True
        ready: List[Event] = [ToolCallReady(call) for call in self._calls.take_ready(self._id)]
        return ready + [ReplyDone(self.partial())]

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """Take a chunk and return its typed events. An error inside a chunk is raised."""
        if data.get("error") or data.get("object") == "error":
            raise decode_error(self._provider, None, {}, data)
        if not (self._id and self._model):
            self._id = self._id or as_str(data.get("id")) or ""
            self._model = self._model or as_str(data.get("model")) or ""
        events: List[Event] = []
        additions_before = self._additions
        figures = data.get("usage")
        for choice in data.get("choices") or ():
            if choice.get("index"):
                continue
            delta = choice.get("delta")
            if delta is None:
                delta = choice.get("message") or {}  # a whole message as the only chunk
            self._add(delta, events)
            reason = choice.get("finish_reason")
            if reason:
                self._set_finish_reason(reason, choice, events)
            figures = figures or choice.get("usage")  # Moonshot
        for name in _ANNOTATIONS:
            if isinstance(data.get(name), list) and data[name]:
                self._annotations[name] = data[name]
        if not figures and isinstance(data.get("x_groq"), dict):
            figures = data["x_groq"].get("usage")
        unchanged = additions_before == self._additions
        if not unchanged:
            self._has_final_usage = False
        if isinstance(figures, dict) and figures:
            self._figures.update(
                (name, figure) for name, figure in figures.items() if figure is not None
            )
            self._has_final_usage = self._finish_reason is not None or unchanged
        return events

    def _set_finish_reason(
        self, reason: str, choice: Mapping[str, Any], events: List[Event]
    ) -> None:
        if _require_str(reason) in _FAILURES:
            error = choice.get("error") or {
                "code": reason,
                "message": "the model did not finish its reply",
            }
            raise decode_error(self._provider, None, {}, error)
        self._finish_reason = reason
        ready = self._calls.take_ready(self._id, only_complete=True)
        events.extend(ToolCallReady(call) for call in ready)

    def _add(self, delta: Mapping[str, Any], events: List[Event]) -> None:
        for name, value in delta.items():
            if not value or name == "role":
                continue
            if name == "content":
                self._add_content(value, events)
            elif name in ("reasoning_content", "reasoning"):
                if name == "reasoning" and delta.get("reasoning_content"):
                    continue  # the same under both names
                self._reasoning.field = self._reasoning.field or name
                self._reasoning.pieces.append(_require_str(value))
                events.append(ThinkingDelta(value))
            elif name == "reasoning_details":
                text = self._reasoning.add_details(value, self._in_pieces)
                if text and not (delta.get("reasoning") or delta.get("reasoning_content")):
                    self._reasoning.pieces.append(text)
                    events.append(ThinkingDelta(text))
            elif name == "tool_calls":
                for piece in value:
                    ready = self._calls.add(piece, self._id)
                    events.extend(ToolCallReady(call) for call in ready)
            elif name == "function_call":  # the wire's older form, of a single call
                if delta.get("tool_calls"):
                    continue  # the same under both names (llama-cpp-python)
                self._calls.add({"index": 0, "function": value}, self._id)
            elif name == "refusal":
                self._refusal.append(_require_str(value))
                events.append(TextDelta(value))
            elif name == "annotations" and isinstance(value, list):
                known = self._annotations.setdefault(name, [])
                known.extend(annotation for annotation in value if annotation not in known)
            elif isinstance(value, (dict, list)) and name not in _RESERVED:
                self._keep_field(name, value)
            else:
                continue  # a token's id or the name of a channel: not part of the reply
            self._additions += 1

    def _add_content(self, content: Any, events: List[Event]) -> None:
        if isinstance(content, str):
            self._add_text(content, events)
        elif isinstance(content, dict):  # Cloudflare, for a reply that had to be JSON
            self._add_text(json.dumps(content, ensure_ascii=False), events)
        elif isinstance(content, list):
            for part in content:
                self._add_part(part, events)
        else:
            raise ValueError(f"the content must be text or a list, not {type(content).__name__}")

    def _add_text(self, text: str, events: List[Event]) -> None:
        if self._text is None:
            self._text = self._start_block({"type": "text"}, "text")
        self._text.append(text)
        events.append(TextDelta(text))

    def _add_part(self, part: Any, events: List[Event]) -> None:
        """Add a part of a content that is a list; an unknown part is kept as it is."""
        kind = "text" if isinstance(part, str) else part["type"]
        if kind == "text":
            text = part if isinstance(part, str) else part["text"]
            if text:
                self._add_text(_require_str(text), events)
        elif kind == "refusal":
            self._refusal.append(_require_str(part["refusal"]))
            events.append(TextDelta(part["refusal"]))
        elif kind == "thinking":  # Mistral
            inner = part["thinking"]
            if isinstance(inner, str):
                text = inner
            else:
                text = "".join(_require_str(item.get("text") or "") for item in inner)
            if not self._content or self._content[-1].field != "thinking":
                self._start_block({"type": "thinking"}, "thinking")
            others = {name: value for name, value in part.items() if name != "thinking"}
            self._content[-1].block.update(others, field="content")
            self._content[-1].pieces.append(text)
            events.append(ThinkingDelta(text))
        else:
            self._start_block(dict(part, field="content"), "")

    def _start_block(self, block: Block, field: str) -> List[str]:
        """Start a block of the content; returns the list for the pieces of its `field`."""
        self._text = None
        self._content.append(_BlockBuilder(block, field))
        return self._content[-1].pieces

    def _keep_field(self, name: str, value: Any) -> None:
        """Keep a field that a Reply does not have.

        Audio is joined, lists are concatenated, any other value replaces the one before it.
        """
        kept = self._fields.get(name)
        if name == "audio":
            if not isinstance(value, dict):
                raise ValueError(f"audio must be an object, not {type(value).__name__}")
            for key in ("data", "transcript"):
                if as_str(value.get(key)):
                    self._audio.setdefault(key, []).append(value[key])
            self._fields[name] = dict(kept or {}, **value)
        elif isinstance(kept, list) and isinstance(value, list):
            # Groq sends a tool that it executed twice, the second time with its result.
            replaced = [_index(item) for item in value if _index(item) is not None]
            self._fields[name] = [item for item in kept if _index(item) not in replaced] + value
        else:
            self._fields[name] = value

    # The reply

    def partial(self) -> Reply:
        """Return the reply of the events fed so far; its stop_reason is None until it is done."""
        blocks = self._reasoning.build() + [builder.build() for builder in self._content]
        if self._refusal:
            blocks.append({"type": "text", "text": "".join(self._refusal), "refusal": True})
        texts = [block for block in blocks if block["type"] == "text"]
        if texts:
            texts[-1].update(self._annotations)
        fields = dict(self._fields, **({} if texts else self._annotations))
        for key, pieces in self._audio.items():
            fields["audio"] = dict(fields["audio"], **{key: "".join(pieces)})
        blocks.extend(
            {"type": name, name: value, "field": "message"} for name, value in fields.items()
        )
        calls = self._calls.build(self._id)
        return Reply(
            message=ChatMessage(
                role=ChatRole.ASSISTANT, content=blocks + [block for block, _call in calls]
            ),
            stop_reason=self._stop_reason() if self.done else None,
            raw_stop_reason=self._finish_reason if self.done else None,
            tool_calls=[call for _block, call in calls],
            usage=_usage(self._figures),
            model=self._model or None,
            id=self._id or None,
        )

    def _stop_reason(self) -> str:
        """Return the stop reason in Anthropic's terms.

        Some servers send "stop" with tool calls, or with a refusal.
        """
        if self._refusal:
            return "refusal"
        reason = self._finish_reason or "stop"
        known = _STOP_REASONS.get(reason.lower(), reason)
        return "tool_use" if self._calls and known == "end_turn" else known


class _BlockBuilder:
    """A block of the content, and the pieces of one of its fields; "" if it came whole."""

    def __init__(self, block: Block, field: str) -> None:
        self.block = block
        self.field = field
        self.pieces: List[str] = []

    def build(self) -> Block:
        return dict(self.block, **({self.field: "".join(self.pieces)} if self.field else {}))


class _Reasoning:
    """Reasoning beside the content: its text, the field it came in, and OpenRouter's details."""

    def __init__(self) -> None:
        self.field: Optional[str] = None
        self.pieces: List[str] = []
        self._details: List[Tuple[_BlockBuilder, Any]] = []  # each with its type and index

    def add_details(self, details: List[Dict[str, Any]], in_pieces: bool) -> str:
        """Add details, or pieces of them; returns their text."""
        texts = []
        for detail in details:
            field = next(
                (key for key in ("text", "summary") if as_str(detail.get(key)) is not None), ""
            )
            identity = (detail.get("type"), detail.get("index"))
            continues = (
                in_pieces
                and identity[1] is not None
                and self._details
                and self._details[-1][1] == identity
            )
            if not continues or detail.get("data"):
                self._details.append((_BlockBuilder({}, field), identity))
            last = self._details[-1][0]
            last.field = last.field or field
            last.block.update(
                (key, value)
                for key, value in detail.items()
                if value is not None or key not in last.block
            )
            if field:
                last.pieces.append(detail[field])
                texts.append(detail[field])
        return "".join(texts)

    def build(self) -> List[Block]:
        if not (self.pieces or self._details):
            return []
        block: Block = {"type": "thinking", "thinking": "".join(self.pieces)}
        if self.field:
            block["field"] = self.field
        if self._details:
            block["reasoning_details"] = [builder.build() for builder, _identity in self._details]
        return [block]


# Tool calls


class _CallBuilder:
    """One tool call, as far as it arrived.

    own: the server's own keys that have to be sent back.
    announced: the id under which the call was returned as ready, or None.
    """

    def __init__(self, index: Optional[int]) -> None:
        self.index = index
        self.id = self.name = ""
        self.pieces: List[str] = []
        self.own: Dict[str, Any] = {}
        self.announced: Optional[str] = None

    def arguments(self) -> Tuple[Dict[str, Any], Optional[str]]:
        """Return the arguments, and their text if it is not a JSON object.

        No text means no arguments.
        """
        text = "".join(self.pieces)
        return parse_object(text) if text.strip() else ({}, None)

    def is_complete(self) -> bool:
        """Return whether the arguments so far are a JSON object, so that nothing can follow."""
        return bool(self.pieces) and parse_object("".join(self.pieces))[1] is None


class _ToolCalls:
    """The tool calls of one reply, which arrive in pieces.

    Servers differ in how a piece names its call (recorded, or reported in public): the id only
    with the first piece, with each, or "" from the second on; the name with each piece; all calls
    under index 0, distinguished by their ids, or without an index; whole calls in one piece; no ids
    at all.

    Each call gets a unique id, because results are matched by it. It is generated if the server
    sends none, or one id for two calls.
    """

    def __init__(self) -> None:
        self._calls: List[_CallBuilder] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: Mapping[str, Any], reply_id: str) -> List[ToolCall]:
        """Add a piece; returns the calls that are complete because another one begins.

        Raises ValueError for a piece of a call that was returned as complete.
        """
        function = piece.get("function") or {}
        call_id, name = as_str(piece.get("id")) or "", as_str(function.get("name")) or ""
        call = self._match_call(piece.get("index"), call_id, name)
        ready: List[ToolCall] = []
        if call is None:
            ready = self.take_ready(reply_id, only_complete=True)
            call = _CallBuilder(piece.get("index"))
            self._calls.append(call)
        call.id = call.id or call_id
        call.name = call.name or name
        call.own.update((key, piece[key]) for key in KEPT_CALL_KEYS if piece.get(key))
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # Ollama's own form
            arguments = json.dumps(arguments, ensure_ascii=False)
        if arguments is not None and not isinstance(arguments, str):
            kind = type(arguments).__name__
            raise ValueError(f"the arguments of a tool call must be text, not {kind}")
        if arguments:
            if call.announced is not None:
                raise ValueError("a piece of a tool call that was whole before")
            call.pieces.append(arguments)
        return ready

    def _match_call(self, index: Any, call_id: str, name: str) -> Optional[_CallBuilder]:
        """Return the call that a piece belongs to, or None if the piece begins one."""
        if index is not None:
            candidates = [call for call in self._calls if call.index == index]
        elif call_id:
            candidates = [call for call in self._calls if call.id == call_id]
        else:
            candidates = self._calls
        if not candidates:
            return None
        call = candidates[-1]
        if call_id and call.id:
            return call if call_id == call.id else None
        # Without ids, a name begins another call, unless it repeats that of a call whose
        # arguments are still incomplete.
        begins = name and call.name and (name != call.name or call.is_complete())
        return None if begins else call

    def take_ready(self, reply_id: str, only_complete: bool = False) -> List[ToolCall]:
        """Return the calls that were not returned before.

        only_complete: leave out calls whose arguments may continue.
        """
        ready = []
        for builder, (_block, call) in zip(self._calls, self.build(reply_id)):
            if builder.announced is None and (builder.is_complete() or not only_complete):
                builder.announced = call.id
                ready.append(call)
        return ready

    def build(self, reply_id: str) -> List[Tuple[Block, ToolCall]]:
        """Return each call as far as it arrived, with its block for the history."""
        built = []
        used: Set[str] = {call.announced for call in self._calls if call.announced}
        for index, call in enumerate(self._calls):
            call_id = call.announced or call.id
            if call.announced is None:
                if not call_id or call_id in used:
                    call_id = f"call_{reply_id[-ID_CHARACTERS:]}_{index}"
                used.add(call_id)
            arguments, malformed = call.arguments()
            block = {"type": "tool_use", "id": call_id, "name": call.name, "input": arguments}
            block.update(call.own)
            tool_call = ToolCall(
                id=call_id, name=call.name, arguments=arguments, malformed=malformed
            )
            built.append((block, tool_call))
        return built


# Usage


def _usage(figures: Mapping[str, Any]) -> Usage:
    """Return the usage of a reply, from the server's last figures; nothing is counted twice.

    Most servers count cached tokens within prompt_tokens, and reasoning within completion_tokens.
    The figures show the exceptions: more was cached than prompted (xAI's models on Azure), or the
    total is the sum of all three (xAI).
    """
    prompt = as_count(figures, "prompt_tokens")
    output = as_count(figures, "completion_tokens")
    reasoning = as_count(figures, "completion_tokens_details", "reasoning_tokens")
    read = (
        as_count(figures, "prompt_tokens_details", "cached_tokens")
        or as_count(figures, "prompt_cache_hit_tokens")  # DeepSeek
        or as_count(figures, "cached_tokens")  # Together
        or as_count(figures, "cache_read_input_tokens")  # Databricks
    )
    written = (
        as_count(figures, "prompt_tokens_details", "cache_write_tokens")  # OpenAI, OpenRouter
        or as_count(figures, "cache_creation_input_tokens")  # Databricks
    )
    if reasoning and as_count(figures, "total_tokens") == prompt + output + reasoning:
        output += reasoning
    return Usage(
        input_tokens=prompt - read - written if read + written <= prompt else prompt,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_write_input_tokens=written,
        reasoning_tokens=reasoning,
        requests=1,
    )


def _require_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, not {type(value).__name__}")
    return value


def _index(item: Any) -> Any:
    return item.get("index") if isinstance(item, dict) else None
