"""The tool loop, pure: ask the model, call the tools that it wants, tell it what came of that, until it is done.

`conversation` is a generator that yields what is to be done and is sent what happened; who does it, on which threads, is
no concern of it.
"""

import logging
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
from asimov_sync.errors import ToolRefused
from asimov_sync.inference.output.final_answer import FinalAnswer
from asimov_sync.inference.tools.history import answer, not_made, open_reply
from asimov_sync.inference.tools.tool import result_text
from asimov_sync.messages import Block, ChatMessage, Event, Reply, ToolCall, Usage

__all__ = [
    "Approvals",
    "Ask",
    "Call",
    "CalledTool",
    "Redact",
    "ToolFinished",
    "ToolRun",
    "ToolRunDone",
    "ToolStarted",
    "conversation",
]

logger = logging.getLogger(__name__)

GOES_ON = ("pause_turn",)
"""Stop reasons after which the history is sent again as it is: the provider has not finished its turn."""

Approvals = Mapping[str, Union[bool, str]]
"""What was decided about calls that wait for approval, by their ids: True, or the reason for which it was refused."""

Redact = Callable[[str], str]
"""Takes the text of a tool's result, or of its exception, and returns what the model may read of it."""


# Values


@dataclass
class CalledTool:
    """One call that was made: what the function returned or raised, and how many seconds it took.

    A call that was refused has a ToolRefused for its exception. text: what came of it in words, which the model is told
    (after `redact=`); made once, with the object itself, which raises where JSON cannot hold the result.
    """

    call: ToolCall
    result: Any
    exception: Optional[BaseException]
    seconds: float
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.text = result_text(self.result) if self.exception is None else format_error(self.exception)


@dataclass
class ToolRun:
    """What came of a tool loop.

    messages: the whole history, every call with its result but those in `pending`, ready to be sent again. reply: the last
    reply. usage: of all requests together. iterations: how many requests that were. stop_reason: the last reply's, or
    "max_iterations" where the model wanted to go on, or "approval". calls: every call, in the order of the replies. pending:
    the calls that wait for approval: `run_tools(run.messages, …, approvals={call.id: True})` goes on, in any process. parsed:
    the data that `output=` asked for; None where the loop ended before it.
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
    """A tool is being called."""

    __slots__ = ("call",)
    type = "tool_started"
    call: ToolCall


@dataclass
class ToolFinished(Event):
    """A tool has returned its result, or failed: then error is its exception in one line, and result is None."""

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


class Ask(NamedTuple):
    """Wanted: the reply to these messages; insist: whether the model is made to give its answer as data."""

    messages: List[ChatMessage]
    insist: bool = False


class Call(NamedTuple):
    """Wanted: what came of these calls, in the same order."""

    calls: List[ToolCall]


Step = Union[Ask, Call]


# The loop


def conversation(
    messages: List[ChatMessage],
    max_iterations: int,
    guarded: AbstractSet[str] = frozenset(),
    approvals: Optional[Approvals] = None,
    redact: Optional[Redact] = None,
    final: Optional[FinalAnswer] = None,
) -> Generator[Step, Any, ToolRun]:
    """The loop without any IO: yields Ask and is sent a Reply, yields Call and is sent a list of CalledTool.

    guarded: the names of the tools whose calls need approval. Calls that the history ends with, and that have no result, are
    taken up first; approvals are for these alone, since models use the same id again. Tools are called only where the model
    stopped for them: a call that was cut short by max_tokens, or that came with a refusal, is answered with an error. After
    the last allowed request its calls are still made, so that the history has no open call. final: where the loop is to end
    with data; OutputInvalid, with the history in its `.messages`, where it does not. ValueError for an approval of a call that
    the history does not have.
    """
    if max_iterations < 1:
        raise ValueError(
            "max_iterations is the number of requests that may be made, 1 at least; not {}".format(max_iterations)
        )
    history = list(messages)
    decided = _decided(history, approvals or {})
    usage = Usage()
    called: List[CalledTool] = []
    iterations = 0
    reply = open_reply(history)
    while True:
        calls = reply.tool_calls if reply is not None else []
        given = [call for call in calls if final is not None and final.given_by(call)]
        calls = [call for call in calls if call not in given]
        if calls and reply is not None and reply.stop_reason == "tool_use":
            # What is malformed is not to be approved of: nobody could say what would be done.
            undecided = [call for call in calls if call.name in guarded and call.id not in decided]
            pending = [call for call in undecided if call.malformed is None]
            settled = [_refused(call, decided[call.id]) for call in calls if decided.get(call.id, True) is not True]
            open_calls = [call for call in calls if call not in pending and decided.get(call.id, True) is True]
            made = cast(List[CalledTool], (yield Call(open_calls))) if open_calls else []
            called.extend(_in_order(calls, made + settled))
            put_off = final.put_off(given) if final is not None else []
            answer(history, [_result_block(one, redact) for one in made + settled] + put_off)
            if pending:
                return ToolRun(history, reply, usage, iterations, "approval", called, pending)
            decided = {}
        elif reply is not None and (final is None or reply.stop_reason in GOES_ON):
            answer(history, [not_made(call, reply.stop_reason) for call in reply.tool_calls])
            if reply.stop_reason not in GOES_ON:
                return ToolRun(history, reply, usage, iterations, reply.stop_reason, called)
        elif reply is not None and final is not None:
            whole = final.taken_from(reply, history)
            if whole is not None:
                stop_reason = "end_turn" if whole.stop_reason == "tool_use" else whole.stop_reason
                return ToolRun(history, whole, usage, iterations, stop_reason, called, parsed=whole.parsed)
        if iterations == max_iterations:
            assert reply is not None
            return ToolRun(history, reply, usage, iterations, "max_iterations", called)
        reply = cast(Reply, (yield Ask(list(history), final is not None and final.insist)))
        iterations += 1
        usage = usage + reply.usage
        history.append(reply.message)


def _decided(history: List[ChatMessage], approvals: Approvals) -> Dict[str, Union[bool, str]]:
    known = {block.get("id") for message in history for block in message.blocks if block.get("type") == "tool_use"}
    for wanted, decision in approvals.items():
        if wanted not in known:
            raise ValueError("there is no call {!r} in the messages to be approved".format(wanted))
        if not isinstance(decision, (bool, str)):
            raise TypeError("an approval is True, or the reason for a refusal; not {!r}".format(decision))
    return dict(approvals)


def _in_order(calls: List[ToolCall], called: List[CalledTool]) -> List[CalledTool]:
    return sorted(called, key=lambda one: next(place for place, call in enumerate(calls) if call is one.call))


def _refused(call: ToolCall, reason: Union[bool, str]) -> CalledTool:
    return CalledTool(call, None, ToolRefused(reason or "the call was not approved"), 0.0)


def _result_block(made: CalledTool, redact: Optional[Redact]) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": made.call.id}
    block["content"] = made.text
    if made.exception is not None:
        block["is_error"] = True
    if redact is not None:
        try:
            block["content"] = redact(made.text)
            if not isinstance(block["content"], str):
                raise TypeError("redact= returned {}, not text".format(type(block["content"]).__name__))
        except Exception as error:  # what cannot be redacted is not told, and its error, which may quote it, not logged
            logger.error(
                "redact= failed with %s on a result of the tool %s; the model is told nothing of it",
                type(error).__name__,
                made.call.name,
            )
            block.update(content="the result was withheld", is_error=True)
    return block
