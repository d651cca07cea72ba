"""Runs the tool loop: sends its requests, and makes the calls of a turn in parallel, on threads."""

import collections.abc
import contextlib
import functools
import inspect
import logging
import time
from typing import Any, Callable, Dict, Generator, List, Optional

from asimov_sync import instrumentation
from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.fan_out import CallStarted, fan_out
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.errors import Cancelled, InferenceError, Parked
from asimov_sync.inference.reply_events import EventReader, EventSource
from asimov_sync.inference.stream import ReplyStream
from asimov_sync.inference.tools.loop import (
    WITHHELD,
    AskForApproval,
    CalledTool,
    CallTools,
    HistoryCompacted,
    Redact,
    SendMessages,
    Step,
    Summarize,
    ToolFinished,
    ToolRun,
    ToolRunDone,
    ToolStarted,
    apply_redact,
    result_block,
)
from asimov_sync.inference.tools.tool import Tool
from asimov_sync.inference.tools.transcript import Transcript
from asimov_sync.instrumentation import Activity, Observation
from asimov_sync.messages import Event, Reply, ToolCall
from asimov_sync.spans import open_span
from asimov_sync.usage import UsageCounter

__all__ = ["ToolLoopEvents", "execute_calls"]

logger = get_logger("asimov_sync.inference")

MAX_PARALLEL = 100
"""The most parallel calls if max_workers is None: the model chooses how many calls it makes."""


