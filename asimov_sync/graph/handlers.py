"""HandlerRegistry: the handlers of a scheduler by task type, and the middleware around them."""

from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Dict, Generator, List, Mapping, Sequence, Tuple, Type, Union

from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import GraphError
from asimov_sync.graph.attempt import Attempt, failed_outcome
from asimov_sync.graph.context import Handler, Middleware, TaskContext
from asimov_sync.graph.functions import COROUTINE_HINT, find_fault
from asimov_sync.graph.importing import find_name_fault, import_name
from asimov_sync.graph.node import Node
from asimov_sync.graph.results import Outcome, Partial, Route
from asimov_sync.graph.travel import HandlerReference, TravelCheck, dump
from asimov_sync.tasks import Task, TaskStatus

__all__ = [
    "HandlerOwner",
    "HandlerRegistry",
    "NamedHandler",
    "check_handler",
    "check_nodes",
    "outcome_of",
    "run_generator",
]

logger = get_logger("asimov_sync.graph")


NamedHandler = Union[Handler, str]
"""A handler, or its importable name: "package.module:attribute"."""


class HandlerOwner:
    """Base of TaskScheduler, by which a graph recognizes one.

    handlers: callables `(task, context) -> value` by task type, or their importable names.
    """

    handlers: Dict[str, Any]

    def _check_nodes(self, nodes: Sequence[Node]) -> None:
        """Raise GraphError if a task has no handler that this scheduler can call."""
        raise NotImplementedError


def check_nodes(owner: HandlerOwner, nodes: Sequence[Node]) -> None:
    """Raise GraphError if a scheduler cannot call the handlers of tasks."""
    owner._check_nodes(nodes)


class HandlerRegistry:
    """The handlers by task type, and the middleware.

    handlers: the scheduler's dict of handlers and importable names, which may change at any time.
    middleware: the layers around every handler, outermost first.
    """

    def __init__(self, handlers: Mapping[str, NamedHandler]) -> None:
        self.handlers = handlers
        self.middleware: Tuple[Middleware, ...] = ()
        self._checked: Dict[str, NamedHandler] = {}  # by type
        self._imported: Dict[str, Handler] = {}  # by importable name
        self._references: Dict[str, Tuple[HandlerReference, bytes]] = {}  # by type
        self._warned: List[Middleware] = []

    def check(self, nodes: Sequence[Node]) -> None:
        """Raise GraphError if a task has no handler, or one that cannot be called as a handler."""
        types = {node.task.type for node in nodes if node.handler is None}
        if not types <= self.handlers.keys():
            self._refuse(nodes)
        for type in types:
            handler = self.handlers[type]
            if self._checked.get(type) is not handler:
                check_handler(type, self._resolve(handler), GraphError)
                self._checked[type] = handler

    def check_travel(self, nodes: Sequence[Node]) -> None:
        """Raise GraphError if a task cannot be sent to another process with its handler.

        Handlers that are given by name are not imported here.
        """
        self.check_known(nodes)
        TravelCheck().check(nodes, self.handlers, self.middleware)

    def check_known(self, nodes: Sequence[Node]) -> None:
        """Raise GraphError if a task has no handler. Imports nothing."""
        types = {node.task.type for node in nodes if node.handler is None}
        if not types <= self.handlers.keys():
            self._refuse(nodes)
        for type in types:
            check_handler(type, self.handlers[type], GraphError)

    def make_reference(self, node: Node, by_value: bool) -> bytes:
        """Return the handler of a task and the middleware around it, for another process.

        by_value: whether what the main program defines travels as code.
        """
        layers = self.middleware + node.middleware
        if node.handler is not None:
            return dump(HandlerReference(node.handler, layers), by_value)
        type = node.task.type
        reference = HandlerReference(self.handlers[type], layers)
        known = self._references.get(type)
        if known is None or known[0] != reference:
            known = self._references[type] = (reference, dump(reference, by_value))
        return known[1]

    def _resolve(self, handler: NamedHandler) -> Handler:
        """Return a handler, imported if it is given by name."""
        if not isinstance(handler, str):
            return handler
        found = self._imported.get(handler)
        if found is None:
            found = self._imported[handler] = import_name(handler)
        return found

    def _refuse(self, nodes: Sequence[Node]) -> None:
        node = next(
            node for node in nodes if node.handler is None and node.task.type not in self.handlers
        )
        known = ", ".join(map(repr, self.handlers)) or "no type"
        raise GraphError(
            f"no handler for the type {node.task.type!r} of task {node.name!r}; "
            f"there are handlers for {known}"
        )

    def find(self, node: Node) -> Handler:
        """Return the handler of a task, inside the scheduler's middleware and its own."""
        handler = node.handler
        if handler is None:
            found = self.handlers[node.task.type]
            handler = self._resolve(found) if isinstance(found, str) else found
        layers = self.middleware + node.middleware
        if layers:
            handler = _finish_generators(handler)
            for layer in reversed(layers):
                handler = self._wrap(layer, handler)
        return handler

    def _wrap(self, layer: Middleware, inner: Handler) -> Handler:
        def outer(task: Task, context: TaskContext) -> Any:
            lost = False  # whether the handler returned a value that the middleware may forget

            def call_next(task: Task = task, context: TaskContext = context) -> Any:
                nonlocal lost
                value = inner(task, context)
                lost = value is not None
                return value

            value = layer(call_next, task, context)
            if lost and value is None and layer not in self._warned:
                self._warned.append(layer)
                logger.warning(
                    "middleware %s returned None for %r, whose handler returned a value; "
                    "it has to return the value of call_next()",
                    getattr(layer, "__qualname__", layer),
                    context.name,
                )
            return value

        return outer


def check_handler(type: str, handler: Any, error: Type[Exception]) -> None:
    """Raise the error if a callable, or an importable name, cannot be the handler of a type."""
    fault = find_name_fault(handler) if isinstance(handler, str) else find_fault(handler)
    if fault:
        raise error(f"the handler of {type!r} {fault}")


def _finish_generators(handler: Handler) -> Handler:
    def finish(task: Task, context: TaskContext) -> Any:
        result = handler(task, context)
        return run_generator(result, context) if isinstance(result, GeneratorType) else result

    return finish


def run_generator(generator: "Generator[Any, Any, Any]", context: TaskContext) -> Any:
    """Run a generator to its end, report each value that it yields, and return its result.

    Closes it, and raises Cancelled, when the attempt is cancelled.
    """
    try:
        while True:
            context.cancellation.raise_if_cancelled()
            try:
                value = next(generator)
            except StopIteration as end:
                return end.value
            context.report(data=value)
    finally:
        generator.close()


def outcome_of(attempt: Attempt, result: Any) -> Outcome:
    """Return the outcome of an attempt whose handler returned `result`."""
    if isinstance(result, (CoroutineType, AsyncGeneratorType)):
        if isinstance(result, CoroutineType):
            result.close()
        error = TypeError(
            f"the handler of {attempt.node.task.type!r} returned a coroutine, and handlers are "
            f"plain functions: {COROUTINE_HINT}"
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
