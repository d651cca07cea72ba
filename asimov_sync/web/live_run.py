"""LiveRun: a stored run with what its events tell of the tasks that are running.

A record has the outcomes of tasks. Which tasks run now, and what they report, is only in the log.
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set

from asimov_sync.cache.base import Cache
from asimov_sync.cancellation import Cancellation
from asimov_sync.display.view import RunView, TaskView, view_record
from asimov_sync.errors import Cancelled
from asimov_sync.runs.status import ENDED, RunStatus
from asimov_sync.runs.store import RunRecord, RunStore

__all__ = ["Activity", "Follower", "LiveRun", "fold_activities"]

MAX_TAIL = 600
"""The number of characters of a model's text that are shown while it arrives: the last ones."""

GATHER_SECONDS = 0.1
"""The time for which events are gathered after the first one, in seconds."""


class Activity(NamedTuple):
    """A task that is running.

    started: in seconds since the epoch.
    fraction, progress: of its last report; None and empty without.
    reply, text: the number of the reply that arrives, and the end of its text.
    """

    name: str
    type: str
    objective: str
    attempt: int
    visit: int
    started: float
    fraction: Optional[float] = None
    progress: str = ""
    reply: int = 0
    text: str = ""


def fold_activities(activities: Dict[str, Activity], events: Iterable[Dict[str, Any]]) -> Set[str]:
    """Apply events of the log to the running tasks, by name.

    Returns the names of all tasks that the events are about.
    """
    names: Set[str] = set()
    for event in events:
        kind, name = event.get("type"), event.get("name")
        if kind in ("run_started", "run_finished"):
            names.update(activities)
            activities.clear()
        if not isinstance(name, str):
            continue
        names.add(name)
        known = activities.get(name)
        if kind == "task_started":
            activities[name] = _start(event, name)
        elif kind == "task_progress" and known is not None:
            fraction = event.get("fraction")
            activities[name] = known._replace(
                fraction=None if fraction is None else _number(fraction),
                progress=_text(event.get("text"))[:MAX_TAIL],
            )
        elif kind == "task_text" and known is not None:
            reply = int(_number(event.get("reply")))
            before = known.text if reply == known.reply else ""
            tail = (before + _text(event.get("text")))[-MAX_TAIL:]
            activities[name] = known._replace(reply=reply, text=tail)
        elif kind != "task_progress" and kind != "task_text":
            activities.pop(name, None)
    return names


def _start(event: Dict[str, Any], name: str) -> Activity:
    task = event.get("task")
    task = task if isinstance(task, dict) else {}
    return Activity(
        name,
        _text(task.get("type")),
        _text(task.get("objective")),
        int(_number(event.get("attempt"), 1)),
        int(_number(event.get("visit"), 1)),
        _number(event.get("time")),
    )


# redact= and serializer= of the store may have changed what the log contains.


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, default: float = 0.0) -> float:
    finite = isinstance(value, (int, float)) and abs(value) < 1e15
    return value if finite else default


class LiveRun:
    """A stored run at one moment.

    record: its record.
    activities: the tasks that are running, by name.
    sequence: the number of the last event that was read.
    cache: the cache with the transcripts to show; None without.
    """

    def __init__(
        self,
        record: RunRecord,
        activities: Dict[str, Activity],
        sequence: int,
        cache: Optional[Cache] = None,
    ) -> None:
        self._cache = cache
        self.record = record
        self.activities = activities
        self.sequence = sequence
        self._view: Optional[RunView] = None

    @property
    def has_ended(self) -> bool:
        """True if the run has ended for good."""
        return self.record.status in ENDED

    @property
    def view(self) -> RunView:
        """The run with its tasks, for drawing."""
        if self._view is None:
            view = view_record(self.record, cache=self._cache)
            tasks = [self._overlay(task) for task in view.tasks]
            known = {task.name for task in tasks}
            for one in self.activities.values():
                if one.name not in known:
                    task = TaskView(one.name, one.type, one.objective, "waiting", ())
                    tasks.append(self._overlay(task))
            self._view = view._replace(tasks=tuple(tasks))
        return self._view

    def _overlay(self, task: TaskView) -> TaskView:
        activity = self.activities.get(task.name)
        # Its record is newer than the log if it has the outcome of this attempt.
        if activity is None or (task.ended is not None and task.ended >= activity.started):
            return task
        return task._replace(
            objective=task.objective or activity.objective,
            status="executing",
            started=activity.started,
            ended=None,
            attempts=activity.attempt,
            visits=activity.visit,
            error=None,
            traceback=None,
        )


class Follower:
    """Follows a stored run, of which any process may be the driver.

    store, run_id: the run.

    Raises KeyError if there is no such run.
    """

    def __init__(self, store: RunStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._activities: Dict[str, Activity] = {}
        self._changed: Set[str] = set()
        self._sequence = 0

    def read(self, with_transcripts: bool = False) -> LiveRun:
        """Read the run as it is now, without waiting.

        with_transcripts: whether its tasks have the conversations that agents with
            `keep_transcript=True` have stored, if the scheduler's cache is that of the store.
        """
        record = self._store.get(self._run_id)
        if record.status not in ENDED or self._sequence:  # the end may have come since `wait`
            self._fold(self._drain(self._sequence, Cancellation(0.0)))
        if record.status is not RunStatus.RUNNING:
            self._activities.clear()
        cache = self._store.cache if with_transcripts else None
        return LiveRun(record, dict(self._activities), self._sequence, cache)

    def names_after(self, sequence: int) -> Set[str]:
        """Return the names of the tasks that events after a number are about, without waiting."""
        events = self._drain(sequence, Cancellation(0.0))
        return fold_activities({}, events)

    def take_changed(self) -> Set[str]:
        """Return the names of the tasks that have changed since the last call, as far as read."""
        changed, self._changed = self._changed, set()
        return changed

    def wait(self, seconds: float) -> None:
        """Wait until something has happened, at most some seconds."""
        token = Cancellation(seconds)
        try:
            for event in self._store.events(self._run_id, after=self._sequence, cancellation=token):
                more = self._drain(event["sequence"], Cancellation(GATHER_SECONDS))
                self._fold([event, *more])
                return
        except Cancelled:
            pass

    def _drain(self, sequence: int, token: Cancellation) -> List[Dict[str, Any]]:
        """Return the events after a number, until a token is cancelled or there are no more."""
        events: List[Dict[str, Any]] = []
        try:
            for event in self._store.events(self._run_id, after=sequence, cancellation=token):
                events.append(event)
        except Cancelled:
            pass
        return events

    def _fold(self, events: List[Dict[str, Any]]) -> None:
        if events:
            self._sequence = max(self._sequence, events[-1]["sequence"])
        self._changed |= fold_activities(self._activities, events)
