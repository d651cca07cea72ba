"""TaskGraph: tasks, their names and their dependencies. Nothing runs here."""

import copy
import uuid
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from asimov_sync import _drawing
from asimov_sync._json import format_error
from asimov_sync.errors import GraphError
from asimov_sync.graph.context import Handler, Middleware
from asimov_sync.graph.functions import (
    ItemCall,
    describe,
    make_call,
    make_function_handler,
    make_task,
    replace_tasks,
)
from asimov_sync.graph.handlers import HandlerOwner, check_nodes
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
        self._numbers: Dict[str, int] = {}  # the first number that may be unused, by function name

    def add(
        self,
        task: Union[Task, Handler],
        *,
        objective: str = "",
        params: Optional[Mapping[str, Any]] = None,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = DEFAULT_MAX_VISITS,
        always: bool = False,
        middleware: Iterable[Middleware] = (),
    ) -> Task:
        """Add a task. It starts when all of its dependencies are done.

        task: a task that is not in the graph yet, or a handler: a function of (task, context), or
            an Agent. A handler gets a new task, whose type is the function's `__qualname__` or the
            agent's name. It takes precedence over the scheduler's handler for this type.
        objective, params: if `task` is a handler, those of its task; empty by default.
        name: a unique name. By default, it consists of the task's type and its number in the graph;
            for a handler, it is the handler's name: fetch, fetch-2.
        depends_on: tasks or names, one or several; a name may be added later.
        when: a function of the task's inputs, or of its inputs and its context, called when all
            dependencies are done; if it returns a false value, the task does not run.
        allow_failure: run the task even if dependencies failed; `context.failed` then says why.
        retry: when to repeat a failed attempt; by default never.
        timeout: the seconds that one attempt may take; by default unlimited. An attempt that takes
            longer fails with TaskTimeout.
        max_visits: how often loops may start the task in one run; default 5.
        always: run the task whatever happened before it, also after `run.cancel()`, the run's
            time-out or a used-up budget, for cleaning up; default False. Requires `timeout`.
        middleware: functions that are called around each attempt of this task, inside the
            scheduler's middleware, the outermost first; by default none.

        Returns the task. Raises GraphError if the name or the task is in the graph already, or if
        an argument is invalid.
        """
        new, handler = make_task(task, objective, params)
        if name is None:
            name = self._unused_name(new.type) if handler is None else self._name_after(task)
        return self._add_node(
            make_node(
                new,
                name,
                depends_on,
                when,
                allow_failure,
                retry,
                timeout,
                max_visits,
                (),
                handler,
                middleware,
                always,
            )
        )

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Add a task that calls a plain function with these arguments.

        An argument that is a task of this graph is a dependency: the function receives the task's
        result instead. This includes the tasks in a list, a tuple or a dict that is an argument.
        If the function is called although such a task has no result (after a Route, or with
        allow_failure=True), it receives None. The arguments become the params of the task, under
        their names in the function's signature. The function returns or yields what a handler may.

        The task is named after the function: fetch, fetch-2. Use `with_options` for another name,
        and for the other arguments of `add`.

        Returns the task. Raises GraphError if the function refuses the arguments, or for a task of
        another graph.
        """
        return self.with_options().call(function, *args, **kwargs)

    def with_options(
        self,
        *,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = DEFAULT_MAX_VISITS,
        always: bool = False,
        middleware: Iterable[Middleware] = (),
    ) -> "CallOptions":
        """Return an object whose `call` adds a task with these options.

        The arguments are those of `add`. depends_on: further dependencies, whose results are not
        passed to the function.
        """
        options = {
            "when": when,
            "allow_failure": allow_failure,
            "retry": retry,
            "timeout": timeout,
            "max_visits": max_visits,
            "always": always,
            # A tuple, since `call` may use it several times. make_node refuses other objects.
            "middleware": tuple(middleware) if isinstance(middleware, Iterable) else middleware,
        }
        return CallOptions(self, name, check_dependencies(depends_on, name or "call"), options)

    def _find_own(self, task: Task) -> str:
        """Return the name of a task that is an argument of a function."""
        if task.id not in self._names:
            raise GraphError(
                f"an argument is the task {task.objective or task.type!r}, which was not added to "
                "this graph; give a task that graph.add, map or call returned"
            )
        return self._names[task.id]

    def _name_after(self, function: Any) -> str:
        """Return an unused name for a task of a function: fetch, fetch-2 and so on."""
        base = describe(function)[1]
        number = self._numbers.get(base, 1)
        name = base if number == 1 else f"{base}-{number}"
        while name in self._nodes or name in self._groups:
            number += 1
            name = f"{base}-{number}"
        self._numbers[base] = number
        return name

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
        task: Union[Task, Handler, Callable[[Any], Any]],
        items: Iterable[Any],
        *,
        objective: str = "",
        params: Optional[Mapping[str, Any]] = None,
        name: Optional[str] = None,
        key: Optional[Callable[[Any], Any]] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = DEFAULT_MAX_VISITS,
        always: bool = False,
        middleware: Iterable[Middleware] = (),
    ) -> List[Task]:
        """Add a copy of a task for each item, with the item in `params["item"]`.

        The copies are named `name[0]`, `name[1]` and so on. `depends_on=name` stands for all of
        them; for a map without items it stands for the dependencies of the map.

        task: the task to copy; or a handler, a function of (task, context) or an Agent; or a
            function of one argument, which receives the item. With such a function, tasks of this
            graph in the items are dependencies, as in the arguments of `call`.
        items: what to iterate over.
        name: the name of the map; by default the type of the task, or the name of the function.
        key: a function of the item that returns what identifies it: with
            `key=lambda item: item["id"]` the copies are named `name[<id>]`. By default the
            position.

        The other arguments are those of `add`, and apply to each copy. Returns the copies. After an
        exception, also of `items` or `key`, nothing is added. Raises GraphError if two
        items have the same key, or for a function with other parameters.
        """
        given = task if isinstance(task, Task) else make_function_handler(task)
        new, handler = make_task(given, objective, params, named_after=task)
        if name is None:
            name = new.type if handler is None else self._name_after(task)
        node = make_node(
            new,
            name,
            depends_on,
            when,
            allow_failure,
            retry,
            timeout,
            max_visits,
            (),
            handler,
            middleware,
            always,
        )
        if key is not None and not callable(key):
            raise GraphError(f"key= of {name!r} is a function of an item, not {key!r}")
        try:
            iterator = iter(items)
        except TypeError as error:
            raise GraphError(f"items= of {name!r} is an iterable, not {items!r}") from error
        nodes: Dict[str, Node] = {}
        for number, item in enumerate(iterator):
            own = f"{name}[{number if key is None else key(item)}]"
            if own in nodes:
                raise GraphError(f"two items of the map {name!r} have the same key: {own!r}")
            nodes[own] = self._item_node(node, own, item)
        self._add_nodes(list(nodes.values()), {name: Group(tuple(nodes), node.depends_on)})
        return [one.task for one in nodes.values()]

    def _item_node(self, node: Node, name: str, item: Any) -> Node:
        """Return the node of one item of a map, of which `node` is the pattern."""
        handler, depends_on = node.handler, node.depends_on
        if isinstance(handler, ItemCall):
            found: List[str] = []
            item = replace_tasks(item, self._find_own, found)
            if found:
                handler, depends_on = ItemCall(handler.function, True), depends_on + tuple(found)
        task = _clone_task(node.task, node.name, item=item)
        return node._replace(name=name, task=task, handler=handler, depends_on=depends_on)

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
                task=_clone_task(node.task, node.name),
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
            task = _clone_task(node.task, node.name)
            twin._add_node(node._replace(task=task, depends_on=depends_on))
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

    @property
    def edges(self) -> List[Tuple[str, str]]:
        """The dependencies as pairs of names: (dependency, dependent).

        Raises GraphError for an unknown dependency or a cycle.
        """
        plan = self.plan()
        return [
            (plan.nodes[before].name, node.name)
            for node, dependencies in zip(plan.nodes, plan.dependencies)
            for before in dependencies
        ]

    def validate(self, scheduler: HandlerOwner) -> None:
        """Raise GraphError if a run of this graph on the scheduler would be refused.

        The reasons are an unknown dependency, a cycle, and a task without a suitable handler. It
        does not matter whether the graph is in a run at the moment.
        """
        if not isinstance(scheduler, HandlerOwner):
            raise TypeError(f"validate takes a TaskScheduler, not {scheduler!r}")
        check_nodes(scheduler, self.plan().nodes)

    def plan(self) -> Plan:
        """Resolve the dependencies; raises GraphError for an unknown one or a cycle."""
        return build_plan(list(self._nodes.values()), self._names, self._groups)

    def to_mermaid(self) -> str:
        """Return the graph as the text of a Mermaid flowchart (https://mermaid.js.org).

        The boxes show the present status of the tasks. Long maps and large graphs are folded.

        Raises GraphError for an unknown dependency or a cycle.
        """
        return _drawing.draw("mermaid_of_graph", self)

    def to_svg(self) -> str:
        """Return a picture of the graph: the text of an SVG file, light or dark as the viewer is.

        The boxes show the present status of the tasks. Long maps and large graphs are folded.

        Raises GraphError for an unknown dependency or a cycle.
        """
        return _drawing.draw("svg_of_graph", self)

    def _repr_html_(self) -> str:
        """Return the picture of the graph, for notebooks."""
        return _drawing.draw("notebook_html", self)

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        return f"<TaskGraph{name}: {len(self)} task{'' if len(self) == 1 else 's'}>"


def _clone_task(task: Task, name: str, **params: Any) -> Task:
    """Return a WAITING copy of a task with a new id and, in addition, these params.

    name: its name in the graph, for the error.

    Raises GraphError for a param that cannot be copied.
    """
    try:
        copied = copy.deepcopy(task.params)
    except Exception as error:
        raise _uncopyable_param(task, name) from error
    new = {"id": uuid.uuid4(), "params": dict(copied, **params)}
    return task.model_copy(update=dict(new, status=TaskStatus.WAITING, result=None, error=None))


def _uncopyable_param(task: Task, name: str) -> GraphError:
    for param, value in task.params.items():
        try:
            copy.deepcopy(value)
        except Exception as error:
            return GraphError(
                f"the param {param!r} of {name!r} cannot be copied ({format_error(error)}), and "
                "copy, map and add_graph copy the params: keep it where the handler finds it"
            )
    return GraphError(f"the params of {name!r} cannot be copied")


class CallOptions:
    """Options for a task, and the graph to add it to. Returned by `TaskGraph.with_options`.

    options: further arguments of `make_node`.
    """

    def __init__(
        self,
        graph: TaskGraph,
        name: Optional[str],
        depends_on: Tuple[Dependency, ...],
        options: Dict[str, Any],
    ) -> None:
        self._graph = graph
        self._name = name
        self._depends_on = depends_on
        self._options = options

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Add a task that calls a plain function with these arguments. See `TaskGraph.call`."""
        graph = self._graph
        found: List[str] = []
        task, handler = make_call(
            function,
            [replace_tasks(one, graph._find_own, found) for one in args],
            {key: replace_tasks(one, graph._find_own, found) for key, one in kwargs.items()},
            bool(found),
        )
        return graph._add_node(
            make_node(
                task,
                graph._name_after(function) if self._name is None else self._name,
                self._depends_on + tuple(found),
                namespaces=(),
                handler=handler,
                **self._options,
            )
        )
