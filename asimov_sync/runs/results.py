"""The result of a stored run, made from its record alone."""

from typing import Dict, List, Mapping, Tuple

from asimov_sync.graph.journal import TaskRecord, Wait
from asimov_sync.graph.node import DEFAULT_MAX_VISITS, Node
from asimov_sync.graph.plan import Plan
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.state import PHASES, RunState
from asimov_sync.graph.stored_errors import rebuild_exception
from asimov_sync.graph.task_spans import TaskSpans
from asimov_sync.messages import Usage
from asimov_sync.runs.codec import Head
from asimov_sync.runs.status import ENDED, RunStatus
from asimov_sync.tasks import Task, TaskStatus

__all__ = ["make_plan", "make_result"]


def make_plan(records: Mapping[str, TaskRecord], tasks: Mapping[str, Task]) -> Plan:
    """Return a graph that has the stored tasks, spawned ones included, and their dependencies.

    tasks: tasks of a graph by name, to be used where the name and the type are the same.
    """
    ordered = sorted(records.values(), key=lambda record: record.position)
    indexes = {record.name: index for index, record in enumerate(ordered)}
    nodes: List[Node] = []
    dependencies: List[Tuple[int, ...]] = []
    dependents: List[List[int]] = [[] for _ in ordered]
    for index, record in enumerate(ordered):
        task = tasks.get(record.name)
        if task is None or task.type != record.type:
            task = Task(type=record.type, objective=record.objective)
        nodes.append(Node(record.name, task, (), None, False, None, None, DEFAULT_MAX_VISITS, ()))
        before = tuple(indexes[name] for name in record.depends_on if name in indexes)
        dependencies.append(before)
        for one in before:
            dependents[one].append(index)
    return Plan(nodes, dependencies, dependents, {}, {})


def make_result(run_id: str, head: Head, records: Mapping[str, TaskRecord]) -> RunResult:
    """Return the result of a stored run, as far as it has come."""
    plan = make_plan(records, {})
    state = RunState(plan)
    by_index = {index: records[node.name] for index, node in enumerate(plan.nodes)}
    state.restore(by_index, everything=True)
    indexes = {record.name: index for index, record in by_index.items()}
    for index, record in by_index.items():
        if record.spawned_by in indexes:
            state.spawned.setdefault(indexes[record.spawned_by], []).append(index)
    state.reason = head.reason
    if RunStatus(head.status) not in ENDED:
        state.unfinished += 1  # there may be tasks that are not stored yet
    exceptions: Dict[int, BaseException] = {}
    usages: Dict[int, Usage] = {}
    seconds: Dict[int, float] = {}
    waits: Dict[int, Tuple[Wait, ...]] = {}
    spans = TaskSpans()
    for index, record in by_index.items():
        if record.exception is not None and PHASES[record.phase].name == "FAILED":
            exceptions[index] = rebuild_exception(record.exception)
        if record.usage is not None:
            usages[index] = record.usage
        if record.started is not None:
            seconds[index] = record.seconds
            spans.restore(index, record)
        if record.waits:
            waits[index] = record.waits
    result = RunResult(
        state, exceptions, seconds, usages, run_id, head.usage, head.seconds, waits, True, spans
    )
    if result.status is TaskStatus.COMPLETE and head.status != RunStatus.COMPLETE:
        # It was ended before other tasks, of which nothing is stored, could start.
        result.status, result.reason = TaskStatus.PARTIAL, head.reason
    return result
