"""The definitions of spawned tasks: what is stored of a node, and the node that is made of it.

A stored name never decides what is imported or called: a handler is looked up by the task's type
among those that the scheduler and the graph have.
"""

from typing import Any, Callable, Dict, List, Mapping, Optional

from asimov_sync.errors import GraphError
from asimov_sync.graph.functions import FunctionCall
from asimov_sync.graph.node import Node, make_node
from asimov_sync.graph.plan import Plan
from asimov_sync.graph.retry import Retry
from asimov_sync.graph.stored_errors import class_name, find_class
from asimov_sync.tasks import Task

__all__ = ["Handlers", "define_node", "restore_node"]


class Handlers:
    """The handlers that a spawned task of a durable run may have, by task type.

    registered: the handlers of the scheduler, or their importable names.
    plan: the graph; the handlers that its tasks were added with.
    """

    def __init__(self, registered: Mapping[str, Any], plan: Optional[Plan]) -> None:
        self._registered = registered
        self._added: Dict[str, Callable[..., Any]] = {}
        for node in plan.nodes if plan is not None else ():
            if node.handler is not None:
                self._added[node.task.type] = node.handler

    def find(self, type: str) -> Optional[Callable[..., Any]]:
        """Return the handler that a task of the graph was added with; None without."""
        return self._added.get(type)

    def is_known(self, type: str, handler: Callable[..., Any]) -> bool:
        """Return whether the handler is found by the type again."""
        for known in (self._added.get(type), self._registered.get(type)):
            if known is handler:
                return True
            if isinstance(known, FunctionCall) and isinstance(handler, FunctionCall):
                if known.function is handler.function:
                    return True
        return False

    def registered(self, type: str) -> bool:
        """Return whether the scheduler has a handler for the type."""
        return type in self._registered


def define_node(
    node: Node, dependencies: List[str], before_dependents: bool, handlers: Handlers
) -> Dict[str, Any]:
    """Return the definition of a spawned task, without its params: a dict that JSON can hold.

    dependencies: the names of the tasks that it depends on.

    Raises GraphError if a part of it is a function, which cannot be stored.
    """
    name = node.name or node.task.type
    if node.handler is not None and not handlers.is_known(node.task.type, node.handler):
        raise _refusal(
            name, "its handler", "register it, with scheduler.handler(…), and spawn a Task"
        )
    if node.when is not None:
        raise _refusal(name, "its when=", "decide in the handler that spawns it")
    if node.middleware:
        raise _refusal(name, "its middleware=", "register it for the whole scheduler")
    retry = None
    if node.retry is not None:
        retry = _define_retry(name, node.retry)
    return {
        "type": node.task.type,
        "objective": node.task.objective,
        "depends_on": dependencies,
        "own_handler": node.handler is not None and not handlers.registered(node.task.type),
        "allow_failure": node.allow_failure,
        "retry": retry,
        "timeout": node.timeout,
        "max_visits": node.max_visits,
        "always": node.always,
        "namespaces": list(node.namespaces),
        "before_dependents": before_dependents,
    }


def _define_retry(name: str, retry: Retry) -> Dict[str, Any]:
    if retry.wait is not None:
        raise _refusal(name, "the wait= of its Retry", "use the default")
    if retry.on is None:
        return {"attempts": retry.attempts, "on": None}
    classes = retry.on if isinstance(retry.on, tuple) else (retry.on,)
    names = [class_name(one) for one in classes]
    if None in names:
        raise _refusal(name, "the on= of its Retry", "use classes of Python or of asimov_sync")
    return {"attempts": retry.attempts, "on": names}


def _refusal(name: str, part: str, way_out: str) -> GraphError:
    return GraphError(
        f"{name!r} is spawned in a durable run, and {part} cannot be stored: {way_out}"
    )


def restore_node(
    name: str, definition: Mapping[str, Any], handlers: Handlers, runs_again: bool
) -> Node:
    """Return the node of a stored definition.

    runs_again: whether the task has not finished, so that it needs a handler.

    Raises GraphError if its handler is unknown, and various errors for a damaged definition.
    """
    handler = handlers.find(definition["type"]) if definition["own_handler"] else None
    node = _make_node(name, definition, handler)
    type = node.task.type
    if handler is None and (definition["own_handler"] or runs_again):
        if definition["own_handler"] or not handlers.registered(type):
            raise GraphError(
                f"the stored task {name!r} has the type {type!r}, for which there is no handler "
                "any more: register it again"
            )
    return node


def _make_node(
    name: str, definition: Mapping[str, Any], handler: Optional[Callable[..., Any]]
) -> Node:
    retry = None
    if definition["retry"] is not None:
        names = definition["retry"]["on"]
        classes = None if names is None else tuple(filter(None, map(find_class, names)))
        retry = Retry(definition["retry"]["attempts"], on=classes)
    task = Task(
        type=definition["type"],
        objective=definition["objective"],
        params=definition["params"],
    )
    return make_node(
        task,
        name,
        definition["depends_on"],
        None,
        definition["allow_failure"],
        retry,
        definition["timeout"],
        definition["max_visits"],
        tuple(definition["namespaces"]),
        handler,
        (),
        definition["always"],
    )
