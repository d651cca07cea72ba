"""Hooks: called where a run, a task, an agent, a request to a model or a tool call begins, and again where it ends.

One set of them is installed, or none. The layers look for it once where something begins, and nowhere else, so that having
none costs next to nothing. What is watched goes on in a context (of `contextvars`) that was made for it, and its hook is
called in there: what a hook makes current, a span say, is so for all that is done there, on whatever thread, and needs no
undoing.
"""

import contextvars
import logging
import time
from typing import Any, Callable, List, NamedTuple, Optional, TypeVar

__all__ = ["Ended", "Hooks", "Watch", "install", "installed"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

Ended = Callable[[Any, Optional[BaseException], Optional[float]], None]
"""Called once when something ends: with what came of it, or None; the error that it ended with, or None; and after how many
seconds the first piece of it came, if it came in pieces.
"""


class Hooks(NamedTuple):
    """What is called where something begins; each returns what is to be called where that ends. What they raise is logged.

    run: with its id and the name of its graph; ends with a RunResult. task: with the TaskContext of an attempt; ends with a
    TaskStatus. agent: with the Agent and the messages; ends with a ToolRun. request: with the client and the Request; ends
    with a Reply. tool: with the ToolCall, and its Tool or None; ends with a CalledTool. A stream that its reader gives up ends
    with None and no error.
    """

    run: Callable[[str, Optional[str]], Ended]
    task: Callable[[Any], Ended]
    agent: Callable[[Any, List[Any]], Ended]
    request: Callable[[Any, Any], Ended]
    tool: Callable[[Any, Optional[Any]], Ended]


installed: Optional[Hooks] = None
"""The hooks, if there are any. What has begun ends with those that saw it begin."""

_complained = False


def install(hooks: Optional[Hooks]) -> None:
    """Put these hooks in the place of those that are installed; None for no hooks."""
    global installed, _complained
    installed, _complained = hooks, False


class Watch:
    """One thing that is watched. To make one calls its hook, in the context in which that thing is to go on.

    context: where that is; a copy of the current one where not given.
    """

    __slots__ = ("_begun", "_ended", "_first", "context")

    def __init__(self, hook: Callable[..., Ended], *about: Any, context: Optional[contextvars.Context] = None) -> None:
        self.context = context if context is not None else contextvars.copy_context()
        self._first: Optional[float] = None
        self._ended: List[Ended] = []
        try:
            self._ended.append(self.context.run(hook, *about))
        except Exception:  # whoever watches has no say in what is watched
            _complain()
        self._begun = time.perf_counter()  # after whoever watches has begun, so that no piece comes later than the end

    def step(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in the context; what it raises is the end."""
        try:
            return self.context.run(function, *args)
        except BaseException as error:
            self.end(None, error)
            raise

    def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in the context; what it returns or raises is the end."""
        result = self.step(function, *args)
        self.end(result)
        return result

    def came(self) -> None:
        """A piece of it came."""
        if self._first is None:
            self._first = time.perf_counter() - self._begun

    def end(self, came: Any = None, error: Optional[BaseException] = None) -> None:
        """It is over, with what came of it or the error that it ended with. The first who says so is heard."""
        try:
            ended = self._ended.pop()
        except IndexError:
            return
        try:
            ended(came, error, self._first)
        except Exception:
            _complain()


def _complain() -> None:
    """Log what a hook raised, for the first time: the others would fill the log with the same."""
    global _complained
    if not _complained:
        _complained = True
        logger.exception("a hook failed; what it watches goes on, and later failures are not logged")
