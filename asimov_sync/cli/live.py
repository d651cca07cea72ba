"""The tasks that a run executes at the moment, from its log."""

from typing import Any, Dict, Mapping

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import Cancelled
from asimov_sync.runs.store import RunStore

__all__ = ["find_executing"]


def find_executing(store: RunStore, run_id: str) -> Dict[str, Mapping[str, Any]]:
    """Return, for each task that executes, its last event, as `RunStore.events` has it.

    A driver writes the log with its next commit, or when it renews its lease.
    """
    now = Cancellation()
    now.cancel("what is in the log was read")  # `events` ends where it would wait
    executing: Dict[str, Mapping[str, Any]] = {}
    try:
        for event in store.events(run_id, cancellation=now):
            kind = event["type"]
            if kind == "run_started":  # of a new drive
                executing.clear()
            elif kind in ("task_started", "task_progress"):
                executing[event["name"]] = event
            elif kind not in ("task_text", "run_finished"):
                executing.pop(event["name"], None)
    except Cancelled:
        pass
    return executing
