"""The tool loop without IO: ask the model, call the tools it wants, send the results, repeat.

`tool_loop` is a generator: it yields what to do next, and is sent the result. `runner` does it, on
threads.
"""

from dataclasses import dataclass, field
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    Generator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Union,
    cast,
)

from asimov_sync._json import format_error
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import ToolRefused
from asimov_sync.inference.output.final_answer import FinalAnswer
from asimov_sync.inference.tools.history import append_results, skipped_result, unanswered_calls
from asimov_sync.inference.tools.tool import result_text
from asimov_sync.messages import Block, ChatMessage, Event, Reply, ToolCall, Usage

__all__ = [
    "Approvals",
    "CallTools",
    "CalledTool",
    "Redact",
    "SendMessages",
    "ToolFinished",
    "ToolRun",
    "ToolRunDone",
    "ToolStarted",
    "tool_loop",
]

logger = get_logger("asimov_sync.tools")

CONTINUE_REASONS = ("pause_turn",)
"""Stop reasons after which the history is sent again unchanged: the provider's turn is not over."""

Approvals = Mapping[str, Union[bool, str]]
"""Decisions about calls that require approval, by call id: True, or the reason for a refusal."""

Redact = Callable[[str], str]
"""Takes the text of a tool's result or exception; returns the text that the model receives."""


# Values


@dataclass
class CalledTool:
    """One tool call and its outcome.

    call: the model's call.
    result: the function's return value; None if it raised.
    exception: the exception that it raised, or None. ToolRefused for a call that was refused.
    seconds: the duration of the call.
    text: the outcome as text, which the model receives after `redact=`. Computed at creation, which
        raises if JSON cannot represent the result.
    """

    call: ToolCall
    result: Any
    exception: Optional[BaseException]
    seconds: float
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.text = (
            result_text(self.result) if self.exception is None else format_error(self.exception)
        )


@dataclass
class ToolRun:
    """The outcome of a tool loop.

    messages: the whole history, with a result for every call that is not in `pending`; it can be
        sent again as it is.
    reply: the last reply.
    usage: the usage of all requests together.
    iterations: the number of requests.
    stop_reason: that of the last reply; "max_iterations" if the model wanted to continue after the
        last allowed request; "approval" if calls are pending.
    calls: every call, in the order of the replies.
    pending: the calls that wait for approval. `run_tools(run.messages, …,
        approvals={call.id: True})` continues, in any process.
    parsed: the data that `output=` asked for; None if the loop ended without it.
    """

    messages: List[ChatMessage]
    reply: Reply
    usage: Usage
    iterations: int
    stop_reason: Optional[str]
    calls: List[CalledTool]
    pending: List[ToolCall] = field(default_factory=list)
    parsed: Any = None

    @property
    def text(self) -> str:
        """The text of the last reply."""
        return self.reply.text


@dataclass
class ToolStarted(Event):
    """A tool call has started."""

    __slots__ = ("call",)
    type = "tool_started"
    call: ToolCall


@dataclass
class ToolFinished(Event):
    """A tool call has ended.

    result: the tool's result; None if it failed.
    error: the exception in one line, or None.
    """

    __slots__ = ("call", "error", "result")
    type = "tool_finished"
    call: ToolCall
    result: Any
    error: Optional[str]


@dataclass
class ToolRunDone(Event):
    """The loop has ended. Always the last event."""

    __slots__ = ("run",)
    type = "tool_run_done"
    run: ToolRun


class SendMessages(NamedTuple):
    """A step: send these messages, and answer with the Reply.

    force_output: whether the request must make the model give its final answer as data.
    """

    messages: List[ChatMessage]
    force_output: bool = False


class CallTools(NamedTuple):
    """A step: make these calls, and answer with a CalledTool for each, in the same order."""

    calls: List[ToolCall]


Step = Union[SendMessages, CallTools]


# The loop


