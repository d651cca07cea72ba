"""Pickles of handlers, policies and params, which travel to other processes.

It is checked before anything runs that they can be pickled. In the process of a worker, a handler
is known by what its driver sends over the executor's own channel, and by nothing else.
"""

import functools
from pickle import HIGHEST_PROTOCOL, dumps, loads
from typing import Any, Callable, Dict, Mapping, NamedTuple, Sequence, Tuple

from asimov_sync._json import format_error
from asimov_sync.errors import GraphError
from asimov_sync.graph.functions import FunctionCall, ItemCall
from asimov_sync.graph.importing import import_name
from asimov_sync.graph.node import Node

__all__ = ["HandlerReference", "TravelCheck", "dump", "load_handler", "restore"]

PLAIN_TYPES = frozenset([str, int, float, bool, bytes, type(None)])


class HandlerReference(NamedTuple):
    """A handler, as it is sent to the process of a worker.

    handler: the callable, or its importable name.
    middleware: the layers around it, outermost first.
    """

    handler: Any
    middleware: Tuple[Callable[..., Any], ...]


def dump(value: Any, by_value: bool = False) -> bytes:
    """Return the pickle of a value. Raises what its classes raise.

    by_value: whether functions and classes of the main program travel as code, since its module is
        another one in the processes of the executor. The package cloudpickle does that.
    """
    if by_value:
        from cloudpickle import dumps as dump_by_value  # the executor's package requires it

        pickled: bytes = dump_by_value(value, HIGHEST_PROTOCOL)
        return pickled
    return dumps(value, HIGHEST_PROTOCOL)


def restore(pickled: bytes) -> Any:
    """Return the value of a pickle that came over the executor's own channel.

    Raises what its classes raise.
    """
    return loads(pickled)


@functools.lru_cache(maxsize=64)
def load_handler(reference: bytes) -> HandlerReference:
    """Return the handler of a reference that a driver has sent, imported if it is a name.

    Raises GraphError for a name that cannot be imported, and what unpickling raises.
    """
    loaded: HandlerReference = restore(reference)
    if isinstance(loaded.handler, str):
        return loaded._replace(handler=import_name(loaded.handler))
    return loaded


class TravelCheck:
    """Raises GraphError for what cannot be sent to another process. Checks each object once."""

    def __init__(self) -> None:
        self._seen: Dict[int, Any] = {}  # by id; the value keeps the object, and so its id

    def check(self, nodes: Sequence[Node], handlers: Any, middleware: Sequence[Any]) -> None:
        """Check the handlers, the middleware, the Retry and the params of tasks.

        handlers: those of the scheduler by task type.
        middleware: that of the scheduler.
        """
        for layer in middleware:
            self._check(layer, "the middleware", _name_of(layer), MODULE_LEVEL)
        for node in nodes:
            handler = node.handler if node.handler is not None else handlers[node.task.type]
            self.check_handler(node.task.type, handler)
            for layer in node.middleware:
                self._check(layer, f"a middleware of {node.name!r},", _name_of(layer), MODULE_LEVEL)
            if node.retry is not None:
                self._check(node.retry, f"the Retry of {node.name!r}", "", RETRY_HINT)
            params = node.task.params if node.params is None else node.params
            self._check_params(node.name, params)

    def check_spawned(self, node: Node) -> None:
        """Check a task that a handler spawns, which travels to the run with all its options."""
        name = node.name or node.task.type
        if node.handler is not None:
            self.check_handler(node.task.type, node.handler)
        parts = ((node.when, "when="), (node.retry, "Retry"), (node.middleware, "middleware"))
        for part, what in parts:
            self._check(part, f"the {what} of the spawned task {name!r}", "", MODULE_LEVEL)
        self._check_params(name, node.task.params)

    def _check_params(self, task: str, params: Mapping[str, Any]) -> None:
        for name, value in params.items():
            if type(value) not in PLAIN_TYPES:
                what = f"the param {name!r} of {task!r}"
                self._check(value, what, "", "pass what it is made of, and make it there")

    def check_handler(self, task_type: str, handler: Any) -> None:
        """Check one handler."""
        if isinstance(handler, (FunctionCall, ItemCall)):
            handler = handler.function
        if not isinstance(handler, str):
            hint = (
                f"{MODULE_LEVEL}, or give its importable name, as in "
                f"handlers={{{task_type!r}: 'package.module:name'}}"
            )
            self._check(handler, f"the handler of {task_type!r}", "", hint)

    def _check(self, value: Any, what: str, name: str, hint: str) -> None:
        if id(value) in self._seen:
            return
        try:
            dump(value)
        except Exception as error:  # what a class raises that cannot be pickled
            raise GraphError(
                f"{what}{' ' + name if name else ''} cannot be sent to the executor's processes "
                f"({format_error(error)}): {hint}"
            ) from error
        self._seen[id(value)] = value


MODULE_LEVEL = "define it at the top level of a module"
RETRY_HINT = f"its functions travel with it; {MODULE_LEVEL}"


def _name_of(value: Any) -> str:
    return repr(getattr(value, "__qualname__", value))
