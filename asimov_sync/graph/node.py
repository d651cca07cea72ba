"""Node: a task in a graph with its name, its dependencies and its options."""

import collections
import math
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from asimov_sync.errors import GraphError
from asimov_sync.graph.functions import find_fault, takes_second_argument
from asimov_sync.graph.retry import Retry
from asimov_sync.tasks import Task

__all__ = [
    "DEFAULT_MAX_VISITS",
    "Dependencies",
    "Dependency",
    "GraphBase",
    "Group",
    "Node",
    "When",
    "check_dependencies",
    "check_name",
    "make_node",
]

DEFAULT_MAX_VISITS = 5

Dependency = Union[Task, str]
Dependencies = Union[Dependency, Iterable[Dependency]]
When = Callable[..., Any]
"""A condition: a function of the task's inputs, or of its inputs and its TaskContext."""
T = TypeVar("T")


class Node(NamedTuple):
    """A task and the arguments that it was added with.

    namespaces: for a task in a subgraph, the name prefixes of the subgraphs around it, innermost
        first.
    handler: its own handler, which takes precedence over that of its type; or None.
    middleware: its own middleware, inside that of the scheduler, outermost first.
    params: the params that it has in this run; None for those of the task.
    always: whether it runs whatever happened before it.
    when_takes_context: whether `when` is called with the context, too.
    """

    name: str
    task: Task
    depends_on: Tuple[Dependency, ...]
    when: Optional[When]
    allow_failure: bool
    retry: Optional[Retry]
    timeout: Optional[float]
    max_visits: int
    namespaces: Tuple[str, ...]
    handler: Optional[Callable[..., Any]] = None
    middleware: Tuple[Callable[..., Any], ...] = ()
    params: Optional[Dict[str, Any]] = None
    always: bool = False
    when_takes_context: bool = False

    def copy_task(self, **update: Any) -> Task:
        """Return a copy of the task with its params in this run, and with these changes."""
        if self.params is not None:
            update.setdefault("params", dict(self.params))
        return self.task.copy_with(update)

    def local_name(self, name: str) -> str:
        """Return the name of another task as this one uses it: the short name in a subgraph."""
        for prefix in self.namespaces:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name

    def local_names(self, names: Iterable[str]) -> Dict[str, str]:
        """Map full names to local names; a local name that is not unique stays a full name."""
        local_names = {name: self.local_name(name) for name in names}
        uses = collections.Counter(local_names.values())
        uses.update(name for name, local in local_names.items() if local != name)
        return {name: local if uses[local] == 1 else name for name, local in local_names.items()}

    def resolve(self, name: str, values: Mapping[Any, T]) -> Optional[T]:
        """Look up a name that this task uses, innermost namespace first; None if unknown."""
        for prefix in self.namespaces:
            if prefix + name in values:
                return values[prefix + name]
        return values.get(name)


class Group(NamedTuple):
    """The tasks that the name of a map or a subgraph stands for.

    members: the names of its tasks.
    depends_on: its dependencies, which stand in for it if it has no members.
    """

    members: Tuple[str, ...]
    depends_on: Tuple[Dependency, ...]


def check_name(name: object) -> str:
    """Return the name; raises GraphError if it is not a string."""
    if not isinstance(name, str):
        raise GraphError(f"name= is a string, not {name!r}")
    return name


class GraphBase:
    """Base of TaskGraph, so that `depends_on=` recognizes a whole graph and refuses it."""


def check_dependencies(depends_on: Dependencies, name: str) -> Tuple[Dependency, ...]:
    """Return one or several dependencies as a tuple.

    depends_on: a task, a name, or an iterable of them.
    name: the name of the dependent task, for the error message.

    Raises GraphError if they are neither tasks nor names.
    """
    if isinstance(depends_on, (str, Task)):
        return (depends_on,)
    # None does not mean "nothing": a function that forgot its return statement returns it, and
    # the task would start too early.
    dependencies = None
    if isinstance(depends_on, Iterable) and not isinstance(depends_on, GraphBase):
        dependencies = tuple(depends_on)
    if dependencies is None or not all(isinstance(one, (str, Task)) for one in dependencies):
        raise GraphError(
            f"depends_on= of {name!r} takes tasks and names, one or several; not {depends_on!r}"
        )
    return dependencies


def make_node(
    task: Task,
    name: str,
    depends_on: Dependencies,
    when: Optional[When],
    allow_failure: bool,
    retry: Optional[Retry],
    timeout: Optional[float],
    max_visits: int,
    namespaces: Tuple[str, ...],
    handler: Optional[Callable[..., Any]] = None,
    middleware: Iterable[Callable[..., Any]] = (),
    always: bool = False,
) -> Node:
    """Return a node; raises GraphError for an invalid argument."""
    if not isinstance(task, Task):
        raise GraphError(f"a graph holds Tasks, not {type(task).__name__}")
    check_name(name)
    when_takes_context = when is not None and takes_second_argument(when)
    if when is not None:
        fault = find_fault(when, "(inputs, context)" if when_takes_context else "(inputs)")
        if fault:
            raise GraphError(f"when= of {name!r} {fault}")
    if retry is not None and not isinstance(retry, Retry):
        raise GraphError(f"retry= of {name!r} is a Retry, such as Retry(attempts=3); not {retry!r}")
    is_number = isinstance(timeout, (int, float)) and math.isfinite(timeout)
    if timeout is not None and not (is_number and timeout > 0):
        raise GraphError(
            f"timeout= of {name!r} is a number of seconds above 0, or None; not {timeout!r}"
        )
    if not (isinstance(max_visits, int) and max_visits >= 1):
        raise GraphError(f"max_visits= of {name!r} is an integer of at least 1, not {max_visits!r}")
    if always and timeout is None:
        raise GraphError(
            f"{name!r} with always=True needs timeout=, in seconds: the end of the run waits for it"
        )
    dependencies = check_dependencies(depends_on, name)
    if not isinstance(middleware, Iterable):
        raise GraphError(
            f"middleware= of {name!r} is a list or tuple of functions, such as (timed,); "
            f"not {middleware!r}"
        )
    layers = tuple(middleware)
    for layer in layers:
        fault = find_fault(layer, "(call_next, task, context)")
        if fault:
            raise GraphError(f"a middleware of {name!r} {fault}")
    return Node(
        name,
        task,
        dependencies,
        when,
        allow_failure,
        retry,
        timeout,
        max_visits,
        namespaces,
        handler,
        layers,
        always=always,
        when_takes_context=when_takes_context,
    )
