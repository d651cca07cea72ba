"""Publisher and Inbox: numbers the events of a run, and keeps them until they are read.

An event is kept only for a reader or a callback that has not received it yet. Beside that, a run
that was submitted keeps the last event of each task, for a reader that opens later.
"""

import collections
import time
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Hashable,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

from asimov_sync.graph.events import (
    RunEvent,
    RunFinished,
    RunStarted,
    TaskEvent,
    TaskProgress,
    TaskSkipped,
    TaskText,
    TaskUndone,
)

__all__ = ["Inbox", "Publisher"]

MERGE_ABOVE = 1000
"""The number of unread events in an inbox above which TaskText and TaskProgress are merged."""


class _Merged:
    """One event in place of the unread texts of one reply, or of the progress of one attempt."""

    __slots__ = ("first", "last", "texts")

    def __init__(self, first: TaskEvent) -> None:
        self.first = self.last = first
        self.texts: List[str] = []
        self.add(first)

    def add(self, event: TaskEvent) -> None:
        """Add an event of the same reply or attempt."""
        self.last = event
        if isinstance(event, TaskText):
            if not event.text:  # the earlier pieces do not count
                self.texts.clear()
            self.texts.append(event.text)

    def event(self) -> TaskEvent:
        """Return one event in place of those that were added."""
        first = self.first
        common = (first.run_id, first.sequence, first.time, first.name)
        last = self.last
        if isinstance(last, TaskText):
            text = "".join(self.texts)
            return TaskText(*common, last.task, last.attempt, last.visit, text, last.reply)
        assert isinstance(last, TaskProgress)
        details = (last.fraction, last.text, last.data)
        return TaskProgress(*common, last.task, last.attempt, last.visit, *details)


class _Series(NamedTuple):
    """Many events that are made when they are read.

    indexes: their indexes.
    make: returns the event of an index.
    """

    indexes: range
    make: Callable[[int], TaskEvent]


class Inbox:
    """The events of a run that one reader or callback has not received yet. Read by one thread.

    lock: the run's lock, with which `put` and `put_series` are called.

    closed: whether nobody reads it any more; then it stays empty.
    polled: whether a thread looks into it every few milliseconds, and needs no notification.
    """

    __slots__ = ("__weakref__", "_entries", "_lock", "_merged", "closed", "polled")

    def __init__(self, lock: Any) -> None:
        self.closed = False
        self.polled = False
        self._lock = lock
        self._entries: Deque[Union[RunEvent, _Merged, _Series]] = collections.deque()
        self._merged: Dict[str, Dict[Hashable, _Merged]] = {}  # by task name

    def __bool__(self) -> bool:
        return bool(self._entries)

    def put(self, event: RunEvent) -> None:
        """Add an event."""
        if self.closed:
            return
        if isinstance(event, (TaskText, TaskProgress)):
            if len(self._entries) >= MERGE_ABOVE:
                self._merge(event)
                return
        elif self._merged and isinstance(event, TaskEvent):
            self._merged.pop(event.name, None)  # later texts come after this event
        self._entries.append(event)

    def _merge(self, event: Union[TaskText, TaskProgress]) -> None:
        reply = event.reply if isinstance(event, TaskText) else None
        key = (event.attempt, event.visit, reply)
        of_task = self._merged.setdefault(event.name, {})
        merged = of_task.get(key)
        if merged is None:
            merged = of_task[key] = _Merged(event)
            self._entries.append(merged)
        else:
            merged.add(event)

    def put_series(self, series: _Series) -> None:
        """Add many events that are made when they are read."""
        if not self.closed:
            self._entries.append(series)

    def take(self) -> RunEvent:
        """Remove and return the next event. Raises IndexError if there is none."""
        entry = self._entries.popleft()
        if isinstance(entry, _Series):
            if len(entry.indexes) > 1:
                self._entries.appendleft(entry._replace(indexes=entry.indexes[1:]))
            return entry.make(entry.indexes[0])
        if isinstance(entry, _Merged):
            with self._lock:  # until it is closed, another thread may add to it
                for name, of_task in list(self._merged.items()):
                    if any(merged is entry for merged in of_task.values()):
                        del self._merged[name]
                return entry.event()
        return entry

    def close(self) -> None:
        """Drop what is unread, and everything from now on. Takes no lock."""
        self.closed = True
        self._entries.clear()


