"""Compares a graph with the stored run that it continues.

Tasks are compared by structure: type, objective, params and dependencies. New tasks and changed
tasks that have not finished are accepted; for a finished one that was changed or removed, the
caller decides.
"""

from typing import Dict, List, Mapping, NamedTuple, Sequence, Set, Union

from asimov_sync.errors import GraphChanged
from asimov_sync.graph.journal import TaskRecord
from asimov_sync.graph.plan import Plan
from asimov_sync.graph.state import PHASES
from asimov_sync.runs.options import IfChanged

__all__ = ["Adapted", "adapt_records", "undo"]


class Adapted(NamedTuple):
    """The stored tasks of a run, as far as they apply to a graph.

    records: the tasks, by name.
    updated, removed: the names of those that have to be written again, and of those that are gone.
    """

    records: Dict[str, TaskRecord]
    updated: List[str]
    removed: List[str]


def adapt_records(
    plan: Plan,
    digests: Sequence[str],
    records: Mapping[str, TaskRecord],
    if_changed: IfChanged,
    retry_failed: bool,
) -> Adapted:
    """Compare a graph with the stored tasks of a run.

    plan, digests: the graph, and the digests of its tasks' params.
    records: the stored tasks by name.
    if_changed: what to do with finished tasks that were changed or removed; for all, or by name.
    retry_failed: whether FAILED tasks are to run again.

    Raises GraphChanged, with all changes, if such a task has the policy "raise".
    """
    indexes = {node.name: index for index, node in enumerate(plan.nodes)}
    kept, updated, removed, rerun = dict(records), [], [], []
    refused: Dict[str, str] = {}
    for name, record in records.items():
        if record.spawned_by is not None:
            continue
        change = _describe_change(plan, digests, indexes.get(name), record)
        if change is None:
            continue
        policy = if_changed if isinstance(if_changed, str) else if_changed.get(name, "raise")
        finished = PHASES[record.phase].status.is_final
        if finished and policy == "raise":
            refused[name] = change
        elif name not in indexes:
            removed.append(name)
        elif finished and policy == "rerun":
            rerun.append(name)
        elif finished:
            kept[name] = _with_structure(plan, digests, indexes[name], record)
            updated.append(name)
    if refused:
        listed = "; ".join(f"{name!r}: {change}" for name, change in refused.items())
        error = GraphChanged(
            f"finished tasks of the stored run were changed: {listed}. Undo the change, or choose "
            'with if_changed="keep" or "rerun", or a dict of these by the names of the tasks'
        )
        error.changes = refused
        raise error
    failed: Set[str] = set()
    if retry_failed:
        failed = {name for name, one in records.items() if one.phase == "FAILED"}
    spawners = set()
    for name in _downstream(plan, kept, [*rerun, *failed]):
        if name not in kept:
            continue
        before, kept[name] = kept[name], undo(kept[name])
        if name in failed:
            # It repeats its visit, as after a retry: the idempotency key, the steps and the
            # feedback stay the same. Its handler may spawn the same tasks again, which have an
            # outcome then.
            visit = max(0, before.visit - 1)
            kept[name] = kept[name]._replace(visit=visit, feedback=before.feedback)
        else:
            spawners.add(name)
        updated.append(name)
    for name, record in records.items():
        if record.spawned_by in spawners and name in kept:
            removed.append(name)
    for name in removed:
        kept.pop(name, None)
    _drop_orphans(kept, removed, set(indexes))
    updated = [name for name in updated if name in kept]
    return Adapted(kept, list(dict.fromkeys(updated)), list(dict.fromkeys(removed)))


def undo(record: TaskRecord) -> TaskRecord:
    """Return the record of a task that is to run again, as a loop leaves it."""
    return record._replace(
        phase="WAITING",
        attempt=0,
        result=None,
        error=None,
        exception=None,
        route=None,
        waits_for=None,
        feedback={},
        waits=(),
    )


def _describe_change(
    plan: Plan, digests: Sequence[str], index: Union[int, None], record: TaskRecord
) -> Union[str, None]:
    """Return what has changed in a task; None if nothing has."""
    if index is None:
        return "it was removed"
    task = plan.nodes[index].task
    changes = []
    if task.type != record.type:
        changes.append(f"its type was {record.type!r}, and is {task.type!r}")
    if task.objective != record.objective:
        changes.append("its objective")
    if digests[index] != record.params:
        changes.append("its params")
    before, now = set(record.depends_on), set(_dependencies(plan, index))
    if before != now:
        changes.append(f"it depended on {sorted(before)}, and depends on {sorted(now)}")
    return ", ".join(changes) or None


def _dependencies(plan: Plan, index: int) -> List[str]:
    return [plan.nodes[one].name for one in plan.dependencies[index]]


def _with_structure(
    plan: Plan, digests: Sequence[str], index: int, record: TaskRecord
) -> TaskRecord:
    task = plan.nodes[index].task
    return record._replace(
        type=task.type,
        objective=task.objective,
        params=digests[index],
        depends_on=tuple(_dependencies(plan, index)),
    )


def _downstream(plan: Plan, records: Mapping[str, TaskRecord], names: List[str]) -> List[str]:
    """Return these names and those of all tasks downstream of them, spawned ones included."""
    dependents: Dict[str, List[str]] = {
        node.name: [plan.nodes[one].name for one in plan.dependents[index]]
        for index, node in enumerate(plan.nodes)
    }
    spawned = [record for record in records.values() if record.spawn is not None]
    for record in spawned:
        for before in record.depends_on:
            dependents.setdefault(before, []).append(record.name)
    for record in spawned:
        if record.spawn is not None and record.spawn.get("before_dependents"):
            for name in dependents.get(str(record.spawned_by), ()):
                if name not in records or records[name].spawned_by != record.spawned_by:
                    dependents.setdefault(record.name, []).append(name)
    walk = list(dict.fromkeys(names))
    seen = set(walk)
    for one in walk:  # grows during the walk
        for dependent in dependents.get(one, ()):
            if dependent not in seen:
                seen.add(dependent)
                walk.append(dependent)
    return walk


def _drop_orphans(kept: Dict[str, TaskRecord], removed: List[str], names: Set[str]) -> None:
    """Drop spawned tasks whose spawner was removed, or whose name a task of the graph has now.

    A spawner need not be stored: its handler may not have returned yet.
    """
    while True:
        gone = set(removed)
        orphans = [
            name
            for name, record in kept.items()
            if record.spawned_by is not None and (record.spawned_by in gone or name in names)
        ]
        if not orphans:
            return
        for name in orphans:
            del kept[name]
            if name not in names:
                removed.append(name)
