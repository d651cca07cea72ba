"""RecordWaiters: the threads of this process that wait for a record."""

import threading
from typing import Dict, List, Tuple

from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import reset_after_fork

__all__ = ["RecordWaiters"]


class RecordWaiters:
    """The events of the threads that wait for records, by the id of the record.

    Safe to use from every thread. A forked child forgets the threads of its parent.
    """

    def __init__(self) -> None:
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Create a new lock, as a forked child needs it, and forget the parent's threads."""
        self._lock = threading.RLock()
        self._events: Dict[Tuple[str, bool], List[InterruptibleEvent]] = {}

    def add(self, id: str, for_log: bool, woken: InterruptibleEvent) -> None:
        """Add a waiting thread.

        for_log: whether log entries wake it, too.
        woken: its event.
        """
        with self._lock:
            self._events.setdefault((id, for_log), []).append(woken)

    def remove(self, id: str, for_log: bool, woken: InterruptibleEvent) -> bool:
        """Remove a waiting thread. Return whether `wake` has removed it already."""
        with self._lock:
            events = self._events.get((id, for_log), [])
            if woken not in events:
                return True
            events.remove(woken)
            if not events:
                del self._events[id, for_log]
            return False

    def wake(self, id: str, log_only: bool = False) -> None:
        """Wake the threads that wait for a record.

        log_only: only those that wait for its log. The thread that renews the lease of a run waits
            for posts alone, and would be woken by each commit of the run itself.
        """
        with self._lock:
            for for_log in (True,) if log_only else (True, False):
                for woken in self._events.pop((id, for_log), ()):
                    woken.set()