class Publisher:
    """Numbers the events of a run, and puts them into the inboxes of its readers and callbacks.

    Every method is called with the run's lock held, but for those that say otherwise.

    run_id: the id of the run.
    lock: the run's lock.
    keeps_state: whether a reader may open later than the run began.
    sequence: the number of the last event of an earlier drive; default 0.
    """

    def __init__(self, run_id: str, lock: Any, keeps_state: bool, sequence: int = 0) -> None:
        self.keeps_state = keeps_state
        self._run_id = run_id
        self._lock = lock
        self._sequence = sequence
        self._inboxes: Tuple[Inbox, ...] = ()
        # For readers that open later.
        self._started: Optional[RunStarted] = None
        self._last: Dict[Hashable, Union[TaskEvent, _Series]] = {}  # in the order of the events
        self._finished: Optional[RunFinished] = None

    @property
    def sequence(self) -> int:
        """The number of the last event."""
        return self._sequence

    @property
    def last_sequence(self) -> int:
        """The number of the last event. Takes no lock."""
        return self._sequence

    @property
    def has_finished(self) -> bool:
        """Return whether the RunFinished was published."""
        return self._finished is not None

    @property
    def is_active(self) -> bool:
        """Return whether events have a receiver, now or perhaps later. Takes no lock."""
        return self.keeps_state or bool(self._inboxes)

    @property
    def has_inboxes(self) -> bool:
        """Return whether events have a receiver now. Takes no lock."""
        return bool(self._inboxes)

    def open_inbox(self) -> Inbox:
        """Return a new inbox. It contains the present state of the run, if that is kept."""
        with self._lock:
            inbox = Inbox(self._lock)
            if self._started is not None:
                inbox.put(self._started)
            for entry in self._last.values():
                if isinstance(entry, _Series):
                    inbox.put_series(entry)
                else:
                    inbox.put(entry)
            if self._finished is not None:
                inbox.put(self._finished)
            else:
                self._inboxes += (inbox,)
            return inbox

    def publish(self, kind: Type[RunEvent], *fields: Any) -> bool:
        """Make an event and put it into each inbox.

        kind: the class of the event.
        fields: its fields after `run_id`, `sequence` and `time`.

        Returns whether a receiver has to be notified.
        """
        self._sequence += 1
        event = kind(self._run_id, self._sequence, time.time(), *fields)
        notify = False
        for inbox in self._inboxes:
            if inbox.closed:
                self._inboxes = tuple(one for one in self._inboxes if not one.closed)
            inbox.put(event)
            if not inbox.polled:  # read after the event was added
                notify = True
        if isinstance(event, RunFinished):
            self._finished = event
        elif self.keeps_state:
            self._keep(event)
        return notify

    def _keep(self, event: RunEvent) -> None:
        """Keep an event if it is the last one of its task."""
        if isinstance(event, TaskEvent):
            if isinstance(event, (TaskText, TaskProgress)):
                return
            known = self._last.pop(event.name, None)  # so that the order is that of the last events
            if isinstance(event, TaskUndone):
                if known is None:  # a retry after the stop revokes a task that it spawned before
                    self._split_series()
                    self._last.pop(event.name, None)
            else:
                self._last[event.name] = event
        elif isinstance(event, RunStarted):
            self._started = event

    def _split_series(self) -> None:
        """Keep the events of each series one by one."""
        last: Dict[Hashable, Union[TaskEvent, _Series]] = {}
        for name, entry in self._last.items():
            if isinstance(entry, _Series):
                last.update((event.name, event) for event in map(entry.make, entry.indexes))
            else:
                last[name] = entry
        self._last = last

    def publish_skipped(
        self, names: Sequence[str], describe: Callable[[int], Tuple[Any, ...]]
    ) -> None:
        """Publish that many tasks will not run. Their events are made when they are read.

        names: the names of the tasks.
        describe: returns the fields of a TaskSkipped after `name`, for an index in `names`. It must
            return the same ones at any later time.
        """
        first, moment, run_id = self._sequence + 1, time.time(), self._run_id
        self._sequence += len(names)

        def make(index: int) -> TaskSkipped:
            return TaskSkipped(run_id, first + index, moment, names[index], *describe(index))

        series = _Series(range(len(names)), make)
        for inbox in self._inboxes:
            inbox.put_series(series)
        if self.keeps_state:
            if self._last:
                for name in names:
                    self._last.pop(name, None)
            self._last[series] = series
