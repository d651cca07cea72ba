"""Worker threads: daemon threads that start on demand, end when idle, and survive a fork.

`WorkerPool` is a `concurrent.futures.Executor`. It differs from ThreadPoolExecutor in four ways:

- its threads do not delay the end of the process, even if a call hangs;
- it works in a forked child, where the parent's threads do not exist;
- a call runs in a copy of its caller's context, so that a span made there has the right parent;
- its threads end when they are idle.

Terms: a job is one submitted call. A worker is *idle* while it waits for a job and *running* while
it executes one. A running worker is *abandoned* if it was written off as stuck. A job *yields its
slot* while it waits for other jobs. Neither an abandoned worker nor the worker of a job that yields
its slot counts towards `max_workers`.

One lock guards the state. No thread is started while the lock is held: `Thread.start` waits until
the new thread runs, and the garbage collector may call a destructor there that needs the lock.
"""

import collections
import concurrent.futures
import contextlib
import contextvars
import threading
from typing import Any, Callable, Deque, Dict, Iterator, Optional, Set

from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.concurrency.timers import START_HINT
from asimov_sync.errors import ClosedError

__all__ = ["WorkerPool"]

IDLE_SECONDS = 5.0
"""Seconds that a worker waits for a job before its thread ends. An unused pool has no threads."""

ABANDONED_LIMIT = 64
"""Highest number of stuck threads that one pool replaces."""


class _Job:
    """A call, the context to run it in, and its future."""

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


