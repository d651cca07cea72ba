"""The UI message stream of Vercel's AI SDK, version 1: `useChat` and the front ends built on it.

The shapes of chunks and messages are those of the npm package `ai` 7.0: `ui-message-chunks.ts`,
`process-ui-message-stream.ts` and `http-chat-transport.ts`.
"""

from typing import Any, AsyncIterable, Dict, Iterable, List, Mapping, Optional, Set, overload

from asimov_sync.inference.tools.approvals import Approval, Approved, Refused
from asimov_sync.inference.tools.loop import Redact
from asimov_sync.messages import ChatMessage, ToolCall, Usage
from asimov_sync.web.body import KEEP_ALIVE, AsyncBody, Body, make_body
from asimov_sync.web.browser_request import (
    BrowserRequest,
    as_object,
    is_exact,
    read_body,
    user_message,
)
from asimov_sync.web.encoder import STREAM_HEADERS, PartEncoder
from asimov_sync.web.parts import (
    ApprovalAsked,
    CallAsked,
    CallFailed,
    CallRefused,
    CallReturned,
    Ended,
    Failed,
    Part,
    QuestionAsked,
    Removed,
    ReplyBegan,
    Stopped,
    TaskChanged,
    TextAdded,
    TextBegan,
    TextEnded,
)
from asimov_sync.web.reader import OnEnd

__all__ = ["UI_MESSAGE_HEADERS", "read_ui_messages", "ui_message_stream"]

UI_MESSAGE_HEADERS: Dict[str, str] = dict(STREAM_HEADERS, **{"x-vercel-ai-ui-message-stream": "v1"})
"""The headers of a response whose body is `ui_message_stream(events)`."""

Chunk = Dict[str, Any]

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "tool_use": "tool-calls",
    "approval": "tool-calls",
}
"""The AI SDK's reason for each stop reason; "other" for the rest."""


@overload
def ui_message_stream(
    events: Iterable[Any],
    request: Optional[BrowserRequest] = ...,
    *,
    keep_alive: Optional[float] = ...,
    show_errors: bool = ...,
    on_end: OnEnd = ...,
    redact: Optional[Redact] = ...,
) -> Body: ...


@overload
def ui_message_stream(
    events: AsyncIterable[Any],
    request: Optional[BrowserRequest] = ...,
    *,
    keep_alive: Optional[float] = ...,
    show_errors: bool = ...,
    on_end: OnEnd = ...,
    redact: Optional[Redact] = ...,
) -> AsyncBody: ...


def ui_message_stream(
    events: Any,
    request: Optional[BrowserRequest] = None,
    *,
    keep_alive: Optional[float] = KEEP_ALIVE,
    show_errors: bool = False,
    on_end: OnEnd = None,
    redact: Optional[Redact] = None,
) -> Any:
    """Encode events as a UI message stream of the AI SDK, the body of a streamed response.

    Texts, the model's thinking and tool calls become the parts of one message; tools are dynamic
    ones. A call that waits for approval is a `tool-approval-request`. Tasks of a run are data parts
    `data-task`, and questions of tasks are `data-question`. What a repeated task had sent is
    removed again. The usage is in the metadata of the message.

    events: an iterator of events, of `client.stream`, `stream_tools`, `agent.stream`,
        `scheduler.stream`, `run.events` or `RunStore.events`, or an async iterator of these.
        Closing the body closes it.
    request: the request of the browser, from `read_ui_messages`, so that a message that waited for
        approvals is continued; None for a new message.
    keep_alive: the seconds without an event after which a comment is sent; by default 2. It lets
        the server notice that the browser has left. With None there are none, and the events are
        read on the thread of the response.
    show_errors: send the messages of exceptions, those of tools and tasks too; by default only
        their types.
    on_end: called without arguments when the events have ended, and no exception ended them; for
        example to store the conversation. By default nothing is called.
    redact: changes the text of each tool result before the browser receives it; by default none.
        An agent's own `redact=` concerns only what its model reads.

    Returns an iterator of bytes, async if the events are, with `.headers` and `.close()`.
    """
    message_id = None if request is None else request.message_id
    encoder = _UIMessageEncoder(message_id, show_errors, redact)
    return make_body(events, encoder, UI_MESSAGE_HEADERS, keep_alive, on_end)


