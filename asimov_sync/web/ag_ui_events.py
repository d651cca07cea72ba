"""The AG-UI protocol, version 1.0: CopilotKit and other agent front ends.

The shapes of events and requests are those of the npm packages `@ag-ui/core` and `@ag-ui/client`
1.0, whose `verify` checks the order of events.
"""

import datetime
import uuid
from typing import Any, AsyncIterable, Dict, Iterable, List, Mapping, Optional, Set, Union, overload

from asimov_sync.inference.tools.approvals import Approval, Approved, Refused
from asimov_sync.inference.tools.loop import Redact
from asimov_sync.messages import ChatMessage, Usage
from asimov_sync.web.body import KEEP_ALIVE, AsyncBody, Body, make_body
from asimov_sync.web.browser_request import BrowserRequest, as_object, read_body, user_message
from asimov_sync.web.encoder import STREAM_HEADERS, PartEncoder, to_json
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
    StepBegan,
    StepEnded,
    Stopped,
    TaskChanged,
    TextAdded,
    TextBegan,
    TextEnded,
)
from asimov_sync.web.reader import OnEnd

__all__ = ["AG_UI_HEADERS", "ag_ui", "read_ag_ui"]

AG_UI_HEADERS: Dict[str, str] = dict(STREAM_HEADERS)
"""The headers of a response whose body is `ag_ui(events)`."""

Chunk = Dict[str, Any]

DECISION_SCHEMA = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "editedArgs": {"type": "object"}},
    "required": ["approved"],
}
"""The schema of the answer to an interrupt about a tool call."""


@overload
def ag_ui(
    events: Iterable[Any],
    request: Optional[BrowserRequest] = ...,
    *,
    keep_alive: Optional[float] = ...,
    show_errors: bool = ...,
    on_end: OnEnd = ...,
    redact: Optional[Redact] = ...,
) -> Body: ...


@overload
def ag_ui(
    events: AsyncIterable[Any],
    request: Optional[BrowserRequest] = ...,
    *,
    keep_alive: Optional[float] = ...,
    show_errors: bool = ...,
    on_end: OnEnd = ...,
    redact: Optional[Redact] = ...,
) -> AsyncBody: ...


