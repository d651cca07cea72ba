"""The tool loop without IO: ask the model, call the tools it wants, send the results, repeat.

`tool_loop` is a generator of steps: its caller carries out each step and sends the result back.
`runner` is that caller. It makes the calls on threads.
"""

import json
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Union,
    cast,
)

from asimov_sync import _drawing
from asimov_sync._json import format_error
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import ToolError, ToolRefused
from asimov_sync.inference.output.final_answer import FinalAnswer
from asimov_sync.inference.tools.approvals import (
    Approval,
    Approvals,
    Decision,
    Refused,
    check_decision,
    read_approvals,
)
from asimov_sync.inference.tools.compaction import (
    check_limit,
    input_tokens,
    split,
    summary_prompt,
)
from asimov_sync.inference.tools.history import append_results, skipped_result, unanswered_calls
from asimov_sync.inference.tools.tool import Tool, result_text
from asimov_sync.messages import Block, ChatMessage, Event, Reply, ToolCall, Usage, short_repr

__all__ = [
    "AskForApproval",
    "CallTools",
    "CalledTool",
    "HistoryCompacted",
    "KeptCall",
    "Redact",
    "SendMessages",
    "Summarize",
    "ToolFinished",
    "ToolRun",
    "ToolRunDone",
    "ToolStarted",
    "WITHHELD",
    "apply_redact",
    "result_block",
    "tool_loop",
]

logger = get_logger("asimov_sync.inference")

WITHHELD = "the result was withheld"
"""The text of a result that `redact=` could not process."""

CONTINUE_REASONS = ("pause_turn",)
"""Stop reasons after which the history is sent again unchanged: the provider's turn is not over."""

Redact = Callable[[str], str]
"""Takes the text of a tool's result or exception; returns the text that the model receives."""


# Values


@dataclass
class CalledTool:
    """One tool call and its outcome.

    call: the model's call; if the approval changed the arguments, with the changed ones.
    result: the function's return value; None if it raised.
    exception: the exception that it raised, or None. ToolRefused for a call that was refused.
    seconds: the duration of the call.
    usage: the usage of the requests that the tool made, on any client.
    text: the outcome as text, which the model receives after `redact=`. Computed at creation, which
        raises if JSON cannot represent the result.
    """

    call: ToolCall
    result: Any
    exception: Optional[BaseException]
    seconds: float
    usage: Usage = field(default_factory=Usage)
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.exception is None:
            self.text = result_text(self.result)
        elif isinstance(self.exception, ToolError):
            self.text = _message(self.exception) or "the tool failed"
        else:
            self.text = format_error(self.exception)


@dataclass
class KeptCall(CalledTool):
    """A tool call whose result was stored, perhaps by an earlier process.

    block: the result as the model reads it.
    """

    block: Block = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.text = str(self.block.get("content"))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a faulty __str__
        return ""