class _UIMessageEncoder(PartEncoder):
    """Encodes parts as chunks.

    A chunk `reset-step` drops all parts since the last `start-step`, and ends the open ones. So
    the chunks of the present step are kept, and those that still count are sent again after it.
    """

    _trailer = b"data: [DONE]\n\n"

    def __init__(
        self, message_id: Optional[str], show_errors: bool, redact: Optional[Redact]
    ) -> None:
        super().__init__(show_errors, redact)
        self._message_id = message_id
        self._in_step = False
        self._step: List[_Kept] = []
        self._data: Dict[str, Chunk] = {}  # the data parts of the present step, by id
        self._kinds: Dict[str, str] = {}  # of the open texts

    def _begin(self) -> List[Chunk]:
        start: Chunk = {"type": "start"}
        if self._message_id is not None:
            start["messageId"] = self._message_id
        return [start]

    def _encode(self, part: Part) -> List[Chunk]:
        if isinstance(part, ReplyBegan):
            return self._start_step()
        if isinstance(part, (TextBegan, TextAdded, TextEnded)):
            return self._encode_text(part)
        if isinstance(part, (CallAsked, CallReturned, CallFailed, CallRefused, ApprovalAsked)):
            return self._encode_call(part)
        if isinstance(part, TaskChanged):
            data = dict(part.details, name=part.name, status=part.status)
            return self._add(
                f"task:{part.name}", {"type": "data-task", "id": part.name, "data": data}
            )
        if isinstance(part, QuestionAsked):
            data = {
                "task": part.task,
                "name": part.name,
                "prompt": part.prompt,
                "data": part.data,
                "type": part.type,
                "deadline": part.deadline,
            }
            return self._add(part.id, {"type": "data-question", "id": part.id, "data": data})
        if isinstance(part, Removed):
            return self._remove(set(part.ids))
        if isinstance(part, (Ended, Failed, Stopped)):
            return self._end_step() + self._encode_end(part)
        return []  # a step of a run is shown by its TaskChanged

    def _start_step(self) -> List[Chunk]:
        chunks = self._end_step()
        self._in_step = True
        return chunks + [{"type": "start-step"}]

    def _end_step(self) -> List[Chunk]:
        ended, self._in_step = self._in_step, False
        self._step, self._data = [], {}
        return [{"type": "finish-step"}] if ended else []

    def _add(self, part_id: str, chunk: Chunk) -> List[Chunk]:
        """Return the chunk, and keep it for as long as the step may be reset."""
        chunks = [] if self._in_step else self._start_step()
        last = self._step[-1] if self._step else None
        if chunk["type"].startswith("data-"):
            self._data[part_id] = chunk  # it replaces the earlier one
        elif last is not None and last.continues(part_id, chunk):
            last.deltas.append(chunk["delta"])
        else:
            self._step.append(_Kept(part_id, chunk))
        return chunks + [chunk]

    def _remove(self, ids: Set[str]) -> List[Chunk]:
        kept = [one for one in self._step if one.id not in ids]
        data = {part_id: chunk for part_id, chunk in self._data.items() if part_id not in ids}
        if (len(kept), len(data)) == (len(self._step), len(self._data)):
            return []
        self._step, self._data = kept, data
        return [{"type": "reset-step"}, *data.values(), *(one.whole() for one in kept)]

    def _encode_text(self, part: Any) -> List[Chunk]:
        if isinstance(part, TextBegan):
            self._kinds[part.id] = part.kind
        kind = self._kinds[part.id]
        chunk = {"type": f"{kind}-start", "id": part.id}
        if isinstance(part, TextAdded):
            chunk = {"type": f"{kind}-delta", "id": part.id, "delta": part.text}
        elif isinstance(part, TextEnded):
            chunk["type"] = f"{kind}-end"
            del self._kinds[part.id]
        return self._add(part.id, chunk)

    def _encode_call(self, part: Any) -> List[Chunk]:
        call_id = part.call if isinstance(part, ApprovalAsked) else part.id
        if isinstance(part, CallAsked):
            chunk = {
                "type": "tool-input-available",
                "toolCallId": call_id,
                "toolName": part.tool,
                "input": part.arguments,
                "dynamic": True,
            }
            if not part.is_known:
                return self._add(call_id, chunk)
            # The message has this call in its last step. In a step of its own, it would be another.
            return [] if self._in_step else [chunk]
        if isinstance(part, ApprovalAsked):
            chunk = {
                "type": "tool-approval-request",
                "approvalId": part.id,
                "toolCallId": call_id,
            }
        elif isinstance(part, CallReturned):
            chunk = {
                "type": "tool-output-available",
                "toolCallId": call_id,
                "output": part.result,
            }
        elif isinstance(part, CallFailed):
            chunk = {
                "type": "tool-output-error",
                "toolCallId": call_id,
                "errorText": part.error,
            }
        else:
            chunk = {"type": "tool-output-denied", "toolCallId": call_id}
        return self._add(call_id, chunk) if self._in_step else [chunk]

    def _encode_end(self, part: Any) -> List[Chunk]:
        if isinstance(part, Failed):
            return [
                {"type": "error", "errorText": part.error},
                {"type": "finish", "finishReason": "error"},
            ]
        if isinstance(part, Stopped):
            return [{"type": "abort", "reason": part.reason}]
        finish: Chunk = {
            "type": "finish",
            "finishReason": FINISH_REASONS.get(str(part.reason), "other"),
        }
        if part.usage is not None:
            finish["messageMetadata"] = {"usage": _usage(part.usage)}
        return [finish]


