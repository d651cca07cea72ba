"""Who waits for whom, by place: a graph's names are resolved, and its cycles refused, before anything runs."""

import uuid
from typing import Dict, List, Mapping, NamedTuple, Sequence, Set, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.nodes import Node
from asimov_sync.tasks import Task

__all__ = ["Plan", "planned"]


class Plan(NamedTuple):
    """The nodes in the order in which they were added; for each place the places that it waits for, and that wait for it.

    groups: the places that the name of a map or a subgraph stands for.
    """

    nodes: List[Node]
    dependencies: List[Tuple[int, ...]]
    dependents: List[List[int]]
    groups: Dict[str, Tuple[int, ...]]


def planned(nodes: List[Node], names: Mapping[uuid.UUID, str], groups: Mapping[str, Tuple[str, ...]]) -> Plan:
    """The plan of these nodes; names: by the tasks' ids; groups: the names that a group's name stands for.

    GraphError, naming it, for an unknown dependency or a cycle.
    """
    places: Dict[str, int] = {node.name: place for place, node in enumerate(nodes)}
    dependencies: List[Tuple[int, ...]] = []
    dependents: List[List[int]] = [[] for _ in nodes]
    looped = False  # only who waits for a later one can be in a cycle
    members = {name: tuple(places[member] for member in group) for name, group in groups.items()}
    for place, node in enumerate(nodes):
        if not node.depends_on:
            dependencies.append(())
            continue
        found: List[int] = []
        for dependency in node.depends_on:
            told = names.get(dependency.id) if isinstance(dependency, Task) else dependency
            if not isinstance(told, str):
                raise unknown(node.name, dependency, "graph")
            known = places.get(told)
            if known is not None:
                found.append(known)
            elif told in members:
                found += members[told]
            else:
                raise unknown(node.name, dependency, "graph")
        if len(found) > 1:
            found = list(dict.fromkeys(found))
        for before in found:
            dependents[before].append(place)
            looped = looped or before >= place
        dependencies.append(tuple(found))
    if looped:
        _refuse_cycle(nodes, dependencies, dependents)
    return Plan(nodes, dependencies, dependents, members)


def unknown(name: str, dependency: object, where: str) -> GraphError:
    """The error about a dependency that is not there."""
    told = dependency.objective or dependency.type if isinstance(dependency, Task) else dependency
    return GraphError("{!r} depends on {!r}, which is not in the {}".format(name, told, where))


def _refuse_cycle(nodes: Sequence[Node], dependencies: List[Tuple[int, ...]], dependents: List[List[int]]) -> None:
    """GraphError, with the cycle in its message, if some tasks wait for one another."""
    unmet = [len(before) for before in dependencies]
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
        place = next(dependency for dependency in dependencies[place] if unmet[dependency])
    cycle = path[path.index(place) :] + [place]
    raise GraphError("these tasks wait for one another: " + " → ".join(repr(nodes[place].name) for place in cycle))
