"""Every thread that this library starts: daemon, made on first use, safe across fork, with the caller's context.

`WorkerPool` is a `concurrent.futures.ThreadPoolExecutor` to its callers and keeps none of these habits of it:

- its threads hold up the end of the process (a handler that hangs must not);
- a pool that a child inherited by fork waits for threads that the child does not have;
- context variables do not reach the work, so that a span made there has lost its parent;
- threads, once started, stay for the life of the pool.

State, guarded by one lock: the queued jobs; how many workers live, how many of them wait for a job, and which are busy with
one; which of the busy threads were abandoned, that is, given up as stuck and no longer counted; which jobs stand aside, that
is, wait for other jobs, and are not counted meanwhile. No thread is started under the lock: whoever starts one waits until it
runs, and the garbage collector may call a destructor in it that takes the lock.
"""

import collections
import concurrent.futures
import contextlib
import contextvars
import heapq
import itertools
import logging
import queue
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

from asimov_sync.errors import WorkersClosed
from asimov_sync.forking import renew_in_child

__all__ = ["Alarms", "INLINE", "WorkerPool"]

logger = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
"""How long a worker waits for the next job before its thread ends. A pool that nobody uses has no threads."""

ABANDONED_LIMIT = 64
"""How many stuck threads of one pool are replaced. A program that sticks more often has another problem."""

LONGEST_WAIT = 3600.0
"""How long the alarm thread waits at a stretch; no lock can be waited for infinitely many seconds."""

INLINE: "contextvars.ContextVar[bool]" = contextvars.ContextVar("asimov_inline", default=False)
"""Whether what would be done at once, on threads, is done one after the other on the calling thread, in this context.

A scheduler with `max_workers=0` sets it: for debuggers, and for Django's TestCase, whose transaction is one thread's.
"""

_here = threading.local()