@dataclass
class ToolRun:
    """The outcome of a tool loop.

    messages: the whole history, with a result for every call that is not in `pending`; it can be
        sent again as it is. After a compaction it begins with the kept messages and the summary.
    reply: the last reply.
    usage: the usage of all requests together, those of the tools and for summaries included.
    iterations: the number of requests, without those of the tools and for summaries.
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

    def __repr__(self) -> str:
        parts = [short_repr(self.text)]
        failed = [called.call.name for called in self.calls if called.exception is not None]
        if self.calls:
            parts.append(f"{len(self.calls)} tool call{'' if len(self.calls) == 1 else 's'}")
        if failed:
            parts.append(f"failed: {', '.join(dict.fromkeys(failed))}")
        if self.pending:
            parts.append(f"waiting: {', '.join(call.name for call in self.pending)}")
        parts.append(f"{self.stop_reason}, {self.usage.total_tokens} tokens")
        return f"<ToolRun: {'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        """Return the answer, the conversation and the usage, for notebooks."""
        return _drawing.draw("notebook_html", self)


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
class HistoryCompacted(Event):
    """A summary has replaced old messages of the conversation.

    summary: the text of the summary.
    removed: the number of messages that it replaces.
    usage: the usage of the request for the summary.
    """

    __slots__ = ("removed", "summary", "usage")
    type = "history_compacted"
    summary: str
    removed: int
    usage: Usage


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
    """A step: make these calls, and answer with a CalledTool for each, in the same order.

    calls: the calls as they are approved.
    asked: the same calls as the model wrote them.
    keys: a text for each call that no other call of the loop has (see `tool_loop`).
    """

    calls: List[ToolCall]
    asked: List[ToolCall]
    keys: List[str]


class AskForApproval(NamedTuple):
    """A step: answer with the decision about each call, in the same order; None without one.

    calls, keys: as in CallTools.
    tools: the tool of each call.
    """

    calls: List[ToolCall]
    keys: List[str]
    tools: List[Tool]


class Summarize(NamedTuple):
    """A step: ask for a summary with this prompt, and answer with the Reply.

    removed: the number of messages that the summary replaces.
    messages: the whole history.
    """

    prompt: str
    removed: int
    messages: List[ChatMessage]


Step = Union[SendMessages, CallTools, AskForApproval, Summarize]


# The loop


def tool_loop(
    messages: List[ChatMessage],
    max_iterations: int,
    tools: Optional[Mapping[str, Tool]] = None,
    approvals: Optional[Approvals] = None,
    redact: Optional[Redact] = None,
    final: Optional[FinalAnswer] = None,
    trusted_history: bool = False,
    compact_at: Optional[int] = None,
    estimate: Callable[[List[ChatMessage]], int] = len,
    asks: bool = False,
) -> Generator[Step, Any, ToolRun]:
    """Run the loop as a generator of steps; returns the ToolRun.

    Send it a Reply for each SendMessages, and a list of CalledTool for each CallTools. The steps
    depend on nothing but the arguments and what was sent.

    The key of a call is its id, with a number after it if an earlier call has the same.

    messages: the history. Unanswered calls at its end are made first.
    max_iterations: the most requests, at least 1. The calls of the last reply are still made, so
        that the history has no unanswered call.
    tools: the tools by name; they decide which calls need an approval.
    approvals: decisions about the unanswered calls of the history. They do not apply to later
        calls, because models reuse ids.
    redact: applied to the text of every result and exception.
    final: the data that the loop must end with; None if it may end with text.
    trusted_history: whether unanswered calls that need no approval are made. The history may come
        from outside, and then so do these calls.
    compact_at: the number of input tokens of a request above which a summary replaces old messages
        before the next request; None for no limit.
    estimate: returns the number of input tokens of a history that was not sent yet.
    asks: whether an AskForApproval comes before the loop ends because calls wait for approval.

    Calls are made only after the stop reason "tool_use". The calls of any other reply (cut short by
    max_tokens, or a refusal) are answered with an error.

    Raises ValueError or TypeError for an invalid approval (see `read_approvals`), ValueError if an
    untrusted history ends in unanswered calls that neither need nor have an approval, and
    OutputInvalid, with the history in `.messages`, if the loop ends without valid data.
    """
    if max_iterations < 1:
        raise ValueError(
            f"max_iterations is the most requests to make, at least 1; not {max_iterations}"
        )
    check_limit(compact_at, False)
    history = list(messages)
    tools = tools if tools is not None else {}
    usage = Usage()
    called: List[CalledTool] = []
    iterations = 0
    tokens: Optional[int] = None  # the input of the last request, if it is known
    reply = unanswered_calls(history)
    unanswered = reply.tool_calls if reply is not None else []
    decisions: Dict[str, Decision] = {}
    used_keys = _answered_ids(history, unanswered)
    if approvals is not None:
        decisions = read_approvals(approvals, history, unanswered, tools)
    if not trusted_history:
        _refuse_unguarded(unanswered, decisions, tools)
    while True:
        calls = reply.tool_calls if reply is not None else []
        answer_calls = [call for call in calls if final is not None and final.is_answer(call)]
        calls = [call for call in calls if call not in answer_calls]
        if calls and reply is not None and reply.stop_reason == "tool_use":
            keys = [_unused_key(call.id, used_keys) for call in calls]
            decided = {
                index: decisions[call.id]
                for index, call in enumerate(calls)
                if call.id in decisions
            }
            outcomes, pending = yield from _make_calls(calls, keys, decided, tools, asks)
            results = []
            for index in sorted(outcomes):
                called.append(outcomes[index])
                usage = usage + outcomes[index].usage
                results.append(result_block(calls[index], outcomes[index], redact))
            deferred = final.defer(answer_calls) if final is not None else []
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
        if compact_at is not None and (tokens or estimate(history)) > compact_at:
            parts = split(history)
            if parts is not None and parts.is_worth_a_summary(compact_at):
                step = Summarize(summary_prompt(parts), len(parts.middle), list(history))
                summary = cast(Reply, (yield step))
                usage = usage + summary.usage
                history = parts.with_summary(summary)
        force_output = final is not None and final.force_output
        reply = cast(Reply, (yield SendMessages(list(history), force_output)))
        iterations += 1
        usage = usage + reply.usage
        tokens = input_tokens(reply.usage)
        history.append(reply.message)


def _make_calls(
    calls: List[ToolCall],
    keys: List[str],
    decisions: Dict[int, Decision],
    tools: Mapping[str, Tool],
    asks: bool,
) -> Generator[Step, Any, Tuple[Dict[int, CalledTool], List[ToolCall]]]:
    """Make the calls of a reply that may be made, as steps.

    calls, keys: the calls, and their keys.
    decisions: the decisions about calls, by position.
    tools: the tools by name.
    asks: whether to ask for the decisions that are missing.

    Returns the outcomes by position, and the calls that wait for approval.
    """
    outcomes: Dict[int, CalledTool] = {}
    undecided = [
        index
        for index, call in enumerate(calls)
        if index not in decisions and _needs_approval(call, tools)
    ]
    ready = [index for index in range(len(calls)) if index not in undecided]
    while True:
        to_make: Dict[int, ToolCall] = {}
        for index in ready:
            call, decision = calls[index], decisions.get(index)
            if isinstance(decision, Refused):
                refusal = ToolRefused(decision.reason or "the call was not approved")
                outcomes[index] = CalledTool(call, None, refusal, 0.0)
            else:
                to_make[index] = call if decision is None else decision.apply(call)
        if to_make:
            asked, their_keys = [calls[one] for one in to_make], [keys[one] for one in to_make]
            made = yield CallTools(list(to_make.values()), asked, their_keys)
            outcomes.update(zip(to_make, cast(List[CalledTool], made)))
        if not (undecided and asks):
            break
        answers = yield AskForApproval(
            [calls[index] for index in undecided],
            [keys[index] for index in undecided],
            [tools[calls[index].name] for index in undecided],
        )
        ready = []
        for index, answer in zip(undecided, cast(List[Optional[Approval]], answers)):
            if answer is not None:
                decisions[index] = check_decision(answer, calls[index], tools)
                ready.append(index)
        if not ready:
            break
        undecided = [index for index in undecided if index not in decisions]
    return outcomes, [calls[index] for index in undecided]


def _answered_ids(history: List[ChatMessage], unanswered: List[ToolCall]) -> Set[str]:
    """Return the ids of the calls of a history that have a result."""
    ids = {
        str(block.get("tool_use_id"))
        for message in history
        for block in message.blocks
        if block.get("type") == "tool_result"
    }
    return ids - {call.id for call in unanswered}


def _unused_key(call_id: str, used: Set[str]) -> str:
    """Return a key for a call that is not in `used`, and add it."""
    key, number = call_id, 1
    while key in used:
        number += 1
        key = f"{call_id}#{number}"
    used.add(key)
    return key


def _needs_approval(call: ToolCall, tools: Mapping[str, Tool]) -> bool:
    # A malformed call is never pending: nobody could tell what an approval would permit.
    tool = tools.get(call.name)
    return tool is not None and call.malformed is None and tool.needs_approval(call)


def _refuse_unguarded(
    unanswered: List[ToolCall],
    decisions: Mapping[str, Decision],
    tools: Mapping[str, Tool],
) -> None:
    """Raise ValueError if unanswered calls of a history would be made without an approval."""
    names = [
        call.name
        for call in unanswered
        if call.name in tools
        and call.id not in decisions
        and call.malformed is None
        and not _needs_approval(call, tools)
    ]
    if names:
        listed = ", ".join(dict.fromkeys(names))
        raise ValueError(
            f"the messages end in unanswered calls of {listed}, which need no approval. Pass "
            "trusted_history=True to make them, if nobody else can have written these messages; "
            "otherwise leave the last message out, or approve the calls"
        )


def result_block(call: ToolCall, called: CalledTool, redact: Optional[Redact]) -> Block:
    """Return the result of a model's call as a block.

    call: the call as the model wrote it.
    called: its outcome.
    redact: applied to the text, unless the result was stored.
    """
    if isinstance(called, KeptCall):
        return called.block
    text = called.text
    if called.call is not call:
        arguments = json.dumps(called.call.arguments, ensure_ascii=False)
        text = f"A person changed the arguments of this call to {arguments}. Its result:\n{text}"
    block: Block = {"type": "tool_result", "tool_use_id": call.id}
    if called.exception is not None:
        block["is_error"] = True
    try:
        block["content"] = apply_redact(text, redact)
    except Exception as error:
        # The text must not reach the model unredacted. The error may quote it, so its message is
        # not logged.
        logger.error(
            "redact= failed with %s on a result of the tool %s; the result is withheld",
            type(error).__name__,
            called.call.name,
        )
        block.update(content=WITHHELD, is_error=True)
    return block


def apply_redact(text: str, redact: Optional[Redact]) -> str:
    """Return the text of a tool's result as the model may read it.

    Raises what `redact` raises, and TypeError if it does not return text.
    """
    if redact is None:
        return text
    redacted = redact(text)
    if not isinstance(redacted, str):
        raise TypeError(f"redact= returned {type(redacted).__name__}, not text")
    return redacted