def ag_ui(
    events: Any,
    request: Optional[BrowserRequest] = None,
    *,
    keep_alive: Optional[float] = KEEP_ALIVE,
    show_errors: bool = False,
    on_end: OnEnd = None,
    redact: Optional[Redact] = None,
) -> Any:
    """Encode events as a run of the AG-UI protocol, the body of a streamed response.

    Tasks of a run are steps, and their states are activities. Calls that wait for approval, and
    questions of tasks, are the interrupts of RUN_FINISHED; the answer to the former is
    `{"approved": …, "editedArgs": …}`. If a task is repeated, a MESSAGES_SNAPSHOT removes what it
    had sent.

    events: an iterator of events, of `client.stream`, `stream_tools`, `agent.stream`,
        `scheduler.stream`, `run.events` or `RunStore.events`, or an async iterator of these.
        Closing the body closes it.
    request: the request of the browser, from `read_ag_ui`, with the ids that it expects. With None
        the ids are new ones, and nothing that was sent is removed again.
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
    encoder = _AGUIEncoder(request or BrowserRequest([]), show_errors, redact)
    return make_body(events, encoder, AG_UI_HEADERS, keep_alive, on_end)


class _AGUIEncoder(PartEncoder):
    """Encodes parts as events. The ids of messages begin with the id of the run.

    request: the request.
    """

    def __init__(
        self, request: BrowserRequest, show_errors: bool, redact: Optional[Redact]
    ) -> None:
        super().__init__(show_errors, redact)
        self._posted = None if request.run_id is None else request.posted
        self._thread = request.chat_id or str(uuid.uuid4())
        self._run = request.run_id or str(uuid.uuid4())
        self._sent: List[_SentMessage] = []
        self._texts: Dict[str, _SentMessage] = {}  # the open ones
        self._parent: Optional[str] = None  # the message to which calls belong
        self._parent_reply = -1

    def _begin(self) -> List[Chunk]:
        return [{"type": "RUN_STARTED", "threadId": self._thread, "runId": self._run}]

    def _encode(self, part: Part) -> List[Chunk]:
        if isinstance(part, (TextBegan, TextAdded, TextEnded)):
            return self._encode_text(part)
        if isinstance(part, CallAsked):
            return self._encode_call(part)
        if isinstance(part, CallReturned):
            return self._encode_result(part.id, part.result)
        if isinstance(part, CallFailed):
            return self._encode_result(part.id, part.error, part.error)
        if isinstance(part, CallRefused):
            return self._encode_result(part.id, part.reason, part.reason)
        if isinstance(part, StepBegan):
            return [{"type": "STEP_STARTED", "stepName": part.name}]
        if isinstance(part, StepEnded):
            return [{"type": "STEP_FINISHED", "stepName": part.name}]
        if isinstance(part, TaskChanged):
            activity: Chunk = {
                "type": "ACTIVITY_SNAPSHOT",
                "messageId": self._id(f"task-{part.name}"),
                "activityType": "TASK",
                "content": dict(part.details, name=part.name, status=part.status),
            }
            return [activity]
        if isinstance(part, Removed):
            return self._remove(set(part.ids))
        if isinstance(part, (Ended, Failed, Stopped)):
            return self._encode_end(part)
        return []  # what the end repeats

    def _id(self, part_id: str) -> str:
        return f"{self._run}-{part_id}"

    def _encode_text(self, part: Union[TextBegan, TextAdded, TextEnded]) -> List[Chunk]:
        message_id = self._id(part.id)
        if isinstance(part, TextBegan):
            message = _SentMessage(part.id, message_id, part.kind)
            self._texts[part.id] = message
            self._sent.append(message)
            if message.is_reasoning:
                return [
                    {"type": "REASONING_START", "messageId": message_id},
                    {
                        "type": "REASONING_MESSAGE_START",
                        "messageId": message_id,
                        "role": "reasoning",
                    },
                ]
            self._parent, self._parent_reply = message_id, part.reply
            return [{"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"}]
        message = self._texts[part.id]
        prefix = "REASONING_MESSAGE" if message.is_reasoning else "TEXT_MESSAGE"
        if isinstance(part, TextAdded):
            if self._posted is not None:
                message.texts.append(part.text)
            return [{"type": f"{prefix}_CONTENT", "messageId": message_id, "delta": part.text}]
        del self._texts[part.id]
        chunks: List[Chunk] = [{"type": f"{prefix}_END", "messageId": message_id}]
        if message.is_reasoning:
            chunks.append({"type": "REASONING_END", "messageId": message_id})
        return chunks

    def _encode_call(self, part: CallAsked) -> List[Chunk]:
        if part.is_known:
            return []
        if self._parent is None or self._parent_reply != part.reply:
            self._parent, self._parent_reply = self._id(f"calls-{part.id}"), part.reply
        arguments = part.arguments
        text = arguments if isinstance(arguments, str) else to_json(arguments)
        if self._posted is not None:
            self._sent.append(_SentMessage(part.id, self._parent, "call", part.tool, text))
        return [
            {
                "type": "TOOL_CALL_START",
                "toolCallId": part.id,
                "toolCallName": part.tool,
                "parentMessageId": self._parent,
            },
            {"type": "TOOL_CALL_ARGS", "toolCallId": part.id, "delta": text},
            {"type": "TOOL_CALL_END", "toolCallId": part.id},
        ]

    def _encode_result(self, call_id: str, result: Any, error: Optional[str] = None) -> List[Chunk]:
        content = result if isinstance(result, str) else to_json(result)
        message_id = self._id(f"result-{call_id}")
        if self._posted is not None:
            self._sent.append(_SentMessage(call_id, message_id, "result", call_id, content))
        chunk: Chunk = {
            "type": "TOOL_CALL_RESULT",
            "messageId": message_id,
            "toolCallId": call_id,
            "content": content,
            "role": "tool",
        }
        if error is not None:
            chunk["metadata"] = {"error": error}
        return [chunk]

    def _remove(self, ids: Set[str]) -> List[Chunk]:
        """Return a snapshot of all messages without the removed ones."""
        if self._posted is None:
            return []
        self._sent = [message for message in self._sent if message.part not in ids]
        messages: Dict[str, Chunk] = {}
        for sent in self._sent:
            sent.add_to(messages)
        posted = [dict(message) for message in self._posted]
        return [{"type": "MESSAGES_SNAPSHOT", "messages": posted + list(messages.values())}]

    def _encode_end(self, part: Union[Ended, Failed, Stopped]) -> List[Chunk]:
        if isinstance(part, Failed):
            return [{"type": "RUN_ERROR", "message": part.error}]
        finished: Chunk = {
            "type": "RUN_FINISHED",
            "threadId": self._thread,
            "runId": self._run,
            "outcome": {"type": "success"},
        }
        if isinstance(part, Stopped):
            finished["outcome"] = {"type": "cancelled"}
            return [finished]
        if part.waiting:
            interrupts = [_interrupt(one) for one in part.waiting]
            finished["outcome"] = {"type": "interrupt", "interrupts": interrupts}
        if part.usage is not None:
            finished["usage"] = [_usage(part.usage)]
        return [finished]


class _SentMessage:
    """A message, call or result that was sent, for snapshots.

    part: the id of its part.
    id: the id of the message.
    kind: "text", "reasoning", "call" or "result".
    name: the tool of a call; the id of the call of a result.
    text: the arguments of a call, the content of a result.
    """

    __slots__ = ("id", "kind", "name", "part", "texts")

    def __init__(self, part: str, id: str, kind: str, name: str = "", text: str = "") -> None:
        self.part = part
        self.id = id
        self.kind = kind
        self.name = name
        self.texts = [text]

    @property
    def is_reasoning(self) -> bool:
        """Return whether it is the model's thinking."""
        return self.kind == "reasoning"

    def add_to(self, messages: Dict[str, Chunk]) -> None:
        """Add it to the messages of a snapshot, by id."""
        text = "".join(self.texts)
        if self.kind == "result":
            message: Chunk = {"role": "tool", "toolCallId": self.name, "content": text}
        elif self.kind == "call":
            message = messages.get(self.id) or {"role": "assistant"}
            call = {
                "id": self.part,
                "type": "function",
                "function": {"name": self.name, "arguments": text},
            }
            message = dict(message, toolCalls=message.get("toolCalls", []) + [call])
        else:
            message = {
                "role": "reasoning" if self.is_reasoning else "assistant",
                "content": text,
            }
        messages[self.id] = dict(message, id=self.id)