class _Job:
    """One call to make, the context to make it in, and the future that waits for it."""

    __slots__ = ("context", "function", "future")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.context = contextvars.copy_context()
        self.future: "concurrent.futures.Future[Any]" = concurrent.futures.Future()

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.context.run(self.function)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkerPool(concurrent.futures.ThreadPoolExecutor):
    """Runs calls on daemon threads, at most `max_workers` at once; None for as many as there are calls.

    The threads are started when they are needed and end when they are idle. Calls that were queued in the parent are not
    run in a forked child.
    """

    def __init__(self, max_workers: Optional[int] = None, name: str = "asimov-worker") -> None:
        super().__init__(max_workers if max_workers is not None else 1, thread_name_prefix=name)
        self.limit = max_workers
        self._name = name
        self._closed = False
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Start afresh, as in a forked child: no threads, no jobs, new locks."""
        # Re-entrant: a destructor that the garbage collector calls may cancel a run, and so abandon a worker.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._jobs: Deque[_Job] = collections.deque()
        self._living = 0
        self._idle = 0
        self._workers: Dict[int, threading.Thread] = {}  # by their thread idents
        self._busy: Dict[int, _Job] = {}  # by their thread idents
        self._abandoned: Set[int] = set()
        self._aside: Dict[_Job, int] = {}  # how many waits each has

    @property
    def job(self) -> Any:
        """The call that the calling thread is in, if it is a worker of this pool: what `abandon` takes."""
        return self._busy.get(threading.get_ident())

    @property
    def crowded(self) -> bool:
        """Whether at this moment a call waits for a worker, or there is a worker too many."""
        return len(self._jobs) > self._idle or (self.limit is not None and self._living > self.limit)

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":  # type: ignore[override]
        """Run `fn(*args, **kwargs)` on a worker, in a copy of the caller's context; WorkersClosed after `shutdown()`."""
        job = _Job((lambda: fn(*args, **kwargs)) if args or kwargs else fn)
        with self._lock:
            if self._closed:
                raise WorkersClosed("these workers were closed: make a new scheduler or client")
            self._jobs.append(job)
            thread = self._needed()
        if thread is not None:
            self._start(thread, job)
        return job.future

    def _needed(self) -> Optional[threading.Thread]:
        """Wake a worker for the newest job; or the thread that is to be started for it. Holds the lock."""
        if self._idle >= len(self._jobs):
            self._wake()
        elif self.limit is None or self._living < self.limit:
            thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._living += 1
            return thread
        return None

    def _start(self, thread: threading.Thread, job: Optional[_Job] = None) -> None:
        """Start it, without the lock. Where that cannot be, and no other will come to the job, WorkersClosed."""
        try:
            thread.start()
        except BaseException as error:
            with self._lock:
                if thread.ident is None:  # else it was Ctrl-C, and the thread is on its way all the same
                    self._living -= 1
                others = self.limit is not None and self._workers  # where there is no limit, they may all wait for ever
                lost = isinstance(error, RuntimeError) and job is not None and job in self._jobs and not others
                if lost:
                    self._jobs.remove(job)  # type: ignore[arg-type]
            if lost:
                raise WorkersClosed("no worker thread could be started: {}".format(error)) from error
            if not isinstance(error, RuntimeError):
                raise

    def _wake(self) -> None:
        """Wake a worker that waits for a job. Holds the lock."""
        while True:
            try:
                return self._work.notify()
            except RuntimeError:
                # Until Python 3.10.4: Ctrl-C inside of a notify leaves in its list a waiter that was woken already, and every
                # later one fails on that (https://github.com/python/cpython/issues/92530).
                self._work._waiters.popleft()  # type: ignore[attr-defined]

    def _serve(self) -> None:
        """A worker's life: one job after the other, until none came for a while, or it was abandoned."""
        _here.pool = self
        me = threading.get_ident()
        with self._lock:
            self._workers[me] = threading.current_thread()
        while True:
            with self._lock:
                while not self._jobs:
                    self._idle += 1
                    waited = self._closed or not self._work.wait(IDLE_SECONDS)
                    self._idle -= 1
                    if waited and not self._jobs:
                        self._living -= 1
                        del self._workers[me]
                        return
                job = self._jobs.popleft()
                self._busy[me] = job
            job.run()
            del job  # its result must not live until the next job comes
            with self._lock:
                aside = self._aside.pop(self._busy.pop(me), 0)
                if me in self._abandoned:
                    self._abandoned.discard(me)
                    return
                if aside:
                    self._living += 1
                if self.limit is not None and self._living > self.limit:  # whoever stood aside is back
                    self._living -= 1
                    del self._workers[me]
                    return

    def busy(self, job: Any) -> bool:
        """Whether a worker is still in this call."""
        return any(busy is job for busy in list(self._busy.values()))

    @property
    def abandoned(self) -> int:
        """How many threads were given up and are still in their calls."""
        return len(self._abandoned)

    def abandon(self, job: Any) -> bool:
        """Give up the worker that is still in this call: its place goes to a fresh one, and its thread ends when it can.

        Returns whether it is given up; it is not where it has come back after all, or where `ABANDONED_LIMIT` others are.
        """
        with self._lock:
            ident = next((ident for ident, busy in self._busy.items() if busy is job), None)
            if ident is None:
                return False
            if ident in self._abandoned:
                return True
            if len(self._abandoned) >= ABANDONED_LIMIT:
                return False
            del self._workers[ident]
            self._abandoned.add(ident)
            if job not in self._aside:
                self._living -= 1
            thread = self._needed() if self._jobs else None
        if thread is not None:
            self._start(thread)
        return True

    @contextlib.contextmanager
    def aside(self, job: Any) -> Iterator[None]:
        """In this `with`, a call of this pool waits for others: its place goes to one of them, so that they are not waited for
        in vain. After it the call goes on beside those, so that for a moment there may be more than `max_workers` at work.
        """
        thread = None
        with self._lock:
            mine = self.busy(job)
            if mine:
                waits = self._aside.get(job, 0)
                self._aside[job] = waits + 1
                if not waits and not self._given_up(job):
                    self._living -= 1
                    thread = self._needed() if self._jobs else None
        try:
            if thread is not None:
                self._start(thread)
            yield
        finally:
            with self._lock:
                waits = self._aside.pop(job, 0) - 1 if mine else -1
                if waits > 0:
                    self._aside[job] = waits
                elif not waits and not self._given_up(job):  # else it has ended, and left a thread of its own behind here
                    self._living += 1

    def _given_up(self, job: Any) -> bool:
        return any(busy is job and ident in self._abandoned for ident, busy in self._busy.items())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those queued are still run, or cancelled. `wait` waits for the workers to end."""
        with self._lock:
            self._closed = True
            jobs = list(self._jobs) if cancel_futures else []
            if cancel_futures:
                self._jobs.clear()
            for _ in range(self._idle):
                self._wake()
            workers = list(self._workers.values())
        for job in jobs:
            job.future.cancel()
        if wait:
            for worker in workers:
                if worker is not threading.current_thread():
                    worker.join()


class Alarms:
    """Calls functions at given moments, on one daemon thread that is started by the first alarm.

    What it calls must be short. What that raises is logged, and the other alarms go on. The thread alone knows the alarms that
    are to come; others reach it through a queue, which may be used inside of signal handlers and destructors.
    """

    def __init__(self) -> None:
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Start afresh, as in a forked child: no alarms, no thread."""
        # Re-entrant: a destructor that the garbage collector calls in the middle of the start may set an alarm.
        self._starting = threading.RLock()
        self._started = False
        self._new: "queue.SimpleQueue[Tuple[float, int, Alarm]]" = queue.SimpleQueue()
        self._numbers = itertools.count()

    def call_at(self, moment: float, function: Callable[[], Any]) -> "Alarm":
        """Have `function()` called at a `time.monotonic()` moment; the alarm that is returned takes it back.

        Raises ValueError for NaN: in the heap it would keep every later alarm of the process from being called.
        """
        if moment != moment:
            raise ValueError("an alarm's moment is a number, not nan")
        alarm = Alarm(function)
        self._new.put((moment, next(self._numbers), alarm))
        if not self._started:
            self.start()
        return alarm

    @property
    def inside(self) -> bool:
        """Whether the calling thread is the one that calls."""
        return getattr(_here, "alarms", None) is self

    def start(self) -> None:
        """Start the thread, if it is not running."""
        with self._starting:
            if not self._started:
                self._started = True
                try:
                    threading.Thread(target=self._serve, name="asimov-alarms", daemon=True).start()
                except BaseException:
                    self._started = False
                    raise

    def _serve(self) -> None:
        _here.alarms = self
        coming: List[Tuple[float, int, Alarm]] = []  # a heap
        tidy = 64
        while True:
            wait = None if not coming else min(LONGEST_WAIT, max(0.0, coming[0][0] - time.monotonic()))
            try:
                heapq.heappush(coming, self._new.get(timeout=wait))
            except queue.Empty:
                pass
            if len(coming) > tidy:  # most alarms are taken back long before their time
                coming = [entry for entry in coming if entry[2].function is not None]
                heapq.heapify(coming)
                tidy = 2 * len(coming) + 64
            while coming and coming[0][0] <= time.monotonic():
                self._ring(heapq.heappop(coming)[2])

    def _ring(self, alarm: "Alarm") -> None:
        function, alarm.function = alarm.function, None
        if function is not None:
            try:
                function()
            except BaseException:  # a SystemExit would end this thread, and with it every alarm of the process
                logger.exception("an alarm failed")


class Alarm:
    """A call that is still to come; `cancel()` takes it back."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function: Optional[Callable[[], Any]] = function

    def cancel(self) -> None:
        """Take it back, and let go of what it would have called; harmless when it was called already."""
        self.function = None


alarms = Alarms()
