"""HandlerRegistry: the handlers of a scheduler by task type, and the middleware around them."""

import types
from typing import Any, Dict, Sequence, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.attempt import Attempt, failed_outcome
from asimov_sync.graph.context import Handler, Middleware, TaskContext
from asimov_sync.graph.node import Node
from asimov_sync.graph.results import Outcome, Partial, Route
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["HandlerRegistry", "outcome_of"]


class HandlerRegistry:
    """The handlers by task type, and the middleware.

    handlers: the scheduler's dict of handlers, which may change at any time.
    middleware: the layers around every handler, outermost first.
    """

    def __init__(self, handlers: Dict[str, Handler]) -> None:
        self.handlers = handlers
        self.middleware: Tuple[Middleware, ...] = ()

    def check(self, nodes: Sequence[Node]) -> None:
        """Raise GraphError if the type of a task has no handler."""
        if not {node.task.type for node in nodes} <= self.handlers.keys():
            node = next(node for node in nodes if node.task.type not in self.handlers)
            known = ", ".join(map(repr, self.handlers)) or "no type"
            raise GraphError(
                f"no handler for the type {node.task.type!r} of task {node.name!r}; "
                f"there are handlers for {known}"
            )

    def find(self, type: str) -> Handler:
        """Return the handler of a task type, inside the middleware."""
        handler = self.handlers[type]
        for layer in reversed(self.middleware):
            handler = _wrap(layer, handler)
        return handler


def _wrap(layer: Middleware, inner: Handler) -> Handler:
    def outer(task: Task, context: TaskContext) -> Any:
        def call_next(task: Task = task, context: TaskContext = context) -> Any:
            return inner(task, context)

        return layer(call_next, task, context)

    return outer


def outcome_of(attempt: Attempt, result: Any) -> Outcome:
    """Return the outcome of an attempt whose handler returned `result`."""
    if isinstance(result, types.CoroutineType):
        result.close()
        error = TypeError(
            f"the handler of {attempt.node.task.type!r} is a coroutine function, and handlers are "
            "plain functions: call what blocks, or asyncio.run() inside it"
        )
        return failed_outcome(attempt, error)
    route = None
    if isinstance(result, Route):
        route, result = result.names, result.result
    if isinstance(result, Partial):
        waits_for = None if result.waits_for is None else _safe_str(result.waits_for)
        return Outcome(
            TaskStatus.PARTIAL,
            result.result,
            _safe_str(result.error),
            route=route,
            waits_for=waits_for,
        )
    return Outcome(TaskStatus.COMPLETE, result, None, None, route)


def _safe_str(error: Any) -> str:
    try:
        return str(error)
    except Exception:  # the user's own __str__; it must not affect other tasks
        return f"an error of the type {type(error).__name__}"
