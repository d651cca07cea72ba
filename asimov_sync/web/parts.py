"""Parts: what happens in a reply, a tool loop or a run, in the terms of a page that shows it.

The protocols of browsers differ in names and framing, not in substance. `Fold` turns the events of
any stream into parts, and the encoder of a protocol turns parts into bytes.

Each text, call and task has an id that no other has in the stream. A text is begun, continued and
ended, in this order; a call is asked for before it has an outcome; a step is begun before it ends.
"""

from typing import Any, Mapping, NamedTuple, Optional, Tuple, Union

from asimov_sync.messages import Usage

__all__ = [
    "ApprovalAsked",
    "CallAsked",
    "CallFailed",
    "CallRefused",
    "CallReturned",
    "Ended",
    "Failed",
    "Part",
    "QuestionAsked",
    "Removed",
    "ReplyBegan",
    "Stopped",
    "StepBegan",
    "StepEnded",
    "TaskChanged",
    "TextAdded",
    "TextBegan",
    "TextEnded",
]


class ReplyBegan(NamedTuple):
    """The model has begun another reply. The texts and calls before it are over."""

    number: int


class StepBegan(NamedTuple):
    """A task has begun."""

    name: str


class StepEnded(NamedTuple):
    """A task has ended, or waits."""

    name: str


class TaskChanged(NamedTuple):
    """The state of a task.

    name: the name of the task.
    status: "executing", "complete", "partial", "failed", "waiting", "skipped" or "removed".
    details: more about it: fraction, text and data of its progress; error; reason; seconds.
    """

    name: str
    status: str
    details: Mapping[str, Any]


class TextBegan(NamedTuple):
    """A text has begun.

    kind: "text", or "reasoning" for the model's thinking.
    reply: the number of the reply that contains it.
    """

    id: str
    kind: str
    reply: int


class TextAdded(NamedTuple):
    """More of a text has arrived."""

    id: str
    text: str


class TextEnded(NamedTuple):
    """A text is complete, or is not continued."""

    id: str


class CallAsked(NamedTuple):
    """The model asks for a tool call, or the arguments of a call were changed.

    tool: the name of the tool.
    arguments: its arguments by name; the text that the model sent if they are malformed.
    reply: the number of the reply that contains it.
    is_known: whether an earlier response has shown the call to the browser.
    """

    id: str
    tool: str
    arguments: Any
    reply: int
    is_known: bool


class CallReturned(NamedTuple):
    """A tool call has a result, a value that JSON can hold."""

    id: str
    result: Any


class CallFailed(NamedTuple):
    """A tool call has failed, or was not made.

    error: the exception in one line.
    """

    id: str
    error: str


class CallRefused(NamedTuple):
    """A person has refused a tool call."""

    id: str
    reason: str


class ApprovalAsked(NamedTuple):
    """A tool call waits for the decision of a person.

    id: the id of the decision, as `Agent.run(approvals=…)` and `RunStore.approve` take it.
    call: the id of the call.
    tool: the name of the tool.
    deadline: when the wait ends, in seconds since the epoch; None for never.
    """

    id: str
    call: str
    tool: str
    deadline: Optional[float]


class QuestionAsked(NamedTuple):
    """A task waits for an answer: the fields of its `Wait`.

    id: the id of the answer, as `answer_waits` takes it.
    """

    id: str
    task: str
    name: str
    prompt: Optional[str]
    data: Any
    type: Optional[Mapping[str, Any]]
    deadline: Optional[float]


class Removed(NamedTuple):
    """Parts that do not count any more, because a task is repeated: the ids of texts and calls."""

    ids: Tuple[str, ...]


class Ended(NamedTuple):
    """The stream has ended.

    reason: the stop reason of the last reply, in Anthropic's terms, "approval" if calls or tasks
        wait; None if it is unknown.
    waiting: the decisions and answers that it waits for.
    usage: the tokens that were used, or None if that is unknown.
    """

    reason: Optional[str]
    waiting: Tuple[Union[ApprovalAsked, QuestionAsked], ...]
    usage: Optional[Usage]


class Failed(NamedTuple):
    """The stream has ended with an error, in one line."""

    error: str


class Stopped(NamedTuple):
    """The stream was cancelled."""

    reason: str


Part = Union[
    ReplyBegan,
    StepBegan,
    StepEnded,
    TaskChanged,
    TextBegan,
    TextAdded,
    TextEnded,
    CallAsked,
    CallReturned,
    CallFailed,
    CallRefused,
    ApprovalAsked,
    QuestionAsked,
    Removed,
    Ended,
    Failed,
    Stopped,
]
