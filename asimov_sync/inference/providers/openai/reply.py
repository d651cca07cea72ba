"""Chat completions, the reply: stream chunks or a JSON body to a Reply. Pure: no IO, no clock.

Facts of the wire: https://platform.openai.com/docs/api-reference/chat-streaming, and recorded traffic of many servers, which
adds that usage may be on no chunk, on each, on the last choice's or on one without choices; that `[DONE]` may not come, or
come without a finish_reason before it; that a finish_reason may be told twice, or before the last call; that "" stands for
null anywhere; and that a content may be null, a list of parts, or a JSON object.
"""

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from asimov_sync._json import loads
from asimov_sync.inference.providers.coerce import text
from asimov_sync.inference.providers.fold import Fold
from asimov_sync.inference.providers.openai.calls import ChatCalls
from asimov_sync.inference.providers.openai.errors import decode_error
from asimov_sync.inference.providers.openai.usage import usage_of
from asimov_sync.messages import (
    Block,
    ChatMessage,
    ChatRole,
    Event,
    Reply,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    ToolCallReady,
)

__all__ = ["ChatFold", "decode_reply"]

DONE = "[DONE]"
"""What the final event says in place of JSON."""

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
"""Finish reasons that say that the server gave up (Mistral and OpenRouter; vLLM; DeepSeek): what came is not the reply."""

_TAKEN = ("text", "thinking", "tool_use", "type")
"""What a block may not be called after a server's field: these names have their own meaning in a block."""

_NOTES = ("citations", "search_results")
"""What Perplexity tells of a text, beside the choices."""


def decode_reply(provider: str, body: Any) -> Reply:
    """The reply of a response that was not streamed. ValueError, KeyError, TypeError or AttributeError where it is none.

    An error that the server sent with the status 200 is raised.
    """
    fold = ChatFold(provider, in_pieces=False)
    choice = next((choice for choice in body.get("choices") or () if not choice.get("index")), None)
    if choice is None:
        fold.feed(body)  # it may be an error
        raise ValueError("a choice was promised")
    message = dict(choice["message"])
    # Each of these is a call of its own, whatever its index is.
    message["tool_calls"] = [dict(call, index=place) for place, call in enumerate(message.get("tool_calls") or [])]
    fold.feed(dict(body, choices=[dict(choice, delta=message)]))
    return fold.end()


