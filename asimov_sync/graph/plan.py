"""The plan of a run: dependencies resolved to indexes, and cycles refused, before any task runs."""

import uuid
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Sequence, Set, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.functions import FunctionCall
from asimov_sync.graph.node import Group, Node
from asimov_sync.tasks import Task

__all__ = [
    "GroupRefs",
    "Plan",
    "RunParams",
    "build_plan",
    "near",
    "replace_params",
    "unknown_dependency",
]

RunParams = Mapping[str, Mapping[str, Any]]
"""New params for one run, by the name of the task."""


class GroupRefs(NamedTuple):
    """The indexes that a group's name stands for.

    indexes: its tasks; for an empty group, its dependencies.
    empty: whether the group has no tasks.
    """

    indexes: Tuple[int, ...]
    empty: bool


class Plan(NamedTuple):
    """A graph with its names resolved. A task is known by its index in `nodes`.

    nodes: in the order in which they were added.
    dependencies, dependents: for each index, the indexes before and after it.
    groups: what the name of each map and subgraph stands for.
    order_only: for tasks that depend on an empty group, the dependencies that they have only
        because of it; these are waited for, but are not among the inputs.
    """

    nodes: List[Node]
    dependencies: List[Tuple[int, ...]]
    dependents: List[List[int]]
    groups: Dict[str, GroupRefs]
    order_only: Dict[int, FrozenSet[int]]


def build_plan(
    nodes: List[Node], names: Mapping[uuid.UUID, str], groups: Mapping[str, Group]
) -> Plan:
    """Resolve the dependencies of nodes.

    nodes: in the order in which they were added.
    names: the nodes' names by the ids of their tasks.
    groups: the groups by name.

    Raises GraphError, with the names, for an unknown dependency or a cycle.
    """
    indexes: Dict[str, int] = {node.name: index for index, node in enumerate(nodes)}
    dependencies: List[Tuple[int, ...]] = []
    dependents: List[List[int]] = [[] for _ in nodes]
    may_have_cycle = False  # a cycle contains a task that depends on a later one
    refs: Dict[str, GroupRefs] = {}
    for name in groups:
        refs[name] = _resolve_group(name, names, indexes, groups, refs)
    order_only: Dict[int, FrozenSet[int]] = {}
    for index, node in enumerate(nodes):
        if not node.depends_on:
            dependencies.append(())
            continue
        found: List[int] = []
        extra: List[int] = []
        for dependency in node.depends_on:
            name_or_none = names.get(dependency.id) if isinstance(dependency, Task) else dependency
            if not isinstance(name_or_none, str):
                raise unknown_dependency(node.name, dependency, "graph")
            known = indexes.get(name_or_none)
            if known is not None:
                found.append(known)
            elif name_or_none in refs:
                group = refs[name_or_none]
                (extra if group.empty else found).extend(group.indexes)
            else:
                names_in_graph = [*indexes, *groups]
                raise unknown_dependency(node.name, dependency, "graph", names_in_graph)
        if extra:
            order_only[index] = frozenset(extra).difference(found)
            found += extra
        if len(found) > 1:
            found = list(dict.fromkeys(found))
        for before in found:
            dependents[before].append(index)
            may_have_cycle = may_have_cycle or before >= index
        dependencies.append(tuple(found))
    if may_have_cycle:
        _check_acyclic(nodes, dependencies, dependents)
    return Plan(nodes, dependencies, dependents, refs, order_only)


