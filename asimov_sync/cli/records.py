"""Runs, tasks and waits of a store, as text and as JSON values. docs/command.rst documents these.

Their shape is stable: fields are added, but neither renamed nor removed.
"""

import datetime
from typing import Any, Dict, List, Mapping, Optional, Tuple

from asimov_sync._json import to_jsonable
from asimov_sync.graph.journal import TaskRecord, Wait
from asimov_sync.runs.status import RunStatus
from asimov_sync.runs.store import RunRecord

__all__ = [
    "STATUS_STYLES",
    "count_tasks",
    "describe_type",
    "run_to_dict",
    "task_status",
    "task_to_dict",
]

STATUS_STYLES: Mapping[str, Optional[str]] = {
    "complete": "green",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "red",
    "running": "blue",
    "executing": "blue",
    "parked": "magenta",
    "interrupted": "yellow",
    "orphaned": "yellow",
}
"""The style of each status of a run or task that has one."""

ENDED_PHASES = ("COMPLETE", "PARTIAL", "FAILED", "SKIPPED", "NOT_SELECTED")

SHOWN_CHOICES = 6


def run_to_dict(record: RunRecord) -> Dict[str, Any]:
    """Return the record of a run, without its tasks, as JSON values. Times are UTC (ISO 8601)."""
    return {
        "run_id": record.run_id,
        "status": record.status.value,
        "flow": record.flow,
        "args": to_jsonable(record.args),
        "tags": record.tags,
        "created": _format(record.created),
        "updated": _format(record.updated),
        "owner": record.owner,
        "lease_until": _format(record.lease_until),
        "seconds": record.seconds,
        "usage": to_jsonable(record.usage),
        "tasks_ended": count_tasks(record)[0],
        "tasks_stored": count_tasks(record)[1],
        "error": record.error,
    }


def _format(moment: Optional[datetime.datetime]) -> Optional[str]:
    return None if moment is None else moment.isoformat()


def count_tasks(record: RunRecord) -> Tuple[int, int]:
    """Return how many tasks of a run have ended, and how many are stored."""
    ended = sum(record.counts.get(phase, 0) for phase in ENDED_PHASES)
    return ended, sum(record.counts.values())


def task_status(task: TaskRecord, run: RunStatus) -> str:
    """Return the status of a stored task: one word, in lower case.

    run: the status of its run.
    """
    if task.phase in ("WAITING", "READY", "DELAYED") and task.running:
        return "executing" if run is RunStatus.RUNNING else "interrupted"
    if task.phase in ("READY", "DELAYED"):
        return "waiting"
    return task.phase.lower()


def task_to_dict(task: TaskRecord, run: RunStatus) -> Dict[str, Any]:
    """Return a stored task as JSON values. Times are seconds since the epoch.

    run: the status of its run.
    """
    return {
        "name": task.name,
        "type": task.type,
        "objective": task.objective,
        "status": task_status(task, run),
        "depends_on": list(task.depends_on),
        "visit": task.visit,
        "attempt": task.attempt,
        "result": to_jsonable(task.result),
        "error": task.error,
        "traceback": None if task.exception is None else task.exception.traceback,
        "started": task.started,
        "ended": task.ended,
        "seconds": task.seconds,
        "usage": to_jsonable(task.usage),
        "spawned_by": task.spawned_by,
        "waits": [wait.to_dict() for wait in task.waits],
    }


def describe_type(wait: Wait) -> str:
    """Return what the answer to a wait must be, in a few words."""
    schema: Any = wait.type
    if not isinstance(schema, Mapping):
        return "any JSON value, or text"
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        shown = [str(choice) for choice in choices[:SHOWN_CHOICES]]
        return "one of " + ", ".join(shown) + (", …" if len(choices) > len(shown) else "")
    names: Mapping[Any, str] = {
        "boolean": "yes or no",
        "string": "text",
        "integer": "an integer",
        "number": "a number",
        "array": "a JSON list",
        "null": "null",
    }
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties")
        fields: List[str] = list(map(str, properties)) if isinstance(properties, Mapping) else []
        return "a JSON object" + (f" with {', '.join(fields)}" if fields else "")
    return names.get(kind, "a JSON value") if isinstance(kind, str) else "a JSON value"