def tool_loop(
    messages: List[ChatMessage],
    max_iterations: int,
    needs_approval: AbstractSet[str] = frozenset(),
    approvals: Optional[Approvals] = None,
    redact: Optional[Redact] = None,
    final: Optional[FinalAnswer] = None,
) -> Generator[Step, Any, ToolRun]:
    """Run the loop as a generator of steps; returns the ToolRun.

    Send it a Reply for each SendMessages, and a list of CalledTool for each CallTools.

    messages: the history. Unanswered calls at its end are made first.
    max_iterations: the most requests, at least 1. The calls of the last reply are still made, so
        that the history has no unanswered call.
    needs_approval: the names of the tools whose calls need an approval.
    approvals: decisions about the unanswered calls of the history. They do not apply to later
        calls, because models reuse ids.
    redact: applied to the text of every result and exception.
    final: the data that the loop must end with; None if it may end with text.

    Calls are made only after the stop reason "tool_use". The calls of any other reply (cut short by
    max_tokens, or a refusal) are answered with an error.

    Raises ValueError for an approval of a call that is not in the history, and OutputInvalid, with
    the history in `.messages`, if the loop ends without valid data.
    """
    if max_iterations < 1:
        raise ValueError(
            f"max_iterations is the most requests to make, at least 1; not {max_iterations}"
        )
    history = list(messages)
    decisions = _check_approvals(history, approvals or {})
    usage = Usage()
    called: List[CalledTool] = []
    iterations = 0
    reply = unanswered_calls(history)
    while True:
        calls = reply.tool_calls if reply is not None else []
        answer_calls = [call for call in calls if final is not None and final.is_answer(call)]
        calls = [call for call in calls if call not in answer_calls]
        if calls and reply is not None and reply.stop_reason == "tool_use":
            # A malformed call is never pending: nobody could tell what an approval would permit.
            undecided = [
                call for call in calls if call.name in needs_approval and call.id not in decisions
            ]
            pending = [call for call in undecided if call.malformed is None]
            refused = [
                _refuse(call, decisions[call.id])
                for call in calls
                if decisions.get(call.id, True) is not True
            ]
            to_make = [
                call
                for call in calls
                if call not in pending and decisions.get(call.id, True) is True
            ]
            made = cast(List[CalledTool], (yield CallTools(to_make))) if to_make else []
            called.extend(_in_call_order(calls, made + refused))
            deferred = final.defer(answer_calls) if final is not None else []
            results = [_result_block(one, redact) for one in made + refused]
            append_results(history, results + deferred)
            if pending:
                return ToolRun(history, reply, usage, iterations, "approval", called, pending)
            decisions = {}
        elif reply is not None and (final is None or reply.stop_reason in CONTINUE_REASONS):
            skipped = [skipped_result(call, reply.stop_reason) for call in reply.tool_calls]
            append_results(history, skipped)
            if reply.stop_reason not in CONTINUE_REASONS:
                return ToolRun(history, reply, usage, iterations, reply.stop_reason, called)
        elif reply is not None and final is not None:
            answer = final.extract(reply, history)
            if answer is not None:
                reason = "end_turn" if answer.stop_reason == "tool_use" else answer.stop_reason
                return ToolRun(
                    history, answer, usage, iterations, reason, called, parsed=answer.parsed
                )
        if iterations == max_iterations:
            assert reply is not None
            return ToolRun(history, reply, usage, iterations, "max_iterations", called)
        force_output = final is not None and final.force_output
        reply = cast(Reply, (yield SendMessages(list(history), force_output)))
        iterations += 1
        usage = usage + reply.usage
        history.append(reply.message)


def _check_approvals(
    history: List[ChatMessage], approvals: Approvals
) -> Dict[str, Union[bool, str]]:
    known = {
        block.get("id")
        for message in history
        for block in message.blocks
        if block.get("type") == "tool_use"
    }
    for call_id, decision in approvals.items():
        if call_id not in known:
            raise ValueError(f"there is no call {call_id!r} in the messages to be approved")
        if not isinstance(decision, (bool, str)):
            raise TypeError(
                f"an approval is True, or the reason for a refusal (a str); not {decision!r}"
            )
    return dict(approvals)


def _in_call_order(calls: List[ToolCall], called: List[CalledTool]) -> List[CalledTool]:
    return sorted(
        called, key=lambda one: next(i for i, call in enumerate(calls) if call is one.call)
    )


def _refuse(call: ToolCall, reason: Union[bool, str]) -> CalledTool:
    return CalledTool(call, None, ToolRefused(reason or "the call was not approved"), 0.0)


def _result_block(called: CalledTool, redact: Optional[Redact]) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": called.call.id}
    block["content"] = called.text
    if called.exception is not None:
        block["is_error"] = True
    if redact is not None:
        try:
            block["content"] = redact(called.text)
            if not isinstance(block["content"], str):
                raise TypeError(f"redact= returned {type(block['content']).__name__}, not text")
        except Exception as error:
            # The text must not reach the model unredacted. The error may quote it, so its message
            # is not logged.
            logger.error(
                "redact= failed with %s on a result of the tool %s; the result is withheld",
                type(error).__name__,
                called.call.name,
            )
            block.update(content="the result was withheld", is_error=True)
    return block
