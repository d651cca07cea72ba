"""Who waits for whom, by place: a graph's names are resolved, and its cycles refused, before anything runs."""

import uuid
from typing import Dict, FrozenSet, List, Mapping, NamedTuple, Sequence, Set, Tuple

from asimov_sync.errors import GraphError
from asimov_sync.graph.nodes import Group, Node
from asimov_sync.tasks import Task

__all__ = ["Meant", "Plan", "planned"]


class Meant(NamedTuple):
    """The places that a group's name means. empty: it has no tasks, and these are the ones that it would wait for."""

    places: Tuple[int, ...]
    empty: bool


class Plan(NamedTuple):
    """The nodes in the order in which they were added; for each place the places that it waits for, and that wait for it.

    groups: what the name of a map or a subgraph means. awaited: of those places that wait for an empty group, the dependencies
    that they have on its account alone, which bring them no input.
    """

    nodes: List[Node]
    dependencies: List[Tuple[int, ...]]
    dependents: List[List[int]]
    groups: Dict[str, Meant]
    awaited: Dict[int, FrozenSet[int]]


def planned(nodes: List[Node], names: Mapping[uuid.UUID, str], groups: Mapping[str, Group]) -> Plan:
    """The plan of these nodes; names: by the tasks' ids; groups: by their names.

    GraphError, naming it, for an unknown dependency or a cycle.
    """
    places: Dict[str, int] = {node.name: place for place, node in enumerate(nodes)}
    dependencies: List[Tuple[int, ...]] = []
    dependents: List[List[int]] = [[] for _ in nodes]
    looped = False  # only who waits for a later one can be in a cycle
    meant: Dict[str, Meant] = {}
    for name in groups:
        meant[name] = _meant(name, names, places, groups, meant)
    awaited: Dict[int, FrozenSet[int]] = {}
    for place, node in enumerate(nodes):
        if not node.depends_on:
            dependencies.append(())
            continue
        found: List[int] = []
        waited: List[int] = []
        for dependency in node.depends_on:
            told = names.get(dependency.id) if isinstance(dependency, Task) else dependency
            if not isinstance(told, str):
                raise unknown(node.name, dependency, "graph")
            known = places.get(told)
            if known is not None:
                found.append(known)
            elif told in meant:
                (waited if meant[told].empty else found).extend(meant[told].places)
            else:
                raise unknown(node.name, dependency, "graph")
        if waited:
            awaited[place] = frozenset(waited).difference(found)
            found += waited
        if len(found) > 1:
            found = list(dict.fromkeys(found))
        for before in found:
            dependents[before].append(place)
            looped = looped or before >= place
        dependencies.append(tuple(found))
    if looped:
        _refuse_cycle(nodes, dependencies, dependents)
    return Plan(nodes, dependencies, dependents, meant, awaited)


def _meant(
    name: str,
    names: Mapping[uuid.UUID, str],
    places: Mapping[str, int],
    groups: Mapping[str, Group],
    meant: Mapping[str, Meant],
) -> Meant:
    """What a group's name means; of one without tasks also what others like it wait for, that it waits for. meant: what is
    known of other groups, so that long chains are not walked from each of their links.
    """
    if groups[name].members:
        return Meant(tuple(places[member] for member in groups[name].members), False)
    found: List[int] = []
    walk, seen = [name], {name}
    for empty in walk:  # grows while it is walked
        for dependency in groups[empty].depends_on:
            told = names.get(dependency.id) if isinstance(dependency, Task) else dependency
            if told is None or (told not in places and told not in groups):
                raise unknown(empty, dependency, "graph")
            if told in places:
                found.append(places[told])
            elif told in meant:
                found += meant[told].places
            elif groups[told].members:
                found += [places[member] for member in groups[told].members]
            elif told not in seen:
                seen.add(told)
                walk.append(told)
    return Meant(tuple(dict.fromkeys(found)), True)


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
