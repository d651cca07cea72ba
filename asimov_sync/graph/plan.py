"""The plan of a run: dependencies resolved to indexes, and cycles refused, before any task runs."""

import uuid
from typing import Dict, FrozenSet, List, Mapping, NamedTuple, Sequence, Set, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.node import Group, Node
from asimov_sync.tasks import Task

__all__ = ["GroupRefs", "Plan", "build_plan", "unknown_dependency"]


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
                raise unknown_dependency(node.name, dependency, "graph")
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


def unknown_dependency(name: str, dependency: object, where: str) -> GraphError:
    """Return the error for a task `name` that depends on something outside of the graph or run."""
    text = dependency.objective or dependency.type if isinstance(dependency, Task) else dependency
    return GraphError(f"{name!r} depends on {text!r}, which is not in the {where}")


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
