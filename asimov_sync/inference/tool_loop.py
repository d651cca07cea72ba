"""The tool loop: ask the model, call the tools that it wants, tell it what came of that, until it is done.

The loop itself (`conversation`) is pure: a generator that yields what is to be done and is sent what happened. `call_tools`
is the driver's other half: it makes the calls of one turn at once, on threads.
"""

import collections
import queue
import time
from typing import Any, Deque, Dict, Generator, List, NamedTuple, Optional, Union, cast

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import Cancelled, described
from asimov_sync.inference.tools import Tool, result_text
from asimov_sync.messages import ChatMessage, ChatRole, Reply, ToolCall, Usage
from asimov_sync.workers import WorkerPool

__all__ = ["CalledTool", "ToolRun", "call_tools", "conversation"]

SLICE_SECONDS = 0.2
"""How long tools are waited for at a stretch, where a wait cannot be interrupted (Windows)."""

GOES_ON = ("pause_turn",)
"""Stop reasons after which the history is sent again as it is: the provider has not finished its turn."""


class CalledTool(NamedTuple):
    """One call that was made: what the function returned or raised, and how many seconds it took."""

    call: ToolCall
    result: Any
    exception: Optional[BaseException]
    seconds: float


class ToolRun(NamedTuple):
    """What came of a tool loop.

    messages: the whole history, every call with its result, ready to be sent again. reply: the last reply. usage: of all
    requests together. iterations: how many requests that were. stop_reason: the last reply's, or "max_iterations" where the
    model wanted to go on. calls: every call, in the order of the replies.
    """

    messages: List[ChatMessage]
    reply: Reply
    usage: Usage
    iterations: int
    stop_reason: Optional[str]
    calls: List[CalledTool]

    @property
    def text(self) -> str:
        """The text of the last reply."""
        return self.reply.text


class Ask(NamedTuple):
    """Wanted: the reply to these messages."""

    messages: List[ChatMessage]


class Call(NamedTuple):
    """Wanted: what came of these calls, in the same order."""

    calls: List[ToolCall]


Step = Union[Ask, Call]


def conversation(messages: List[ChatMessage], max_iterations: int) -> Generator[Step, Any, ToolRun]:
    """The loop without any IO: yields Ask and is sent a Reply, yields Call and is sent a list of CalledTool.

    Tools are called only where the model stopped for them: a call that was cut short by max_tokens, or that came with a
    refusal, is none. After the last allowed request its calls are still made, so that the history has no open call.
    """
    if max_iterations < 1:
        raise ValueError(
            "max_iterations is the number of requests that may be made, 1 at least; not {}".format(max_iterations)
        )
    history = list(messages)
    usage = Usage()
    called: List[CalledTool] = []
    for iteration in range(1, max_iterations + 1):
        reply = cast(Reply, (yield Ask(list(history))))
        usage = usage + reply.usage
        history.append(reply.message)
        wants_tools = reply.stop_reason == "tool_use" and bool(reply.tool_calls)
        if wants_tools:
            made = cast(List[CalledTool], (yield Call(reply.tool_calls)))
            called.extend(made)
            history.append(ChatMessage(role=ChatRole.TOOL_RESULT, content=[_result_block(one) for one in made]))
        elif reply.stop_reason not in GOES_ON:
            return ToolRun(history, reply, usage, iteration, reply.stop_reason, called)
    return ToolRun(history, reply, usage, max_iterations, "max_iterations", called)


def _result_block(made: CalledTool) -> Dict[str, Any]:
    block: Dict[str, Any] = {"type": "tool_result", "tool_use_id": made.call.id}
    if made.exception is not None:
        block.update(content=described(made.exception), is_error=True)
    else:
        block["content"] = result_text(made.result)
    return block


def call_tools(
    calls: List[ToolCall], tools: Dict[str, Tool], pool: WorkerPool, max_workers: Optional[int], cancellation: Cancellation
) -> List[CalledTool]:
    """Make the calls, at most `max_workers` at once (None: all; 0: on this thread), and return them in the same order.

    Whatever a tool raises is in its CalledTool. Cancelled if the cancellation comes first: the tools are told, and not
    waited for.
    """
    if max_workers == 0:
        with cancellation:
            return [_call(call, tools, cancellation) for call in calls]
    made: Dict[int, CalledTool] = {}
    open_calls: Deque[int] = collections.deque(range(len(calls)))
    changed: "queue.SimpleQueue[None]" = queue.SimpleQueue()  # not an Event, whose wait Ctrl-C may break
    # A token of the tools' own: they are told, too, when it is the wait that is interrupted (Ctrl-C).
    told = Cancellation(parent=cancellation)

    def work() -> None:
        try:
            while open_calls and not told.cancelled:
                try:
                    place = open_calls.popleft()
                except IndexError:
                    return  # another worker was faster
                with told:
                    made[place] = _call(calls[place], tools, told)
        finally:
            changed.put(None)

    try:
        with cancellation.on_cancel(lambda: changed.put(None)):
            for _ in range(min(len(calls), max_workers or len(calls))):
                pool.submit(work)
            while len(made) < len(calls):
                cancellation.raise_if_cancelled()
                told.raise_if_cancelled()  # by one of the tools
                remaining = cancellation.remaining
                try:
                    changed.get(timeout=SLICE_SECONDS if remaining is None else min(SLICE_SECONDS, remaining))
                except queue.Empty:
                    pass
    except BaseException as interruption:
        told.cancel("interrupted by {}".format(type(interruption).__name__))
        raise
    return [made[place] for place in range(len(calls))]


def _call(call: ToolCall, tools: Dict[str, Tool], cancellation: Cancellation) -> CalledTool:
    start = time.perf_counter()
    result: Any = None
    exception: Optional[BaseException] = None
    cancellation.raise_if_cancelled()
    try:
        if call.name not in tools:
            raise LookupError(
                "there is no tool named {!r}; there are {}".format(call.name, ", ".join(sorted(tools)) or "none")
            )
        if call.malformed is not None:
            raise ValueError("the arguments are not a JSON object: {}".format(call.malformed[:500]))
        result = tools[call.name].call(call.arguments)
        result_text(result)  # what cannot be told to the model is the tool's error
    except Cancelled as cancelled:
        cancellation.raise_if_cancelled()
        exception = cancelled  # of a token of the tool's own
    except (Exception, SystemExit) as error:  # argparse, say, would end a program, and is not to end an agent
        exception = error
    return CalledTool(call, None if exception is not None else result, exception, time.perf_counter() - start)