class ChatFold(Fold):
    """Folds the chunks of a chat-completions stream.

    The first choice is the reply, others are not looked at. What the wire says twice (usage) is overwritten, never added.
    in_pieces: False where all comes at once, and nothing of it is to be joined.

    What has no place of its own in a reply is in its blocks: annotations and citations in the text's; what else a server put
    into its message, audio say, in a block of that name. A "field" in a block says where it was, for the way back.
    """

    def __init__(self, provider: str, in_pieces: bool = True) -> None:
        self._provider = provider
        self._in_pieces = in_pieces
        self._id = self._model = ""
        self._finish: Optional[str] = None
        self._usage: Dict[str, Any] = {}
        self._grown = 0  # how often something was added to the reply
        self._summed_up = False  # usage was told with or after the finish reason, or after all content
        self._reasoning = _Reasoning()
        self._content: List[_Growing] = []
        self._text: Optional[List[str]] = None  # the pieces of the text that is just being told
        self._refusal: List[str] = []
        self._notes: Dict[str, List[Any]] = {}
        self._fields: Dict[str, Any] = {}
        self._audio: Dict[str, List[str]] = {}
        self._calls = ChatCalls()

    # The events

    def feed_text(self, data: str) -> Sequence[Event]:
        """As `feed`, of an event that is still text; `[DONE]` is the wire's final one."""
        if data.strip() != DONE:
            return self.feed(loads(data))
        if self._finish is None and not (self._summed_up and self._grown):
            return ()  # the server says this after its own failures, too
        return self._end()

    def finish(self, delimited: bool) -> Sequence[Event]:
        """Without a `[DONE]`, the reply is whole where it has its finish reason and nothing can be missing after it."""
        return self._end() if self._finish is not None and (delimited or self._summed_up) else ()

    def end(self) -> Reply:
        """The reply, where all of it came at once. ValueError if there was nothing."""
        if self._finish is None and not self._grown:
            raise ValueError("the message is empty, and has no finish_reason")
        self._end()
        return self.partial()

    def _end(self) -> Sequence[Event]:
        self.done = True
        ready: List[Event] = [ToolCallReady(call) for call in self._calls.ready(self._id)]
        return ready + [ReplyDone(self.partial())]

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """The typed events that a chunk amounts to. An error inside a chunk is raised."""
        if data.get("error") or data.get("object") == "error":
            raise decode_error(self._provider, None, {}, data)
        if not (self._id and self._model):
            self._id = self._id or text(data.get("id")) or ""
            self._model = self._model or text(data.get("model")) or ""
        events: List[Event] = []
        grown = self._grown
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
                self._finished(reason, choice, events)
            figures = figures or choice.get("usage")  # Moonshot
        for name in _NOTES:
            if isinstance(data.get(name), list) and data[name]:
                self._notes[name] = data[name]
        if not figures and isinstance(data.get("x_groq"), dict):
            figures = data["x_groq"].get("usage")
        if grown != self._grown:
            self._summed_up = False
        if isinstance(figures, dict) and figures:
            self._usage.update((name, figure) for name, figure in figures.items() if figure is not None)
            self._summed_up = self._finish is not None or grown == self._grown
        return events

    def _finished(self, reason: str, choice: Mapping[str, Any], events: List[Event]) -> None:
        if _words(reason) in _FAILURES:
            told = choice.get("error") or {"code": reason, "message": "the model did not finish its reply"}
            raise decode_error(self._provider, None, {}, told)
        self._finish = reason
        events.extend(ToolCallReady(call) for call in self._calls.ready(self._id, only_whole=True))

    def _add(self, delta: Mapping[str, Any], events: List[Event]) -> None:
        for name, value in delta.items():
            if not value or name == "role":
                continue
            if name == "content":
                self._tell(value, events)
            elif name in ("reasoning_content", "reasoning"):
                if name == "reasoning" and delta.get("reasoning_content"):
                    continue  # the same under both names
                self._reasoning.field = self._reasoning.field or name
                self._reasoning.pieces.append(_words(value))
                events.append(ThinkingDelta(value))
            elif name == "reasoning_details":
                words = self._reasoning.detail(value, self._in_pieces)
                if words and not (delta.get("reasoning") or delta.get("reasoning_content")):
                    self._reasoning.pieces.append(words)
                    events.append(ThinkingDelta(words))
            elif name == "tool_calls":
                for piece in value:
                    events.extend(ToolCallReady(call) for call in self._calls.add(piece, self._id))
            elif name == "function_call":  # what tool_calls were before there could be several
                if delta.get("tool_calls"):
                    continue  # the same under both names (llama-cpp-python)
                self._calls.add({"index": 0, "function": value}, self._id)
            elif name == "refusal":
                self._refusal.append(_words(value))
                events.append(TextDelta(value))
            elif name == "annotations" and isinstance(value, list):
                noted = self._notes.setdefault(name, [])
                noted.extend(one for one in value if one not in noted)
            elif isinstance(value, (dict, list)) and name not in _TAKEN:
                self._keep(name, value)
            else:
                continue  # a token's id, the name of a channel: nothing of the reply
            self._grown += 1

    def _tell(self, content: Any, events: List[Event]) -> None:
        if isinstance(content, str):
            if self._text is None:
                self._text = self._begin({"type": "text"}, "text")
            self._text.append(content)
            events.append(TextDelta(content))
        elif isinstance(content, dict):  # Cloudflare, of a reply that had to be JSON
            self._tell(json.dumps(content, ensure_ascii=False), events)
        elif isinstance(content, list):
            for part in content:
                self._part(part, events)
        else:
            raise ValueError("a content that is no text")

    def _part(self, part: Any, events: List[Event]) -> None:
        """A part of a content that is a list; one that is not known is kept as it is."""
        kind = "text" if isinstance(part, str) else part["type"]
        if kind == "text":
            words = part if isinstance(part, str) else part["text"]
            if words:
                self._tell(_words(words), events)
        elif kind == "refusal":
            self._refusal.append(_words(part["refusal"]))
            events.append(TextDelta(part["refusal"]))
        elif kind == "thinking":  # Mistral
            inner = part["thinking"]
            words = _words(inner) if isinstance(inner, str) else "".join(_words(one.get("text") or "") for one in inner)
            if not self._content or self._content[-1].name != "thinking":
                self._begin({"type": "thinking"}, "thinking")
            own = {name: value for name, value in part.items() if name != "thinking"}
            self._content[-1].block.update(own, field="content")
            self._content[-1].pieces.append(words)
            events.append(ThinkingDelta(words))
        else:
            self._begin(dict(part, field="content"), "")

    def _begin(self, block: Block, name: str) -> List[str]:
        """Begin a block of the content; returns the pieces of what it will say under this name."""
        self._text = None
        self._content.append(_Growing(block, name))
        return self._content[-1].pieces

    def _keep(self, name: str, value: Any) -> None:
        """Keep a field that the reply has no place for: audio is joined, lists are gathered, else the last one counts."""
        kept = self._fields.get(name)
        if name == "audio":
            if not isinstance(value, dict):
                raise ValueError("audio that is no object")
            for key in ("data", "transcript"):
                if text(value.get(key)):
                    self._audio.setdefault(key, []).append(value[key])
            self._fields[name] = dict(kept or {}, **value)
        elif isinstance(kept, list) and isinstance(value, list):
            # Groq tells of a tool that it executed twice, the second time with what came of it.
            again = [_index(one) for one in value if _index(one) is not None]
            self._fields[name] = [one for one in kept if _index(one) not in again] + value
        else:
            self._fields[name] = value

    # The reply

    def partial(self) -> Reply:
        """The reply of what was fed so far; without a stop_reason until it is done."""
        blocks = self._reasoning.blocks() + [growing.grown() for growing in self._content]
        if self._refusal:
            blocks.append({"type": "text", "text": "".join(self._refusal), "refusal": True})
        texts = [block for block in blocks if block["type"] == "text"]
        if texts:
            texts[-1].update(self._notes)
        fields = dict(self._fields, **({} if texts else self._notes))
        for key, pieces in self._audio.items():
            fields["audio"] = dict(fields["audio"], **{key: "".join(pieces)})
        blocks.extend({"type": name, name: value, "field": "message"} for name, value in fields.items())
        calls = self._calls.told(self._id)
        return Reply(
            message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks + [block for block, _call in calls]),
            stop_reason=self._stop_reason() if self.done else None,
            raw_stop_reason=self._finish if self.done else None,
            tool_calls=[call for _block, call in calls],
            usage=usage_of(self._usage),
            model=self._model or None,
            id=self._id or None,
        )

    def _stop_reason(self) -> str:
        """Why it stopped, in Anthropic's words: some servers say "stop" where there are calls, or beside a refusal."""
        if self._refusal:
            return "refusal"
        reason = self._finish or "stop"
        known = _STOP_REASONS.get(reason.lower(), reason)
        return "tool_use" if self._calls and known == "end_turn" else known


