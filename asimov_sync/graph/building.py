"""Building a graph: tasks, their names, and who waits for whom. Nothing runs here."""

import copy
import uuid
import weakref
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from asimov_sync.errors import GraphError
from asimov_sync.forking import ForkSafeLock
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["Hold", "Node", "TaskGraph", "claim", "release"]

Dependency = Union[Task, str]


class Hold:
    """What a run holds while it works on its tasks. A run that is lost, by Ctrl-C at the wrong moment, claims nothing."""

    __slots__ = ("__weakref__",)


class _Claims(ForkSafeLock):
    """The tasks that runs of this process are working on: identity, and the claim. None in a forked child."""

    __slots__ = ("tasks",)

    def renew(self) -> None:
        super().renew()
        self.tasks: Dict[int, "weakref.ref[Hold]"] = {}


_claims = _Claims()


class Node(NamedTuple):
    """A task's place in a plan: `dependencies` are the places of the nodes that it waits for, in the order given."""

    name: str
    task: Task
    dependencies: Tuple[int, ...]
    allow_failure: bool


class _Entry(NamedTuple):
    task: Task
    depends_on: Tuple[Dependency, ...]
    allow_failure: bool


class TaskGraph:
    """Tasks and their dependencies, in the order in which they were added.

    A run works on the graph's own Task objects, so `graph["fetch"].status` can be watched. One run at a time; use `copy()`
    for a graph that serves as a template.
    """

    def __init__(self) -> None:
        self._entries: Dict[str, _Entry] = {}
        self._names: Dict[Any, str] = {}  # task id: name

    def add(
        self,
        task: Task,
        name: Optional[str] = None,
        depends_on: Union[Dependency, Iterable[Dependency]] = (),
        allow_failure: bool = False,
    ) -> Task:
        """Add a task, to be started when all it depends on (tasks, or names that may be added later) is done.

        name: unique in the graph; made of the type and the place where not given. allow_failure: it is started even when
        dependencies failed, and finds them in `context.failed`. Returns the task; GraphError for a second use of a name
        or task.
        """
        if not isinstance(task, Task):
            raise GraphError("a graph holds Tasks, not {}".format(type(task).__name__))
        if name is None:
            place = len(self._entries) + 1
            while "{}-{}".format(task.type, place) in self._entries:
                place += 1
            name = "{}-{}".format(task.type, place)
        if name in self._entries:
            raise GraphError("there is a task named {!r} already".format(name))
        if task.id in self._names:
            raise GraphError(
                "the task {!r} is in the graph already, as {!r}; add a copy: Task(type=…, …)".format(
                    task.objective or task.type, self._names[task.id]
                )
            )
        if isinstance(depends_on, (str, Task)):
            depends_on = (depends_on,)
        self._entries[name] = _Entry(task, tuple(depends_on), allow_failure)
        self._names[task.id] = name
        return task

    def map(
        self,
        task: Task,
        items: Iterable[Any],
        name: Optional[str] = None,
        depends_on: Union[Dependency, Iterable[Dependency]] = (),
        allow_failure: bool = False,
    ) -> List[Task]:
        """Add a copy of `task` for every item, named `name[0]`, `name[1]` …, with the item in params["item"]."""
        if isinstance(depends_on, (str, Task)):
            depends_on = (depends_on,)
        depends_on = tuple(depends_on)
        name = task.type if name is None else name
        return [
            self.add(_fresh(task, item=item), "{}[{}]".format(name, place), depends_on, allow_failure)
            for place, item in enumerate(items)
        ]

    def __getitem__(self, name: str) -> Task:
        return self._entries[name].task

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    @property
    def tasks(self) -> Dict[str, Task]:
        """The tasks by their names, in the order in which they were added."""
        return {name: entry.task for name, entry in self._entries.items()}

    def copy(self) -> "TaskGraph":
        """The same graph of new tasks: new ids, all WAITING."""
        twin = TaskGraph()
        for name, entry in self._entries.items():
            depends_on = [self._name_of(dependency) or dependency for dependency in entry.depends_on]
            twin.add(_fresh(entry.task), name, depends_on, entry.allow_failure)
        return twin

    def _name_of(self, dependency: Dependency) -> Optional[str]:
        if isinstance(dependency, Task):
            return self._names.get(dependency.id)
        return dependency if dependency in self._entries else None

    def plan(self) -> List[Node]:
        """The nodes in the order in which they were added; GraphError for an unknown dependency or a cycle."""
        places = {name: place for place, name in enumerate(self._entries)}
        nodes = []
        for name, entry in self._entries.items():
            dependencies: List[int] = []
            for dependency in entry.depends_on:
                known = self._name_of(dependency)
                if known is None:
                    raise GraphError(
                        "{!r} depends on {}, which is not in the graph".format(
                            name,
                            repr(dependency.objective or dependency.type)
                            if isinstance(dependency, Task)
                            else repr(dependency),
                        )
                    )
                if places[known] not in dependencies:
                    dependencies.append(places[known])
            nodes.append(Node(name, entry.task, tuple(dependencies), entry.allow_failure))
        _refuse_cycle(nodes)
        return nodes

    def __repr__(self) -> str:
        return "<TaskGraph: {} tasks>".format(len(self))


