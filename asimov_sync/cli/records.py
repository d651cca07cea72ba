"""Runs, tasks and waits of a store, as text and as JSON values. docs/command.rst documents these.

Their shape is stable: fields are added, but neither renamed nor removed.
"""

import collections
import datetime
from typing import Any, Dict, List, Mapping, Optional

from asimov_sync._json import to_jsonable
from asimov_sync.display.words import plural
from asimov_sync.graph.journal import TaskRecord, Wait
from asimov_sync.graph.state import PHASES
from asimov_sync.messages import Usage
from asimov_sync.runs.store import RunRecord

__all__ = [
    "STATUS_STYLES",
    "count_tasks",
    "describe_counts",
    "describe_type",
    "describe_usage",
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

WORDS = {"READY": "waiting", "DELAYED": "waiting"}
"""The status of a task in a phase, where that is not the name of the phase in lower case."""

COUNTED = ("failed", "partial", "parked", "waiting", "complete", "skipped", "not_selected")
"""The statuses of stored tasks, those first that a reader looks for."""

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
        "counts": count_tasks(record),
        "error": record.error,
    }


def _format(moment: Optional[datetime.datetime]) -> Optional[str]:
    return None if moment is None else moment.isoformat()


def count_tasks(record: RunRecord) -> Dict[str, int]:
    """Return the number of the stored tasks of a run by their status."""
    counts = collections.Counter()  # type: Dict[str, int]
    for phase, count in record.counts.items():
        counts[WORDS.get(phase, phase.lower())] += count
    return {status: counts[status] for status in COUNTED if counts[status]}


def describe_counts(record: RunRecord) -> str:
    """Return the number of the stored tasks of a run by their status, as text."""
    return ", ".join(f"{count} {status}" for status, count in count_tasks(record).items())


def describe_usage(usage: Usage) -> str:
    """Return the tokens and requests of a usage, as text."""
    return f"{usage.total_tokens:,} tokens in {plural(usage.requests, 'request')}"


def task_status(task: TaskRecord, executing: bool = False) -> str:
    """Return the status of a task: one word, in lower case.

    executing: whether the task executes at the moment, which is not a part of its record.
    """
    if executing and not PHASES[task.phase].is_final:
        return "executing"
    return WORDS.get(task.phase, task.phase.lower())


def task_to_dict(task: TaskRecord, executing: bool) -> Dict[str, Any]:
    """Return a task as JSON values. Times are seconds since the epoch.

    executing: whether it executes at the moment.
    """
    return {
        "name": task.name,
        "type": task.type,
        "objective": task.objective,
        "status": task_status(task, executing),
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
        "spans": [to_jsonable(span._asdict()) for span in task.spans],
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
