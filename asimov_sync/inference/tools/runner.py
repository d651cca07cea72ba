"""The tool loop's other half: makes the calls of one turn, at once, on threads."""

import collections
import collections.abc
import inspect
import itertools
import queue
import time
from typing import Any, Deque, Dict, Generator, List, Optional, Tuple

from asimov_sync import instrumentation
from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.errors import Cancelled
from asimov_sync.inference.tools.loop import CalledTool, ToolFinished, ToolStarted
from asimov_sync.inference.tools.tool import Tool
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import Event, ToolCall

__all__ = ["calling"]

SLICE_SECONDS = 0.2
"""How long tools are waited for at a stretch, where a wait cannot be interrupted (Windows)."""


MOST_AT_ONCE = 100
"""How many calls of one turn are made at once where the caller sets no bound; how many there are is the model's choice."""


def calling(
    calls: List[ToolCall], tools: Dict[str, Tool], pool: WorkerPool, max_workers: Optional[int], cancellation: Cancellation
) -> Generator[Event, None, List[CalledTool]]:
    """Make the calls, at most `max_workers` at once (None: a hundred), and return them in the same order.

    One after the other on this thread where max_workers is 0, or run_inline is set.

    Yields ToolStarted and ToolFinished as that happens. The call of a sequential tool is made alone: after those before it,
    and before those behind it. Whatever a tool raises is in its CalledTool. Cancelled if the cancellation comes first: the
    tools are told, and not waited for.
    """
    made: List[CalledTool] = []
    inline = max_workers == 0 or scope.current().run_inline
    for group in _groups(calls, tools):
        if inline:
            made += yield from _on_this_thread(group, tools, cancellation)
        else:
            made += yield from _on_threads(group, tools, pool, max_workers, cancellation)
    return made


def _groups(calls: List[ToolCall], tools: Dict[str, Tool]) -> List[List[ToolCall]]:
    """The calls in the groups that may be made at once."""
    numbered: List[Tuple[int, ToolCall]] = []
    number = 0
    for call in calls:
        alone = call.name in tools and tools[call.name].sequential
        number += 1 if alone else 0
        numbered.append((number, call))
        number += 1 if alone else 0
    return [[call for _, call in group] for _, group in itertools.groupby(numbered, key=lambda one: one[0])]


def _on_this_thread(
    calls: List[ToolCall], tools: Dict[str, Tool], cancellation: Cancellation
) -> Generator[Event, None, List[CalledTool]]:
    made = []
    for call in calls:
        yield ToolStarted(call)
        with cancellation:
            made.append(_call(call, tools, cancellation))
        yield _finished(made[-1])
    return made


def _on_threads(
    calls: List[ToolCall], tools: Dict[str, Tool], pool: WorkerPool, max_workers: Optional[int], cancellation: Cancellation
) -> Generator[Event, None, List[CalledTool]]:
    made: Dict[int, CalledTool] = {}
    open_calls: Deque[int] = collections.deque(range(len(calls)))
    happened: "queue.SimpleQueue[Optional[Event]]" = queue.SimpleQueue()  # not an Event, whose wait Ctrl-C may break
    # A token of the tools' own: they are told, too, when it is the wait that is interrupted (Ctrl-C).
    told = Cancellation(parent=cancellation)

    def work() -> None:
        try:
            while open_calls and not told.cancelled:
                try:
                    place = open_calls.popleft()
                except IndexError:
                    return  # another worker was faster
                happened.put(ToolStarted(calls[place]))
                with told:
                    made[place] = _call(calls[place], tools, told)
                happened.put(_finished(made[place]))
        except BaseException as error:
            told.cancel("a tool ended with {}".format(type(error).__name__))
            raise
        finally:
            happened.put(None)

    try:
        with cancellation.on_cancel(lambda: happened.put(None)):
            for _ in range(min(len(calls), max_workers or MOST_AT_ONCE)):
                pool.submit(work)
            finished = 0
            while finished < len(calls):
                cancellation.raise_if_cancelled()
                told.raise_if_cancelled()  # by one of the tools
                remaining = cancellation.remaining
                try:
                    event = happened.get(timeout=SLICE_SECONDS if remaining is None else min(SLICE_SECONDS, remaining))
                except queue.Empty:
                    continue
                finished += isinstance(event, ToolFinished)
                if event is not None:
                    yield event
    except BaseException as interruption:
        told.cancel("interrupted by {}".format(type(interruption).__name__))
        raise
    return [made[place] for place in range(len(calls))]


def _finished(made: CalledTool) -> ToolFinished:
    return ToolFinished(made.call, made.result, None if made.exception is None else format_error(made.exception))


def _call(call: ToolCall, tools: Dict[str, Tool], cancellation: Cancellation) -> CalledTool:
    installed = instrumentation.installed
    if installed is None:
        return _made(call, tools, cancellation)
    watch = Observation(installed.tool, call, tools.get(call.name))
    # A tool that ignores its cancellation is not waited for; its watch does not wait for it, either.
    with cancellation.on_cancel(lambda: watch.end(None, Cancelled(cancellation.reason or ""))):
        return watch.run(_made, call, tools, cancellation)


def _made(call: ToolCall, tools: Dict[str, Tool], cancellation: Cancellation) -> CalledTool:
    start = time.perf_counter()
    exception: BaseException
    cancellation.raise_if_cancelled()
    try:
        if call.name not in tools:
            raise LookupError(
                "there is no tool named {!r}; there are {}".format(call.name, ", ".join(sorted(tools)) or "none")
            )
        if call.malformed is not None:
            raise ValueError("the arguments are not a JSON object: {}".format(call.malformed[:500]))
        result = _whole(tools[call.name].call(call.arguments))
        # Raises where the result cannot be told to the model: that is the tool's error, too.
        return CalledTool(call, result, None, time.perf_counter() - start)
    except Cancelled as cancelled:
        cancellation.raise_if_cancelled()
        exception = cancelled  # of a token of the tool's own
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a SystemExit (of argparse, say) would end a program, and is not to end an agent
        exception = error
    return CalledTool(call, None, exception, time.perf_counter() - start)


def _whole(result: Any) -> Any:
    """What a tool returned; of a generator, a list of what it yields. TypeError for a coroutine, which nobody would await."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("the tool returned a coroutine: it has to run it itself, with asyncio.run(…)")
    return list(result) if isinstance(result, collections.abc.Iterator) else result