class ToolLoopEvents(EventSource):
    """The events of a tool loop; the last one is ToolRunDone.

    Opening it sends the first request and checks its status. If the loop starts with calls, or has
    nothing to do, nothing is sent.

    steps: the loop.
    send: sends the messages of a step.
    summarize: returns the reply to a prompt for a summary.
    tools: the tools by name.
    pool: the threads for the calls.
    max_workers: the most parallel calls; None for MAX_PARALLEL, 0 for calls on the reader's thread.
    cancellation: ends the loop.
    deadline: the `clock.monotonic()` moment that ends the tools; None (the default) for no limit.
        Tools that still run are cancelled, and get a TimeoutError as their outcome. `send` has to
        raise the error.
    redact: changes the results; passed on to observers, since the loop applies it by itself.
    transcript: keeps each step, and has those that are not carried out again; None for none.
        Steps that were kept have no events.

    Raises ValueError for a negative max_workers. An InferenceError has the history so far in its
    `.messages`, with a result for every call that was made, so continuing from it repeats none.
    """

    def __init__(
        self,
        steps: Generator[Step, Any, ToolRun],
        send: Callable[[SendMessages], ReplyStream],
        summarize: Callable[[str], Reply],
        tools: Dict[str, Tool],
        pool: WorkerPool,
        max_workers: Optional[int],
        cancellation: Cancellation,
        deadline: Optional[float] = None,
        redact: Optional[Redact] = None,
        transcript: Optional[Transcript] = None,
    ) -> None:
        if max_workers is not None and max_workers < 0:
            raise ValueError(
                f"max_workers is None, 0, or the most parallel calls; not {max_workers}"
            )
        self._steps = steps
        self._send = send
        self._summarize = summarize
        self._tools = tools
        self._pool = pool
        self._max_workers = max_workers
        self._cancellation = cancellation
        self._deadline = deadline
        self._redact = redact
        self._transcript = transcript
        self._stream: Optional[ReplyStream] = None
        self._run: Optional[ToolRun] = None
        self._advance(None)

    def _advance(self, result: Any) -> None:
        """Send the result of a step to the loop, and open the next reply if it wants one."""
        while True:
            try:
                self._step = self._steps.send(result)
            except StopIteration as end:
                self._run = end.value
                return
            except InferenceError:  # about the last reply
                if self._transcript is not None:
                    self._transcript.discard_reply()
                raise
            result = None if self._transcript is None else self._find_result(self._transcript)
            if result is None:
                break
        if isinstance(self._step, SendMessages):
            try:
                self._stream = self._send(self._step)
            except InferenceError as error:
                error.messages = self._step.messages
                raise

    def _find_result(self, transcript: Transcript) -> Any:
        """Return the result of the step if it was kept; None if it has to be carried out."""
        step = self._step
        if isinstance(step, SendMessages):
            return transcript.find_reply()
        if isinstance(step, Summarize):
            return transcript.find_summary()
        if isinstance(step, AskForApproval):
            return transcript.find_approvals(step)
        found = [transcript.find_call(key, call) for key, call in zip(step.keys, step.calls)]
        return found if all(one is not None for one in found) else None

    def read(self) -> EventReader:
        """Return a generator of the events."""
        result: Any
        while self._run is None:
            if isinstance(self._step, CallTools):
                result = yield from self._call_tools(self._step)
            elif isinstance(self._step, Summarize):
                result = self._ask_for_summary(self._step)
                if self._transcript is not None:
                    result = self._transcript.keep_summary(result)
                yield HistoryCompacted(result.text, self._step.removed, result.usage)
            else:
                stream, self._stream = self._stream, None
                assert isinstance(self._step, SendMessages) and stream is not None
                try:
                    with stream:
                        yield from stream
                except InferenceError as error:
                    error.messages = self._step.messages
                    raise
                result = stream.reply
                if self._transcript is not None:
                    result = self._transcript.keep_reply(result)
            self._advance(result)
        yield ToolRunDone(self._run)

    def _call_tools(self, step: CallTools) -> Generator[Event, None, List[CalledTool]]:
        """Make the calls of one turn until the deadline, and return their outcomes in order."""
        outcomes: Dict[int, CalledTool] = {}
        if self._transcript is not None:
            for index, (key, call) in enumerate(zip(step.keys, step.calls)):
                kept = self._transcript.find_call(key, call)
                if kept is not None:
                    outcomes[index] = kept
        calls = {index: call for index, call in enumerate(step.calls) if index not in outcomes}
        token, deadline = self._cancellation, self._deadline
        if deadline is not None:
            token = Cancellation(deadline - clock.monotonic(), parent=token)

        def finish(index: int, called: CalledTool) -> None:
            if self._transcript is not None:
                block = result_block(step.asked[index], called, self._redact)
                called = self._transcript.keep_call(step.keys[index], called, block)
            outcomes[index] = called

        try:
            yield from execute_calls(
                calls,
                step.keys,
                self._tools,
                self._pool,
                self._max_workers,
                token,
                finish,
                self._redact,
            )
        except Cancelled:
            if deadline is None or self._cancellation.cancelled or clock.monotonic() < deadline:
                raise
        for index, call in calls.items():
            if index not in outcomes:
                late = TimeoutError("the tool had not ended when the time of the run was over")
                finish(index, CalledTool(call, None, late, 0.0))
        return [outcomes[index] for index in range(len(step.calls))]

    def _ask_for_summary(self, step: Summarize) -> Reply:
        try:
            return self._summarize(step.prompt)
        except InferenceError as error:
            error.messages = step.messages
            raise

    def close(self) -> None:
        """Close the reply that nobody has started to read."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def execute_calls(
    calls: Dict[int, ToolCall],
    keys: List[str],
    tools: Dict[str, Tool],
    pool: WorkerPool,
    max_workers: Optional[int],
    cancellation: Cancellation,
    finish: Callable[[int, CalledTool], None],
    redact: Optional[Redact] = None,
) -> Generator[Event, None, None]:
    """Make the calls of one turn.

    Yields ToolStarted and ToolFinished as they happen. A call of a sequential tool runs alone,
    after the calls before it and before those after it. A tool's exception is in its CalledTool.

    calls: the calls by position.
    keys: the keys of all calls of the turn, by position.
    tools: the tools by name.
    pool: the threads.
    max_workers: the most parallel calls; None for MAX_PARALLEL. With 0, or if run_inline is
        set, the calls run one after the other on this thread.
    cancellation: ends the wait with Cancelled. Running tools are cancelled, but not awaited.
    finish: is called with the position and the outcome of each call when it ends.
    redact: passed on to observers.
    """
    inline = max_workers == 0 or scope.current().run_inline
    for group in _group_calls(calls, tools):
        if inline:
            yield from _execute_inline(group, keys, tools, cancellation, finish, redact)
        else:
            yield from _execute_on_threads(
                group, keys, tools, pool, max_workers, cancellation, finish, redact
            )


def _group_calls(calls: Dict[int, ToolCall], tools: Dict[str, Tool]) -> List[Dict[int, ToolCall]]:
    """Split the calls into groups of parallel calls, which run one after the other.

    Each group has its calls by position.
    """
    groups: List[Dict[int, ToolCall]] = []
    after_sequential = True
    for index, call in calls.items():
        sequential = call.name in tools and tools[call.name].sequential
        if sequential or after_sequential:
            groups.append({})
        groups[-1][index] = call
        after_sequential = sequential
    return groups


def _execute_inline(
    calls: Dict[int, ToolCall],
    keys: List[str],
    tools: Dict[str, Tool],
    cancellation: Cancellation,
    finish: Callable[[int, CalledTool], None],
    redact: Optional[Redact],
) -> Generator[Event, None, None]:
    for index, call in calls.items():
        yield ToolStarted(call)
        with cancellation:
            called = _execute_timed(call, keys[index], tools, cancellation, redact)
        finish(index, called)
        yield _finished_event(called)


def _execute_on_threads(
    calls: Dict[int, ToolCall],
    keys: List[str],
    tools: Dict[str, Tool],
    pool: WorkerPool,
    max_workers: Optional[int],
    cancellation: Cancellation,
    finish: Callable[[int, CalledTool], None],
    redact: Optional[Redact],
) -> Generator[Event, None, None]:
    positions = list(calls)
    # The tools' own token: Ctrl-C in the wait below cancels the tools as well.
    token = Cancellation(parent=cancellation)
    functions = [
        functools.partial(_execute_under, token, call, keys[index], tools, redact)
        for index, call in calls.items()
    ]
    with contextlib.closing(fan_out(functions, pool, token, max_workers or MAX_PARALLEL)) as events:
        for event in events:
            if isinstance(event, CallStarted):
                yield ToolStarted(calls[positions[event.index]])
                continue
            if event.error is not None:  # KeyboardInterrupt, for example: see `_execute`
                token.cancel(f"a tool ended with {type(event.error).__name__}")
                token.raise_if_cancelled()
            finish(positions[event.index], event.value)
            yield _finished_event(event.value)


def _execute_under(
    token: Cancellation,
    call: ToolCall,
    key: str,
    tools: Dict[str, Tool],
    redact: Optional[Redact],
) -> CalledTool:
    with token:
        return _execute_timed(call, key, tools, token, redact)


def _finished_event(called: CalledTool) -> ToolFinished:
    error = None if called.exception is None else format_error(called.exception)
    return ToolFinished(called.call, called.result, error)


def _execute_timed(
    call: ToolCall,
    key: str,
    tools: Dict[str, Tool],
    cancellation: Cancellation,
    redact: Optional[Redact],
) -> CalledTool:
    """Make a call, and note its span in the recorders of the context."""
    recorders = scope.current().span_recorders
    if not recorders:
        return _execute_observed(call, key, tools, cancellation, redact)
    span = open_span("tool", _shown_name(call, tools), recorders)
    try:
        called = _execute_observed(call, key, tools, cancellation, redact)
    except BaseException as error:
        span.finish(error=None if isinstance(error, Parked) else type(error).__name__)
        raise
    error_text = None
    if called.exception is not None:
        try:
            error_text = apply_redact(format_error(called.exception), redact)
        except Exception:  # `result_block` logs it
            error_text = WITHHELD
    span.finish(called.usage, error_text)
    return called


def _shown_name(call: ToolCall, tools: Dict[str, Tool]) -> str:
    """Return the name of a tool. The model invents those of unknown tools, so they are content."""
    return call.name if call.name in tools else "(unknown)"


def _execute_observed(
    call: ToolCall,
    key: str,
    tools: Dict[str, Tool],
    cancellation: Cancellation,
    redact: Optional[Redact],
) -> CalledTool:
    installed = instrumentation.installed
    if installed is None:
        return _execute_logged(call, key, tools, cancellation)
    watch = Observation(installed.tool, call, tools.get(call.name), redact)
    # The observation of a tool that ignores its cancellation ends with the cancellation.
    with cancellation.on_cancel(lambda: watch.end(None, Cancelled(cancellation.reason or ""))):
        return watch.run(_execute_logged, call, key, tools, cancellation)


def _execute_logged(
    call: ToolCall, key: str, tools: Dict[str, Tool], cancellation: Cancellation
) -> CalledTool:
    if not logger.isEnabledFor(logging.DEBUG):
        return _execute(call, key, tools, cancellation)
    name = _shown_name(call, tools)
    logger.debug("tool %s started", name)
    called = _execute(call, key, tools, cancellation)
    if called.exception is None:
        logger.debug("tool %s returned after %.3f s", name, called.seconds)
    else:
        error = describe_error(called.exception)
        logger.debug("tool %s failed after %.3f s: %s", name, called.seconds, error)
    return called


def _execute(
    call: ToolCall, key: str, tools: Dict[str, Tool], cancellation: Cancellation
) -> CalledTool:
    start = time.perf_counter()
    counter = UsageCounter()
    exception: BaseException
    cancellation.raise_if_cancelled()
    operation = scope.current().operation
    in_task = scope.current().task_context is not None
    if in_task:  # for the idempotency keys of the task
        scope.replace(operation=operation + (key,))
    try:
        if call.name not in tools:
            names = ", ".join(sorted(tools)) or "none"
            raise LookupError(f"there is no tool named {call.name!r}; known tools: {names}")
        if call.malformed is not None:
            raise ValueError(f"the arguments are not a JSON object: {call.malformed[:500]}")
        with counter, Activity(call.name):
            result = _materialize(tools[call.name].call(call.arguments))
        # Raises if JSON cannot represent the result, which counts as the tool's error.
        return CalledTool(call, result, None, time.perf_counter() - start, counter.usage)
    except Cancelled as cancelled:
        cancellation.raise_if_cancelled()
        exception = cancelled  # from a token that the tool made itself
    except (KeyboardInterrupt, Parked):  # Parked: of a tool on the handler's own thread
        raise
    except BaseException as error:
        # Includes SystemExit, of argparse for example: it must not end the agent's program.
        exception = error
    finally:
        if in_task:
            scope.replace(operation=operation)
    return CalledTool(call, None, exception, time.perf_counter() - start, counter.usage)


def _materialize(result: Any) -> Any:
    """Return a tool's result; the items of an iterator as a list.

    Raises TypeError for a coroutine, which nothing would await.
    """
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("the tool returned a coroutine: run it in the tool, with asyncio.run(…)")
    return list(result) if isinstance(result, collections.abc.Iterator) else result
