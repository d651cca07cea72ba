"""A task's place in a graph: its name, what it waits for, and what is to be done if it fails, hangs or comes round again."""

import collections
from typing import Any, Callable, Dict, Iterable, Mapping, NamedTuple, Optional, Tuple, TypeVar, Union

from asimov_sync.errors import GraphError
from asimov_sync.graph.retry import Retry
from asimov_sync.tasks import Task

__all__ = ["MAX_VISITS", "Dependencies", "Dependency", "Group", "Node", "When", "as_dependencies", "as_name", "node_of"]

MAX_VISITS = 5
"""How often a task is started in one run, where it was not said."""

Dependency = Union[Task, str]
Dependencies = Union[Dependency, Iterable[Dependency]]
When = Callable[[Dict[str, Any]], Any]
Held = TypeVar("Held")


class Node(NamedTuple):
    """A task, and all that it was added with.

    scopes: of a task in a subgraph, the prefixes of the subgraphs around it, the innermost first.
    """

    name: str
    task: Task
    depends_on: Tuple[Dependency, ...]
    when: Optional[When]
    allow_failure: bool
    retry: Optional[Retry]
    timeout: Optional[float]
    max_visits: int
    scopes: Tuple[str, ...]

    def local(self, name: str) -> str:
        """What this task calls the task of that name: in a subgraph, by the name that it has there."""
        for scope in self.scopes:
            if name.startswith(scope):
                return name[len(scope) :]
        return name

    def local_names(self, names: Iterable[str]) -> Dict[str, str]:
        """What this task calls its dependencies, by their names: one whose local name is another's too, by its whole name."""
        told = {name: self.local(name) for name in names}
        uses = collections.Counter(told.values())
        uses.update(name for name, local in told.items() if local != name)
        return {name: local if uses[local] == 1 else name for name, local in told.items()}

    def named(self, name: str, held: Mapping[Any, Held]) -> Optional[Held]:
        """What is held under a name that this task uses, nearest first; None where there is nothing."""
        for scope in self.scopes:
            if scope + name in held:
                return held[scope + name]
        return held.get(name)


class Group(NamedTuple):
    """What the name of a map or a subgraph stands for: its members' names; or, if it has none, what it depends on."""

    members: Tuple[str, ...]
    depends_on: Tuple[Dependency, ...]


def as_name(name: object) -> str:
    """The name, if it can be one; GraphError otherwise."""
    if not isinstance(name, str):
        raise GraphError("name= is a text, not {!r}".format(name))
    return name


def as_dependencies(depends_on: Dependencies, name: str) -> Tuple[Dependency, ...]:
    """One dependency, or several of them, as a tuple; GraphError if they are neither tasks nor names."""
    if isinstance(depends_on, (str, Task)):
        return (depends_on,)
    # None is not taken for "nothing": it is what a function returned that forgot to, and the task would start too early.
    told = tuple(depends_on) if isinstance(depends_on, Iterable) else None
    if told is None or not all(isinstance(one, (str, Task)) for one in told):
        raise GraphError("depends_on= of {!r} takes tasks and names, one or several; not {!r}".format(name, depends_on))
    return told


def node_of(
    task: Task,
    name: str,
    depends_on: Dependencies,
    when: Optional[When],
    allow_failure: bool,
    retry: Optional[Retry],
    timeout: Optional[float],
    max_visits: int,
    scopes: Tuple[str, ...],
) -> Node:
    """A node, if all of it is what it should be; GraphError otherwise."""
    if not isinstance(task, Task):
        raise GraphError("a graph holds Tasks, not {}".format(type(task).__name__))
    as_name(name)
    if when is not None and not callable(when):
        raise GraphError("when= of {!r} is a callable over the task's inputs, not {!r}".format(name, when))
    if retry is not None and not isinstance(retry, Retry):
        raise GraphError("retry= of {!r} is a Retry, such as Retry(attempts=3); not {!r}".format(name, retry))
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise GraphError("timeout= of {!r} is a number of seconds above 0, not {!r}".format(name, timeout))
    if not (isinstance(max_visits, int) and max_visits >= 1):
        raise GraphError("max_visits= of {!r} is a whole number, at least 1; not {!r}".format(name, max_visits))
    return Node(name, task, as_dependencies(depends_on, name), when, allow_failure, retry, timeout, max_visits, scopes)