class WorkerPool(concurrent.futures.Executor):
    """Runs calls on daemon threads.

    max_workers: the highest number of calls that run at once; None (the default) for no limit.
    name: the name of the threads; "asimov-worker" by default.

    Threads start on demand and end after `IDLE_SECONDS` without a job. A forked child starts with
    an empty pool: the parent's queued calls do not run there.
    """

    def __init__(self, max_workers: Optional[int] = None, name: str = "asimov-worker") -> None:
        self.limit = max_workers
        self._name = name
        self._closed = False
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Drop all threads and jobs and replace the locks; called in a forked child."""
        # Re-entrant, because the garbage collector may call a destructor that cancels a run, which
        # abandons a worker.
        self._lock = threading.RLock()
        self._wake_up = threading.Condition(self._lock)
        self._queue: Deque[_Job] = collections.deque()
        self._thread_count = 0  # without abandoned workers and those that yielded their slot
        self._idle_count = 0
        self._threads: Dict[int, threading.Thread] = {}  # by thread ident
        self._running: Dict[int, _Job] = {}  # by thread ident
        self._abandoned: Set[int] = set()  # thread idents
        self._yielded: Dict[_Job, int] = {}  # the number of current waits of each job

    @property
    def current_job(self) -> Any:
        """The job that the calling thread executes; None if it is not a worker of this pool."""
        return self._running.get(threading.get_ident())

    @property
    def has_backlog(self) -> bool:
        """True if a job waits for a worker, or if there are more workers than the limit allows."""
        return len(self._queue) > self._idle_count or (
            self.limit is not None and self._thread_count > self.limit
        )

    @property
    def thread_count(self) -> int:
        """Number of workers, without abandoned ones and those that yielded their slot."""
        return self._thread_count

    @property
    def idle_count(self) -> int:
        """Number of workers that wait for a job."""
        return self._idle_count

    @property
    def running_count(self) -> int:
        """Number of jobs that are executed, those of abandoned workers included."""
        return len(self._running)

    @property
    def abandoned(self) -> int:
        """Number of abandoned workers that are still in their jobs."""
        return len(self._abandoned)

    def submit(  # type: ignore[override]
        self, fn: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> "concurrent.futures.Future[Any]":
        """Run `fn(*args, **kwargs)` on a worker, in a copy of the caller's context.

        Returns the Future of the call. Raises ClosedError after `shutdown()`, or if no thread can
        be started and no other worker will run the call.
        """
        job = _Job((lambda: fn(*args, **kwargs)) if args or kwargs else fn)
        with self._lock:
            if self._closed:
                raise ClosedError("this worker pool was closed: make a new scheduler or client")
            self._queue.append(job)
            thread = self._wake_or_spawn()
        if thread is not None:
            self._start(thread, job)
        return job.future

    def _wake_or_spawn(self) -> Optional[threading.Thread]:
        """Wake an idle worker, or return a new thread to start. Requires the lock."""
        if self._idle_count >= len(self._queue):
            self._wake_one()
        elif self.limit is None or self._thread_count < self.limit:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread_count += 1
            return thread
        return None

    def _start(self, thread: threading.Thread, job: Optional[_Job] = None) -> None:
        """Start a thread. The lock must not be held.

        Raises ClosedError if the thread cannot start and no other worker will run the job.
        """
        try:
            thread.start()
        except BaseException as error:
            with self._lock:
                if thread.ident is None:  # otherwise it was Ctrl-C, and the thread does start
                    self._thread_count -= 1
                # Without a limit, the other workers may all wait forever.
                has_others = self.limit is not None and self._threads
                is_lost = (
                    isinstance(error, RuntimeError)
                    and job is not None
                    and job in self._queue
                    and not has_others
                )
                if is_lost:
                    self._queue.remove(job)  # type: ignore[arg-type]
            if is_lost:
                raise ClosedError(
                    f"no worker thread could be started: {error}; {START_HINT}"
                ) from error
            if not isinstance(error, RuntimeError):
                raise

    def _wake_one(self) -> None:
        """Wake an idle worker. Requires the lock."""
        while True:
            try:
                return self._wake_up.notify()
            except RuntimeError:
                # Before Python 3.10.5, Ctrl-C inside `notify` leaves a waiter in its list that was
                # woken already, and every later `notify` fails on it
                # (https://github.com/python/cpython/issues/92530).
                self._wake_up._waiters.popleft()  # type: ignore[attr-defined]

    def _work(self) -> None:
        """Run jobs until none arrives for IDLE_SECONDS or this worker is abandoned."""
        ident = threading.get_ident()
        with self._lock:
            self._threads[ident] = threading.current_thread()
        while True:
            with self._lock:
                while not self._queue:
                    self._idle_count += 1
                    expired = self._closed or not self._wake_up.wait(IDLE_SECONDS)
                    self._idle_count -= 1
                    if expired and not self._queue:
                        self._thread_count -= 1
                        del self._threads[ident]
                        return
                job = self._queue.popleft()
                running = self._running
                running[ident] = job
            job.run()
            del job  # releases its result before the next job arrives
            with self._lock:
                if self._running is not running:
                    return  # the job forked, and this is the child, which has an empty pool
                yielded = self._yielded.pop(self._running.pop(ident), 0)
                if ident in self._abandoned:
                    self._abandoned.discard(ident)
                    return
                if yielded:
                    self._thread_count += 1
                if self.limit is not None and self._thread_count > self.limit:
                    # A job that had yielded its slot has resumed: there is one worker too many.
                    self._thread_count -= 1
                    del self._threads[ident]
                    return

    def is_running(self, job: Any) -> bool:
        """Return True if a worker executes this job."""
        return any(running is job for running in list(self._running.values()))

    def abandon(self, job: Any) -> bool:
        """Write off the worker that executes a job. A new worker takes its slot.

        The thread of the abandoned worker ends after the job.

        job: a value of `current_job`.

        Returns True if the worker is abandoned. Returns False if it has finished the job, or if
        `ABANDONED_LIMIT` workers are abandoned already.
        """
        with self._lock:
            items = self._running.items()
            ident = next((ident for ident, running in items if running is job), None)
            if ident is None:
                return False
            if ident in self._abandoned:
                return True
            if len(self._abandoned) >= ABANDONED_LIMIT:
                return False
            del self._threads[ident]
            self._abandoned.add(ident)
            if job not in self._yielded:
                self._thread_count -= 1
            thread = self._wake_or_spawn() if self._queue else None
        if thread is not None:
            self._start(thread)
        return True

    @contextlib.contextmanager
    def yield_slot(self, job: Any) -> Iterator[None]:
        """Free the slot of a job for a `with` block in which it waits for other jobs of this pool.

        job: a value of `current_job`.

        Without this, a pool whose workers all wait for queued jobs would deadlock. After the block
        the job continues beside the others, so that for a moment more than `max_workers` jobs may
        run.
        """
        thread = None
        with self._lock:
            is_ours = self.is_running(job)
            if is_ours:
                waits = self._yielded.get(job, 0)
                self._yielded[job] = waits + 1
                if not waits and not self._is_abandoned(job):
                    self._thread_count -= 1
                    thread = self._wake_or_spawn() if self._queue else None
        try:
            if thread is not None:
                self._start(thread)
            yield
        finally:
            with self._lock:
                waits = self._yielded.pop(job, 0) - 1 if is_ours else -1
                if waits > 0:
                    self._yielded[job] = waits
                elif not waits and not self._is_abandoned(job):
                    # Otherwise the job has ended while one of its threads was still in this block.
                    self._thread_count += 1

    def _is_abandoned(self, job: Any) -> bool:
        return any(
            running is job and ident in self._abandoned for ident, running in self._running.items()
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        wait: wait until the workers have ended; True by default.
        cancel_futures: cancel the queued calls; False by default: they still run.
        """
        with self._lock:
            self._closed = True
            cancelled = list(self._queue) if cancel_futures else []
            if cancel_futures:
                self._queue.clear()
            for _ in range(self._idle_count):
                self._wake_one()
            threads = list(self._threads.values())
        for job in cancelled:
            job.future.cancel()
        if wait:
            for thread in threads:
                if thread is not threading.current_thread():
                    thread.join()