class _Kept:
    """A chunk of the present step.

    id: the id of its part.
    chunk: the chunk.
    deltas: what continued it, if it is a delta.
    """

    __slots__ = ("chunk", "deltas", "id")

    def __init__(self, part_id: str, chunk: Chunk) -> None:
        self.id = part_id
        self.chunk = chunk
        self.deltas: List[str] = []

    def continues(self, part_id: str, chunk: Chunk) -> bool:
        """Return whether a chunk continues this one."""
        return "delta" in chunk and "delta" in self.chunk and part_id == self.id

    def whole(self) -> Chunk:
        """Return the chunk, with what continued it."""
        if not self.deltas:
            return self.chunk
        return dict(self.chunk, delta=self.chunk["delta"] + "".join(self.deltas))


def _usage(usage: Usage) -> Dict[str, int]:
    """Return the counts of tokens that are not 0, named as the AI SDK does."""
    counts = {
        "inputTokens": usage.total_tokens - usage.output_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cache_read_input_tokens,
    }
    return {name: count for name, count in counts.items() if count}


def read_ui_messages(body: Any) -> BrowserRequest:
    """Read the request of an AI SDK front end.

    Everything in it comes from the browser, which may have changed it. So `.messages` has only the
    new text of the user, after the last message of the assistant. The conversation so far is the
    server's own. `.approvals` has the decisions in the last message of the assistant; pass it on
    with the stored messages of the run, or to `RunStore.approve`, which match it against the calls
    that wait. A decision also names the call as the browser has shown it, so that an approval of
    another call is refused.

    body: the JSON body of the request: bytes, a str, or what a framework has parsed.

    Raises ValueError for a body of another form.
    """
    values = read_body(body)
    posted = values.get("messages")
    if not isinstance(posted, list):
        raise ValueError("the request has no list of messages")
    messages = [as_object(message, "a message") for message in posted]
    new: List[ChatMessage] = []
    for message in reversed(messages):
        if message.get("role") == "assistant":
            break
        if message.get("role") == "user":
            new.insert(0, user_message(_parts(message)))
    last = messages[-1] if messages else {}
    approvals: Dict[str, Approval] = {}
    message_id = None
    if last.get("role") == "assistant":
        for part in _parts(last):
            _read_approval(part, approvals)
        message_id = last.get("id")
    chat_id, trigger = values.get("id"), values.get("trigger")
    return BrowserRequest(
        messages=[message for message in new if message.text],
        approvals=approvals,
        chat_id=chat_id if isinstance(chat_id, str) else None,
        message_id=message_id if isinstance(message_id, str) else None,
        regenerate=trigger == "regenerate-message",
    )


def _parts(message: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    parts = message.get("parts")
    if not isinstance(parts, list):
        raise ValueError("a message of the request has no list of parts")
    return [as_object(part, "a part of a message") for part in parts]


def _read_approval(part: Mapping[str, Any], approvals: Dict[str, Approval]) -> None:
    """Add the decision in a part of a message, if it has one that was not sent before."""
    if part.get("state") != "approval-responded":
        return
    approval = as_object(part.get("approval"), "an approval")
    approval_id, reason = approval.get("id"), approval.get("reason")
    if not isinstance(approval_id, str):
        raise ValueError("an approval of the request has no id")
    if approval.get("approved") is not True:
        approvals[approval_id] = Refused(reason if isinstance(reason, str) else "")
        return
    name = part.get("toolName")
    if name is None and str(part.get("type")).startswith("tool-"):
        name = str(part["type"])[len("tool-") :]
    shown, call_id = part.get("input"), part.get("toolCallId")
    if isinstance(name, str) and isinstance(shown, dict) and call_id == approval_id:
        if is_exact(shown):
            call = ToolCall(id=approval_id, name=name, arguments=shown)
            approvals[approval_id] = Approved(call)
            return
    approvals[approval_id] = Approved()