class _Growing:
    """A block of the content, and the pieces of what it says under a name; "" for one that came whole."""

    def __init__(self, block: Block, name: str) -> None:
        self.block = block
        self.name = name
        self.pieces: List[str] = []

    def grown(self) -> Block:
        return dict(self.block, **({self.name: "".join(self.pieces)} if self.name else {}))


class _Reasoning:
    """Reasoning that is told beside the content: its words, the field that they came in, and OpenRouter's details."""

    def __init__(self) -> None:
        self.field: Optional[str] = None
        self.pieces: List[str] = []
        self._details: List[Tuple[_Growing, Any]] = []  # each with what says that a piece is of the same one

    def detail(self, details: List[Dict[str, Any]], in_pieces: bool) -> str:
        """Take details, or pieces of them; returns what they say."""
        said = []
        for detail in details:
            name = next((name for name in ("text", "summary") if isinstance(detail.get(name), str)), "")
            same = (detail.get("type"), detail.get("index"))
            goes_on = in_pieces and same[1] is not None and self._details and self._details[-1][1] == same
            if not goes_on or detail.get("data"):
                self._details.append((_Growing({}, name), same))
            last = self._details[-1][0]
            last.name = last.name or name
            last.block.update((key, value) for key, value in detail.items() if value is not None or key not in last.block)
            if name:
                last.pieces.append(detail[name])
                said.append(detail[name])
        return "".join(said)

    def blocks(self) -> List[Block]:
        if not (self.pieces or self._details):
            return []
        block: Block = {"type": "thinking", "thinking": "".join(self.pieces)}
        if self.field:
            block["field"] = self.field
        if self._details:
            block["reasoning_details"] = [detail.grown() for detail, _same in self._details]
        return [block]


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("what was to be text is a {}".format(type(value).__name__))
    return value


def _index(one: Any) -> Any:
    return one.get("index") if isinstance(one, dict) else None