def _fresh(task: Task, **params: Any) -> Task:
    """A task like this one that was never run: a new id, WAITING; of the same class, with its other fields."""
    new = {"id": uuid.uuid4(), "params": dict(copy.deepcopy(task.params), **params)}
    return task.model_copy(update=dict(new, status=TaskStatus.WAITING, result=None, error=None))


def _refuse_cycle(nodes: Sequence[Node]) -> None:
    """GraphError, with the cycle in its message, if some tasks wait for one another."""
    unmet = [len(node.dependencies) for node in nodes]
    dependents: List[List[int]] = [[] for _ in nodes]
    for place, node in enumerate(nodes):
        for dependency in node.dependencies:
            dependents[dependency].append(place)
    free = [place for place, count in enumerate(unmet) if not count]
    for place in free:  # grows while it is walked
        for dependent in dependents[place]:
            unmet[dependent] -= 1
            if not unmet[dependent]:
                free.append(dependent)
    if len(free) == len(nodes):
        return
    # What is left waits for something that is left: going from one to the next, some node must come a second time.
    place = next(place for place, count in enumerate(unmet) if count)
    path: List[int] = []
    met: Set[int] = set()
    while place not in met:
        met.add(place)
        path.append(place)
        place = next(dependency for dependency in nodes[place].dependencies if unmet[dependency])
    cycle = path[path.index(place) :] + [place]
    raise GraphError("these tasks wait for one another: " + " → ".join(repr(nodes[place].name) for place in cycle))


def claim(nodes: Sequence[Node], mine: Hold) -> None:
    """Take the tasks for a run, and let every one wait, whatever an earlier run left; GraphError while a run has one."""
    reference = weakref.ref(mine)
    with _claims.lock:
        for node in nodes:
            held = _claims.tasks.get(id(node.task))
            if held is not None and held() is not None:
                raise GraphError(
                    "the task {!r} is running already, and a run works on the graph's own tasks: "
                    "run graph.copy() to run a graph several times at once".format(node.name)
                )
        for node in nodes:
            _claims.tasks[id(node.task)] = reference
    for node in nodes:
        if node.task.status is not TaskStatus.WAITING:
            if not node.task.status.settled:  # left EXECUTING by a process that is gone, and loaded from its JSON
                node.task.move(TaskStatus.FAILED)
            node.task.move(TaskStatus.WAITING)


def release(nodes: Sequence[Node], mine: Hold) -> None:
    """Give back those of the tasks that are claimed so."""
    with _claims.lock:
        for node in nodes:
            held = _claims.tasks.get(id(node.task))
            if held is not None and held() is mine:
                del _claims.tasks[id(node.task)]
