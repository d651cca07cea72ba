"""Building a graph: tasks, their names, and who waits for whom. Nothing runs here."""

import copy
import uuid
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.nodes import MAX_VISITS, Dependencies, Dependency, Group, Node, When, as_dependencies, as_name, node_of
from asimov_sync.graph.plan import Plan, planned
from asimov_sync.graph.retry import Retry
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["TaskGraph"]


class TaskGraph:
    """Tasks and their dependencies, in the order in which they were added.

    A run works on the graph's own Task objects, so `graph["fetch"].status` can be watched. One run at a time; use `copy()`
    for a graph that serves as a template. name: what its runs are called where they are watched (see `asimov_sync.telemetry`).
    """

    def __init__(self, name: Optional[str] = None) -> None:
        self.name = name
        self._nodes: Dict[str, Node] = {}
        self._names: Dict[uuid.UUID, str] = {}  # by the tasks' ids
        self._groups: Dict[str, Group] = {}  # the maps and the subgraphs

    def add(
        self,
        task: Task,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = MAX_VISITS,
    ) -> Task:
        """Add a task, to be started when all it depends on (tasks, or names that may be added later) is done.

        name: unique in the graph; made of the type and the place where not given. when: called with the inputs when they are
        there; if it returns something false, the task is ruled out. allow_failure: it is started even when dependencies
        failed, and finds them in `context.failed`. retry: how often, and for what, it is tried again. timeout: the seconds
        that an attempt may take; TaskTimeout after that. max_visits: how often it may be started in one run, by loops.

        Returns the task; GraphError for a second use of a name or task, or an argument that cannot be.
        """
        if name is None:
            name = self._free_name(getattr(task, "type", ""))
        return self._put(node_of(task, name, depends_on, when, allow_failure, retry, timeout, max_visits, ()))

    def _put(self, node: Node) -> Task:
        self._refuse_name(node.name)
        task = node.task
        if task.id in self._names:
            raise GraphError(
                "the task {!r} is in the graph already, as {!r}; add a copy: Task(type=…, …)".format(
                    task.objective or task.type, self._names[task.id]
                )
            )
        self._nodes[node.name] = node
        self._names[task.id] = node.name
        return task

    def _put_all(self, nodes: Sequence[Node], groups: Mapping[str, Group]) -> None:
        """Put copies that were just made, and groups: all of them, or GraphError and none."""
        for name in [node.name for node in nodes] + list(groups):
            self._refuse_name(name)
        names = {node.task.id: node.name for node in nodes}
        self._nodes.update({node.name: node for node in nodes})
        self._names.update(names)
        self._groups.update(groups)

    def _refuse_name(self, name: str) -> None:
        if name in self._nodes or name in self._groups:
            raise GraphError("there is a task or a group named {!r} already".format(name))

    def _free_name(self, type: str) -> str:
        place = len(self._nodes) + 1
        while "{}-{}".format(type, place) in self._nodes or "{}-{}".format(type, place) in self._groups:
            place += 1
        return "{}-{}".format(type, place)

    def map(
        self,
        task: Task,
        items: Iterable[Any],
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = MAX_VISITS,
    ) -> List[Task]:
        """Add a copy of `task` for every item, named `name[0]`, `name[1]` …, with the item in params["item"].

        The other arguments are those of `add`, for each of them. `depends_on=name` then means all of them; where there is no
        item, what they would wait for. Returns them. Whatever is raised, by `items` too, nothing was added.
        """
        name = getattr(task, "type", "") if name is None else name
        node = node_of(task, name, depends_on, when, allow_failure, retry, timeout, max_visits, ())
        try:
            iterator = iter(items)
        except TypeError as error:
            raise GraphError("items of {!r} are something to iterate over, not {!r}".format(name, items)) from error
        nodes = [
            node._replace(name="{}[{}]".format(name, place), task=_fresh(task, item=item))
            for place, item in enumerate(iterator)
        ]
        self._put_all(nodes, {name: Group(tuple(one.name for one in nodes), node.depends_on)})
        return [one.task for one in nodes]

    def add_graph(self, other: "TaskGraph", name: str, depends_on: Dependencies = ()) -> List[Task]:
        """Add a copy of another graph; its task "fetch" is `name.fetch` here.

        depends_on: what those of its tasks wait for that wait for nothing in it. Returns the tasks at its end, on which
        nothing in it depends; `depends_on=name` means these; where it has no tasks, what they would wait for. Its tasks go on
        calling each other by the names that they have in it: in their inputs, in Routes and in spawns.
        """
        if not isinstance(other, TaskGraph):
            raise GraphError("add_graph adds a TaskGraph, not {!r}".format(other))
        prefix = as_name(name) + "."
        before = as_dependencies(depends_on, name)
        plan = other.plan()

        def within(inner: Tuple[Dependency, ...]) -> Tuple[Dependency, ...]:
            return tuple(prefix + str(one) for one in other._by_name(inner)) or before

        nodes = [
            node._replace(
                name=prefix + node.name,
                task=_fresh(node.task),
                depends_on=within(node.depends_on),
                scopes=tuple(prefix + scope for scope in node.scopes) + (prefix,),
            )
            for node in plan.nodes
        ]
        groups = {
            prefix + inner: Group(tuple(prefix + member for member in group.members), within(group.depends_on))
            for inner, group in other._groups.items()
        }
        ends = [nodes[place] for place, dependents in enumerate(plan.dependents) if not dependents]
        groups[name] = Group(tuple(end.name for end in ends), before)
        self._put_all(nodes, groups)
        return [end.task for end in ends]

    def __getitem__(self, name: str) -> Task:
        return self._nodes[name].task

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    @property
    def tasks(self) -> Dict[str, Task]:
        """The tasks by their names, in the order in which they were added."""
        return {name: node.task for name, node in self._nodes.items()}

    def copy(self) -> "TaskGraph":
        """The same graph of new tasks: new ids, all WAITING."""
        twin = TaskGraph(self.name)
        for node in self._nodes.values():
            twin._put(node._replace(task=_fresh(node.task), depends_on=self._by_name(node.depends_on)))
        twin._groups = {
            name: group._replace(depends_on=self._by_name(group.depends_on)) for name, group in self._groups.items()
        }
        return twin

    def _by_name(self, dependencies: Tuple[Dependency, ...]) -> Tuple[Dependency, ...]:
        """The dependencies, those that are tasks of this graph by their names."""
        return tuple(self._names.get(one.id, one) if isinstance(one, Task) else one for one in dependencies)

    def plan(self) -> Plan:
        """Who waits for whom, by place; GraphError for an unknown dependency or a cycle."""
        return planned(list(self._nodes.values()), self._names, self._groups)

    def __repr__(self) -> str:
        return "<TaskGraph: {} tasks>".format(len(self))


def _fresh(task: Task, **params: Any) -> Task:
    """A task like this one that was never run: a new id, WAITING; of the same class, with its other fields."""
    new = {"id": uuid.uuid4(), "params": dict(copy.deepcopy(task.params), **params)}
    return task.model_copy(update=dict(new, status=TaskStatus.WAITING, result=None, error=None))
