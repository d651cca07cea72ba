"""TaskGraph: tasks, their names and their dependencies. Nothing runs here."""

import copy
import uuid
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.node import (
    DEFAULT_MAX_VISITS,
    Dependencies,
    Dependency,
    GraphBase,
    Group,
    Node,
    When,
    check_dependencies,
    check_name,
    make_node,
)
from asimov_sync.graph.plan import Plan, build_plan
from asimov_sync.graph.retry import Retry
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["TaskGraph"]


class TaskGraph(GraphBase):
    """Tasks and their dependencies, in the order in which they were added.

    `graph["fetch"]` is a task. Iteration gives the names, `len(graph)` is the number of tasks, and
    `"fetch" in graph` tells whether there is a task of this name.

    A run changes the graph's own Task objects, so `graph["fetch"].status` shows its progress. A
    graph can be in one run at a time; `copy()` makes another one for a second run.

    name: the name of its runs in telemetry (see `asimov_sync.telemetry`); default None.
    """

    def __init__(self, name: Optional[str] = None) -> None:
        self.name = name
        self._nodes: Dict[str, Node] = {}
        self._names: Dict[uuid.UUID, str] = {}  # by task id
        self._groups: Dict[str, Group] = {}  # maps and subgraphs

    def add(
        self,
        task: Task,
        *,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = DEFAULT_MAX_VISITS,
        always: bool = False,
    ) -> Task:
        """Add a task. It starts when all of its dependencies are done.

        task: the task; a graph holds it once.
        name: a unique name; by default made of the task's type and its number in the graph.
        depends_on: tasks or names, one or several; a name may be added later.
        when: a function of the task's inputs, or of its inputs and its context, called when all
            dependencies are done; if it returns something false, the task does not run.
        allow_failure: run the task even if dependencies failed; `context.failed` then says why.
        retry: when to repeat a failed attempt; by default never.
        timeout: the seconds that one attempt may take; by default unlimited. An attempt that takes
            longer fails with TaskTimeout.
        max_visits: how often loops may start the task in one run; default 5.
        always: run the task whatever happened before it, also after `run.cancel()`, the run's
            time-out or a used-up budget, for cleaning up; default False. Requires `timeout`.

        Returns the task. Raises GraphError if the name or the task is in the graph already, or if
        an argument is invalid.
        """
        if name is None:
            name = self._unused_name(getattr(task, "type", ""))
        return self._add_node(
            make_node(
                task, name, depends_on, when, allow_failure, retry, timeout, max_visits, (), always
            )
        )

    def _add_node(self, node: Node) -> Task:
        self._check_name_free(node.name)
        task = node.task
        if task.id in self._names:
            raise GraphError(
                f"the task {task.objective or task.type!r} is in the graph already, as "
                f"{self._names[task.id]!r}; add a copy: Task(type=…, …)"
            )
        self._nodes[node.name] = node
        self._names[task.id] = node.name
        return task

    def _add_nodes(self, nodes: Sequence[Node], groups: Mapping[str, Group]) -> None:
        """Add new nodes and groups: either all of them, or none and GraphError is raised."""
        for name in [node.name for node in nodes] + list(groups):
            self._check_name_free(name)
        names = {node.task.id: node.name for node in nodes}
        self._nodes.update({node.name: node for node in nodes})
        self._names.update(names)
        self._groups.update(groups)

    def _check_name_free(self, name: str) -> None:
        if name in self._nodes or name in self._groups:
            raise GraphError(f"there is a task or a group named {name!r} already")

    def _unused_name(self, type: str) -> str:
        number = len(self._nodes) + 1
        while f"{type}-{number}" in self._nodes or f"{type}-{number}" in self._groups:
            number += 1
        return f"{type}-{number}"

    def map(
        self,
        task: Task,
        items: Iterable[Any],
        *,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = DEFAULT_MAX_VISITS,
        always: bool = False,
    ) -> List[Task]:
        """Add a copy of a task for each item, with the item in `params["item"]`.

        The copies are named `name[0]`, `name[1]` and so on. `depends_on=name` stands for all of
        them; for a map without items it stands for the dependencies of the map.

        task: the task to copy.
        items: what to iterate over.
        name: the name of the map; by default the type of the task.

        The other arguments are those of `add`, and apply to each copy. Returns the copies. If
        anything raises, `items` included, nothing is added.
        """
        name = getattr(task, "type", "") if name is None else name
        node = make_node(
            task, name, depends_on, when, allow_failure, retry, timeout, max_visits, (), always
        )
        try:
            iterator = iter(items)
        except TypeError as error:
            raise GraphError(f"items= of {name!r} is an iterable, not {items!r}") from error
        nodes = [
            node._replace(name=f"{name}[{number}]", task=_clone_task(task, item=item))
            for number, item in enumerate(iterator)
        ]
        self._add_nodes(nodes, {name: Group(tuple(one.name for one in nodes), node.depends_on)})
        return [one.task for one in nodes]

    def add_graph(
        self, other: "TaskGraph", *, name: str, depends_on: Dependencies = ()
    ) -> List[Task]:
        """Add a copy of another graph. Its task "fetch" is named `name.fetch` here.

        `depends_on=name` stands for its last tasks, those on which no other of its tasks depends;
        for a graph without tasks it stands for the dependencies given here. Its tasks continue to
        use their short names for each other: in inputs, in Routes and in spawns.

        other: the graph to copy.
        name: the name of the copy.
        depends_on: what its first tasks, those without dependencies, depend on.

        Returns its last tasks.
        """
        if not isinstance(other, TaskGraph):
            raise GraphError(f"add_graph takes a TaskGraph, not {other!r}")
        prefix = check_name(name) + "."
        outer = check_dependencies(depends_on, name)
        plan = other.plan()

        def with_prefix(inner: Tuple[Dependency, ...]) -> Tuple[Dependency, ...]:
            return tuple(prefix + str(one) for one in other._by_name(inner)) or outer

        nodes = [
            node._replace(
                name=prefix + node.name,
                task=_clone_task(node.task),
                depends_on=with_prefix(node.depends_on),
                namespaces=tuple(prefix + inner for inner in node.namespaces) + (prefix,),
            )
            for node in plan.nodes
        ]
        groups = {
            prefix + inner: Group(
                tuple(prefix + member for member in group.members), with_prefix(group.depends_on)
            )
            for inner, group in other._groups.items()
        }
        last = [nodes[index] for index, after in enumerate(plan.dependents) if not after]
        groups[name] = Group(tuple(node.name for node in last), outer)
        self._add_nodes(nodes, groups)
        return [node.task for node in last]

    def __getitem__(self, name: str) -> Task:
        return self._nodes[name].task

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    @property
    def tasks(self) -> Dict[str, Task]:
        """The tasks by name, in the order in which they were added."""
        return {name: node.task for name, node in self._nodes.items()}

    def copy(self) -> "TaskGraph":
        """Return the same graph with new tasks: new ids, all WAITING."""
        twin = TaskGraph(self.name)
        for node in self._nodes.values():
            depends_on = self._by_name(node.depends_on)
            twin._add_node(node._replace(task=_clone_task(node.task), depends_on=depends_on))
        twin._groups = {
            name: group._replace(depends_on=self._by_name(group.depends_on))
            for name, group in self._groups.items()
        }
        return twin

    def _by_name(self, dependencies: Tuple[Dependency, ...]) -> Tuple[Dependency, ...]:
        """Replace the dependencies that are tasks of this graph by their names."""
        return tuple(
            self._names.get(one.id, one) if isinstance(one, Task) else one for one in dependencies
        )

    def plan(self) -> Plan:
        """Resolve the dependencies; raises GraphError for an unknown one or a cycle."""
        return build_plan(list(self._nodes.values()), self._names, self._groups)

    def __repr__(self) -> str:
        return f"<TaskGraph: {len(self)} tasks>"


def _clone_task(task: Task, **params: Any) -> Task:
    """Return a WAITING copy of a task with a new id and, in addition, these params."""
    new = {"id": uuid.uuid4(), "params": dict(copy.deepcopy(task.params), **params)}
    return task.model_copy(update=dict(new, status=TaskStatus.WAITING, result=None, error=None))