def replace_params(plan: Plan, params: RunParams) -> Plan:
    """Return the plan with these params merged over those of its tasks, which do not change.

    params: new params, by the name of the task.

    Raises GraphError for an unknown task, and for a param that its function does not take.
    """
    nodes = list(plan.nodes)
    indexes = {node.name: index for index, node in enumerate(nodes)}
    if not isinstance(params, Mapping):
        raise GraphError(f"params= is a dict of params by task name, not {params!r}")
    for name, new in params.items():
        if name not in indexes:
            raise GraphError(
                f"params= has a task {name!r}, which is not in the graph{near(name, indexes)}"
            )
        node = nodes[indexes[name]]
        if not (isinstance(new, Mapping) and all(isinstance(key, str) for key in new)):
            raise GraphError(
                f"params= has a dict of params for each task; for {name!r} it has {new!r}"
            )
        if isinstance(node.handler, FunctionCall):
            known = node.handler.parameters
            for key in new:
                if key not in known:
                    raise GraphError(
                        f"{node.task.type!r}, the function of {name!r}, has no parameter "
                        f"{key!r}{near(key, known)}"
                    )
        nodes[indexes[name]] = node._replace(params=dict(node.task.params, **new))
    return plan._replace(nodes=nodes)


def near(name: object, known: Iterable[str]) -> str:
    """Return the end of an error message: the known names that are similar to a name."""
    import difflib  # imported here, because most programs never need it

    similar = difflib.get_close_matches(str(name), list(known))
    return f"; similar names: {', '.join(map(repr, similar))}" if similar else ""


def _resolve_group(
    name: str,
    names: Mapping[uuid.UUID, str],
    indexes: Mapping[str, int],
    groups: Mapping[str, Group],
    refs: Mapping[str, GroupRefs],
) -> GroupRefs:
    """Resolve a group's name; an empty group resolves, transitively, to its dependencies.

    refs: the groups that are resolved already, so that a long chain of empty groups is not walked
        again from each of its links.
    """
    if groups[name].members:
        return GroupRefs(tuple(indexes[member] for member in groups[name].members), False)
    found: List[int] = []
    walk, seen = [name], {name}
    for empty in walk:  # grows during the walk
        for dependency in groups[empty].depends_on:
            target = names.get(dependency.id) if isinstance(dependency, Task) else dependency
            if target is None or (target not in indexes and target not in groups):
                raise unknown_dependency(empty, dependency, "graph")
            if target in indexes:
                found.append(indexes[target])
            elif target in refs:
                found += refs[target].indexes
            elif groups[target].members:
                found += [indexes[member] for member in groups[target].members]
            elif target not in seen:
                seen.add(target)
                walk.append(target)
    return GroupRefs(tuple(dict.fromkeys(found)), True)


def unknown_dependency(
    name: str, dependency: object, where: str, known: Iterable[str] = ()
) -> GraphError:
    """Return the error for a task `name` that depends on something outside of the graph or run.

    known: the names in it, of which the error lists similar ones.
    """
    if isinstance(dependency, Task):
        return GraphError(
            f"{name!r} depends on the task {dependency.objective or dependency.type!r}, which was "
            f"not added to this {where}"
        )
    return GraphError(
        f"{name!r} depends on {dependency!r}, which is not in the {where}{near(dependency, known)}"
    )


def _check_acyclic(
    nodes: Sequence[Node], dependencies: List[Tuple[int, ...]], dependents: List[List[int]]
) -> None:
    """Raise GraphError, with the cycle in its message, if there is one."""
    pending = [len(before) for before in dependencies]
    ordered = [index for index, count in enumerate(pending) if not count]
    for index in ordered:  # grows during the walk
        for dependent in dependents[index]:
            pending[dependent] -= 1
            if not pending[dependent]:
                ordered.append(dependent)
    if len(ordered) == len(nodes):
        return
    # Each remaining node depends on a remaining node, so a walk along them repeats a node.
    index = next(index for index, count in enumerate(pending) if count)
    path: List[int] = []
    seen: Set[int] = set()
    while index not in seen:
        seen.add(index)
        path.append(index)
        index = next(dependency for dependency in dependencies[index] if pending[dependency])
    cycle = path[path.index(index) :] + [index]
    names = " → ".join(repr(nodes[index].name) for index in cycle)
    raise GraphError(f"these tasks wait for one another: {names}")