def _interrupt(waiting: Union[ApprovalAsked, QuestionAsked]) -> Chunk:
    interrupt: Chunk
    if isinstance(waiting, ApprovalAsked):
        interrupt = {
            "id": waiting.id,
            "reason": "tool_call",
            "message": f"{waiting.tool} waits for approval",
            "toolCallId": waiting.call,
            "responseSchema": DECISION_SCHEMA,
        }
    else:
        interrupt = {"id": waiting.id, "reason": "input_required"}
        if waiting.prompt is not None:
            interrupt["message"] = waiting.prompt
        if waiting.type is not None:
            interrupt["responseSchema"] = waiting.type
        if waiting.data is not None:
            interrupt["metadata"] = {"data": waiting.data}
    if isinstance(waiting.deadline, (int, float)):
        moment = datetime.datetime.fromtimestamp(waiting.deadline, datetime.timezone.utc)
        interrupt["expiresAt"] = moment.isoformat()
    return interrupt


def _usage(usage: Usage) -> Dict[str, int]:
    """Return the counts of tokens, named as AG-UI does."""
    return {
        "inputTokens": usage.total_tokens - usage.output_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cache_read_input_tokens,
        "cacheWriteInputTokens": usage.cache_write_input_tokens,
    }


def read_ag_ui(body: Any) -> BrowserRequest:
    """Read the `RunAgentInput` of an AG-UI front end.

    Everything in it comes from the browser, which may have changed it. So `.messages` has only the
    new text of the user, after the last message of another role. The conversation so far is the
    server's own. `.approvals` and `.answers` have the entries of `resume`; pass the former on with
    the stored messages of the run, or both to `answer_waits`, which match them against what waits.

    body: the JSON body of the request: bytes, a str, or what a framework has parsed.

    Raises ValueError for a body of another form.
    """
    values = read_body(body)
    posted, thread, run = values.get("messages"), values.get("threadId"), values.get("runId")
    if not isinstance(posted, list) or not isinstance(thread, str) or not isinstance(run, str):
        raise ValueError("the request has no threadId, no runId or no list of messages")
    messages = [as_object(message, "a message") for message in posted]
    new: List[ChatMessage] = []
    for message in reversed(messages):
        if message.get("role") != "user":
            break
        new.insert(0, user_message(_parts(message.get("content"))))
    request = BrowserRequest(
        messages=[message for message in new if message.text],
        chat_id=thread,
        run_id=run,
        posted=messages,
    )
    resume = values.get("resume")
    for entry in resume if isinstance(resume, list) else ():
        _read_resume(as_object(entry, "an entry of resume"), request)
    return request


def _parts(content: Any) -> List[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("a message of the request has no content")
    return [as_object(part, "a part of a message") for part in content]


def _read_resume(entry: Mapping[str, Any], request: BrowserRequest) -> None:
    interrupt, payload = entry.get("interruptId"), entry.get("payload")
    if not isinstance(interrupt, str):
        raise ValueError("an entry of resume has no interruptId")
    if entry.get("status") != "resolved":
        request.approvals[interrupt] = Refused("cancelled")
    elif isinstance(payload, dict) and isinstance(payload.get("approved"), bool):
        request.approvals[interrupt] = _decision(payload)
    else:
        request.answers[interrupt] = payload


def _decision(payload: Mapping[str, Any]) -> Approval:
    if payload["approved"] is not True:
        reason = payload.get("reason")
        return Refused(reason if isinstance(reason, str) else "")
    edited = payload.get("editedArgs")
    if edited is not None and not isinstance(edited, dict):
        raise ValueError("the edited arguments of an approval are not a JSON object")
    return Approved(arguments=edited)
