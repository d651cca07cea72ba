"""Decides which thread writes to a database: one at a time, for itself and for others that wait.

The first thread that submits a write becomes the leader. Threads that submit one meanwhile are
followers: they wait. The leader takes all pending writes and commits them together. Then the thread
of the first write that is still pending becomes the leader. So no thread exists only to write, and
several threads share the cost of one commit.
"""

import collections
import threading
from typing import Any, Callable, Deque, List, Optional

from asimov_sync.cache.limits import Limits
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.errors import CacheUnavailable

__all__ = ["Write", "WriteQueue"]

MAX_BATCH = 128
"""Writes in one transaction, so that the first of them does not wait for too many others."""

POLL_SECONDS = 1.0
"""Longest uninterrupted wait for a write that a leader is executing."""


class Write:
    """One atomic change, and its outcome.

    function: makes the change and returns the result. It receives the database's connection.
    """

    __slots__ = ("done", "error", "function", "result", "thread", "turn")

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.thread = threading.get_ident()
        self.done = False
        self.result: Any = None
        self.error: Optional[BaseException] = None
        self.turn = InterruptibleEvent()  # set when the write is done, leads or is cancelled

    def finish(self) -> None:
        """Mark the write as done, after its result or error was noted, and wake its thread."""
        self.done = True
        self.turn.set()  # read after `done` was set, because the waiting thread may replace it


class WriteQueue:
    """The pending writes of one database, and the write whose thread leads."""

    def __init__(self) -> None:
        # Re-entrant, because a signal handler or a destructor may submit a write.
        self._lock = threading.RLock()
        self._pending: "Deque[Write]" = collections.deque()
        self._leader: Optional[Write] = None

    def submit(self, write: Write, limits: Limits) -> bool:
        """Add a write, and wait until it is done or its thread has to lead.

        limits: bound the wait for the writes of other threads.

        Returns True if this thread leads now; it then calls `take_batch` and `end_lead`. Raises
        CacheUnavailable if the limits end the wait before the write was begun, Cancelled if its
        cancellation does, and RuntimeError on a thread that leads: it would wait for itself.
        """
        with self._lock:
            if self._leader is not None and self._leader.thread == write.thread:
                raise RuntimeError("a write was started inside another write of the same database")
            self._pending.append(write)
            if self._leader is None:
                self._leader = write
                return True
        try:
            with limits.on_cancel(write.turn.set):
                write.turn.wait(limits.remaining())
            while not write.done:
                with self._lock:
                    if self._leader is write:
                        return True
                    if write in self._pending:
                        self._pending.remove(write)
                        raise limits.wrap_error(
                            CacheUnavailable("the writes of other threads took too long")
                        )
                # A leader executes this write. That ends in time, or makes the write pending again.
                write.turn = InterruptibleEvent()
                if not write.done:
                    write.turn.wait(POLL_SECONDS)
        except BaseException:
            self.end_lead(write)
            raise
        return False

    def try_lead(self, write: Write) -> bool:
        """Make this thread the leader if there is none. The write itself is not submitted."""
        with self._lock:
            if self._leader is None:
                self._leader = write
                return True
            return False

    def is_leader(self, write: Write) -> bool:
        """Return whether a write leads."""
        return self._leader is write

    def take_batch(self, own: Write, alone: bool) -> List[Write]:
        """Return the writes to execute in one transaction, in the order of their submission.

        own: the leader's write.
        alone: return no other write.
        """
        with self._lock:
            if alone:
                self._pending.remove(own)
                return [own]
            count = min(MAX_BATCH, len(self._pending))
            batch = [self._pending.popleft() for _ in range(count)]
            if own not in batch:
                self._pending.remove(own)
                batch.append(own)
            return batch

    def put_back(self, writes: List[Write]) -> None:
        """Make writes pending again, before all others."""
        with self._lock:
            self._pending.extendleft(reversed(writes))

    def end_lead(self, own: Write) -> None:
        """Remove a write if it is pending. If it leads, let the first pending one lead."""
        with self._lock:
            if own in self._pending:
                self._pending.remove(own)
            if self._leader is own:
                self._leader = self._pending[0] if self._pending else None
                if self._leader is not None:
                    self._leader.turn.set()
