"""Instrumentation: hooks around runs, tasks, agents, requests and tool calls; text listeners;
activities of tasks.

At most one set of hooks is installed. The layers look for it once, when an operation begins, so the
cost without hooks is close to zero. Each observed operation runs in a `contextvars.Context` of its
own, and its hook is called in that context. A hook may therefore set the current span: the span
applies to everything in the operation, on any thread, and need not be reset.

Text listeners are part of the scope of the context, so a listener also receives the text of replies
to tools and nested agents, on any thread.
"""

import contextvars
import time
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

from asimov_sync.concurrency import scope
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.messages import Event, ReplyDone, TextDelta

__all__ = [
    "Activity",
    "Instrumentation",
    "Observation",
    "OnEnd",
    "StartReply",
    "install",
    "installed",
    "listen_to_reply",
]

logger = get_logger("asimov_sync")

ResultT = TypeVar("ResultT")

# Hooks

OnEnd = Callable[[Any, Optional[BaseException], Sequence[float]], None]
"""`on_end(result, error, chunk_times)`: called exactly once, when an operation ends.

result, error: each may be None.
chunk_times: the seconds from the start to each chunk of the result that arrived.
"""


class Instrumentation(NamedTuple):
    """Hooks. Each is called when an operation begins and returns the function to call when it ends.

    run: called with the run id and the name of the graph or None; the result is a RunResult.
    task: called with the Attempt; the result is a TaskStatus.
    agent: called with the Agent, the messages, the options of this run, and the id of the
        conversation or None; the result is a ToolRun.
    request: called with the client and the Request; the result is a Reply.
    tool: called with the ToolCall, its Tool or None, and the function that redacts its result or
        None; the result is a CalledTool.

    inject: returns the trace context of the current span, as text by name; None: there is none.
    attach: called with what `inject` returned in another process: makes that span the current one.

    A stream that its reader abandons ends with result None and error None. Exceptions of hooks are
    logged.
    """

    run: Callable[[str, Optional[str]], OnEnd]
    task: Callable[[Any], OnEnd]
    agent: Callable[[Any, List[Any], Any, Optional[str]], OnEnd]
    request: Callable[[Any, Any], OnEnd]
    tool: Callable[[Any, Optional[Any], Optional[Callable[[str], str]]], OnEnd]
    inject: Optional[Callable[[], Mapping[str, str]]] = None
    attach: Optional[Callable[[Mapping[str, str]], None]] = None


installed: Optional[Instrumentation] = None
"""The installed hooks, or None. An operation ends with the hooks that it began with."""

_logged_failure = False


def install(instrumentation: Optional[Instrumentation]) -> None:
    """Replace the installed hooks.

    instrumentation: the new hooks; None removes them.
    """
    global installed, _logged_failure
    installed, _logged_failure = instrumentation, False


class Observation:
    """One observed operation. Creating it calls the hook, in the context of the operation.

    hook: a hook of an Instrumentation.
    arguments: the arguments of the hook.
    context: the context of the operation; by default a copy of the current one.
    """

    __slots__ = ("_chunk_times", "_on_end", "_start", "context")

    def __init__(
        self,
        hook: Callable[..., OnEnd],
        *arguments: Any,
        context: Optional[contextvars.Context] = None,
    ) -> None:
        self.context = context if context is not None else contextvars.copy_context()
        self._chunk_times: List[float] = []
        self._on_end: List[OnEnd] = []
        try:
            self._on_end.append(self.context.run(hook, *arguments))
        except Exception:  # a hook must not affect the operation
            _log_failure()
        # After the hook, so that the first chunk is never later than the end of its span.
        self._start = time.perf_counter()

    def run_step(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        """Call a function in the context. If it raises, the operation ends with that error.

        function: the function.
        args: its arguments.

        Returns what the function returns.
        """
        try:
            return self.context.run(function, *args)
        except BaseException as error:
            self.end(None, error)
            raise

    def run(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        """Call a function in the context. The operation ends with its result or its error.

        function: the function.
        args: its arguments.

        Returns what the function returns.
        """
        result = self.run_step(function, *args)
        self.end(result)
        return result

    def record_chunk(self) -> None:
        """Note that a chunk of the result arrived."""
        self._chunk_times.append(time.perf_counter() - self._start)

    def end(self, result: Any = None, error: Optional[BaseException] = None) -> None:
        """End the operation. Only the first call has an effect.

        result: the result; None by default.
        error: the error; None by default.
        """
        try:
            on_end = self._on_end.pop()  # atomic, so only one thread gets it
        except IndexError:
            return
        try:
            on_end(result, error, self._chunk_times)
        except Exception:
            _log_failure()


def _log_failure() -> None:
    """Log the exception of a hook, only once: a hook that fails each time would flood the log."""
    global _logged_failure
    if not _logged_failure:
        _logged_failure = True
        logger.exception(
            "an instrumentation hook failed; the operation continues, "
            "and further failures of hooks are not logged"
        )


# Text listeners

StartReply = Callable[[], Callable[[str], Any]]
"""A text listener: called once for each reply; returns the callback for that reply's text.

A retried reply starts anew. The callback of the reply that was cut then receives an empty text: its
pieces so far do not count.
"""


def listen_to_reply(
    listeners: Tuple[StartReply, ...],
) -> Optional[Callable[[Optional[Event]], None]]:
    """Start a reply for every listener.

    listeners: the text listeners of the scope in which the reply was requested.

    Returns a function that passes an event of the reply on to the listeners, or None if there are
    no listeners. A reply that is not streamed is passed on as one text. Call the function with None
    if the reply was cut and is requested again.
    """
    if not listeners:
        return None
    callbacks = [start_reply() for start_reply in listeners]
    streamed = False

    def on_event(event: Optional[Event]) -> None:
        nonlocal streamed
        if isinstance(event, TextDelta):
            text = event.text
        elif isinstance(event, ReplyDone) and not streamed:
            text = event.reply.text
        elif event is None and streamed:
            text = ""
        else:
            return
        if text or event is None:
            streamed = True
            for callback in callbacks:
                callback(text)

    return on_event


# Activities


class Activity:
    """Names what a task is doing, for a display of its run. It lasts as long as the `with` block.

    Outside of tasks it has no effect.

    text: a few words.
    until: the `clock.monotonic()` moment at which it ends; None (the default) if that is unknown.
    """

    __slots__ = ("_task", "text", "until")

    def __init__(self, text: str, until: Optional[float] = None) -> None:
        self.text = text
        self.until = until
        self._task: Any = None

    def __enter__(self) -> None:
        self._task = scope.current().task_context
        if self._task is not None:
            self._task.begin_activity(self)

    def __exit__(self, *exc_info: Any) -> None:
        if self._task is not None:
            self._task.end_activity(self)
