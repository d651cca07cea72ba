"""Backends: on which threads the handlers of a scheduler are called.

A backend serves many runs. It asks a run (its Work) for an attempt, has the run call the handler,
gives the outcome back, and so gets the worker's next attempt. It knows nothing else about runs.

Also here: which worker slots the current context occupies. If every worker waited for a run inside
its task, none would be left to work; so a thread that waits for a run gives up the slots that
its context occupies until the wait is over.
"""

import contextlib
import sys
import threading
from concurrent.futures import Executor, Future
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple, Union

from asimov_sync._json import format_error
from asimov_sync.cache.address import CacheAddress
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import ClosedError, GraphError
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.envelope import CallEvent
from asimov_sync.graph.results import Outcome

__all__ = [
    "Backend",
    "ExecutorBackend",
    "InlineBackend",
    "ThreadBackend",
    "Work",
    "interrupt_work",
    "on_main_thread",
    "yield_worker_slots",
]

logger = get_logger("asimov_sync.graph")

REPLACE_AFTER = 0.02
"""Seconds from the cancellation of a handler to the replacement of its worker. Most handlers
return at once.
"""

WARN_AFTER = 1.0
"""Seconds from the cancellation of a handler to the warning that it ignores it."""


# Worker slots


@contextlib.contextmanager
def yield_worker_slots() -> Iterator[None]:
    """Give up the worker slots that the current context occupies, for the length of the block."""
    with contextlib.ExitStack() as stack:
        for threads, job in scope.current().worker_slots:
            if job is not None:
                stack.enter_context(threads.yield_slot(job))
        yield


# The interface


class Work:
    """One run, as a backend sees it: a source of attempts.

    id: the id of the run.
    """

    id: str

    def needs_workers(self) -> bool:
        """Return whether the run could use more workers. Cheap; call it after each step."""
        raise NotImplementedError

    def reserve_workers(self, limit: int) -> int:
        """Return how many workers to start now, at most `limit`. Each must call next_attempt."""
        raise NotImplementedError

    def next_attempt(self, worker: Any) -> Optional[Attempt]:
        """Return the first attempt for a worker that was reserved, or None."""
        raise NotImplementedError

    def next_attempt_for_helper(self) -> Optional[Attempt]:
        """Return an attempt for a thread that waits for the run, or None."""
        raise NotImplementedError

    def call_handler(self, attempt: Attempt) -> Optional[Outcome]:
        """Call the handler of an attempt; None if it was not called."""
        raise NotImplementedError

    def finish_attempt(
        self, attempt: Attempt, outcome: Optional[Outcome], take_next: bool
    ) -> Optional[Attempt]:
        """End an attempt, and return the worker's next one if `take_next`."""
        raise NotImplementedError

    def end(self, reason: str) -> None:
        """End the run: no worker can be started."""
        raise NotImplementedError

    # For handlers in other processes

    def prepare_call(
        self, attempt: Attempt, call: str, channel: Optional[CacheAddress]
    ) -> Union[None, Outcome, Tuple[bytes, bytes]]:
        """Return what another process needs to call the handler of an attempt.

        call, channel: the id of the call, and the address of the cache through which it reaches
            this process meanwhile; None without.

        Returns None if the handler is not called, or the outcome if it cannot be called.
        """
        raise NotImplementedError

    def replay(self, attempt: Attempt, events: Sequence[CallEvent]) -> None:
        """Publish the progress and the text of a call that is in progress."""
        raise NotImplementedError

    def answer_request(self, attempt: Attempt, do: str, args: Sequence[Any]) -> Any:
        """Do for a call in another process what needs the journal of the run."""
        raise NotImplementedError

    @property
    def is_durable(self) -> bool:
        """Return whether calls may need the journal of the run."""
        raise NotImplementedError

    def receive_report(self, attempt: Attempt, pickled: bytes, replayed: int) -> Optional[Outcome]:
        """Return the outcome of an attempt from the report of the process that called its handler.

        replayed: how many events of the call were published before.

        None if the attempt does not count any more.
        """
        raise NotImplementedError

    def fail_call(self, attempt: Attempt, error: BaseException, final: bool) -> Outcome:
        """Return the outcome of an attempt whose call was lost.

        final: whether another attempt would not help.
        """
        raise NotImplementedError

    def interrupt(self, interruption: BaseException) -> None:
        """End the run: a step of it raised."""
        raise NotImplementedError


def interrupt_work(work: Work, error: BaseException) -> None:
    """End a run of which a step has raised, and log the error. Called where it was caught."""
    logger.exception("run %s cannot continue", work.id, extra={"run_id": work.id})
    work.interrupt(error)


class Backend:
    """Calls the handlers of a scheduler's runs.

    inline: whether they are called on the thread that waits for the run.
    remote: whether they are called in other processes.
    by_value: whether functions of the main program travel there as code.
    worker_limit: the most workers that the backend allows one run.
    threads: identifies the pool or executor that calls handlers, for the slots of a context.
    """

    inline = False
    remote = False
    by_value = False

    def __init__(self, worker_limit: int) -> None:
        self.worker_limit = worker_limit
        self.threads: Any = self
        self._callback_pool = WorkerPool(None, name="asimov-events")

    def start_workers(self, work: Work) -> None:
        """Start the workers that a run needs. Raises what the executor raises."""

    def ensure_workers(self, work: Work) -> None:
        """Start the workers that a run needs; end the run if none can be started.

        Does not raise: the caller may be a handler or a timer, whose exception would end no run.
        """
        try:
            self.start_workers(work)
        except Exception as error:
            work.end(f"no worker can be started: {format_error(error)}")

    def help_run(self, work: Work, max_tasks: int = sys.maxsize) -> None:
        """Run ready tasks on a thread before it waits for the run, if no worker may do it.

        max_tasks: the number of tasks after which to return.
        """

    def _help(self, work: Work, max_tasks: int) -> None:
        for _ in range(max_tasks):
            attempt = work.next_attempt_for_helper()
            if attempt is None:
                break
            work.finish_attempt(attempt, work.call_handler(attempt), False)
            self.ensure_workers(work)

    def occupies_slot(self) -> bool:
        """Return whether the current context is in a task of this backend."""
        return any(threads is self.threads for threads, _ in scope.current().worker_slots)

    def occupy_slot(self, job: Any) -> None:
        """Mark the current context as being in a task, for the rest of its life.

        job: the pool's job in which the task runs; None if it occupies no slot of a pool.
        """
        scope.extend(worker_slot=(self.threads, job))

    def current_job(self) -> Any:
        """Return the pool's job in which the calling thread is; None on other threads."""
        return None

    def replace_worker(self, attempt: Attempt) -> None:
        """Replace the worker of an abandoned attempt, unless it returns soon."""

    @property
    def stuck_threads(self) -> int:
        """The number of threads that were replaced and have not returned."""
        return 0

    def call_in_background(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function that may block on a thread that is not a worker."""
        try:
            self._callback_pool.submit(function, *args)
        except ClosedError:
            function(*args)  # the last events of a scheduler that was just closed

    def close(self) -> None:
        """Accept no more calls. Never waits."""
        self._callback_pool.shutdown(wait=False)


# Backends of this process


class ThreadBackend(Backend):
    """Calls handlers on a pool of threads of its own. max_workers: the size of the pool."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._pool = self.threads = WorkerPool(max_workers, name="asimov-task")

    def start_workers(self, work: Work) -> None:
        """Start one worker, if the run needs any."""
        # One worker here; each worker starts the next one while tasks are ready, because a worker
        # that made many tasks ready has a task of its own to run.
        if work.needs_workers():
            for _ in range(work.reserve_workers(1)):
                self._pool.submit(self._worker_loop, work)

    def _worker_loop(self, work: Work) -> None:
        """Run one ready task after the other, until none is ready.

        It returns earlier if other runs wait for a worker, and is then queued again behind them.
        """
        pool = self._pool
        try:
            attempt = work.next_attempt(pool.current_job)
            if work.needs_workers():
                self.ensure_workers(work)
            while attempt is not None:
                outcome = work.call_handler(attempt)
                attempt = work.finish_attempt(attempt, outcome, not pool.has_backlog)
                if work.needs_workers():
                    self.ensure_workers(work)
        except BaseException as error:  # a bug in the scheduler: those of handlers are caught
            interrupt_work(work, error)
            raise

    def current_job(self) -> Any:
        """Return the pool's job in which the calling thread is."""
        return self._pool.current_job

    def replace_worker(self, attempt: Attempt) -> None:
        """Replace the worker of an abandoned attempt, unless it returns soon."""
        # On another thread, since this one may be in a destructor, which must not wait for a lock.
        if attempt.worker is not None:
            now = clock.monotonic()
            timers.call_at(now + REPLACE_AFTER, lambda: self._pool.abandon(attempt.worker))
            timers.call_at(now + WARN_AFTER, lambda: self._warn_if_stuck(attempt))

    def _warn_if_stuck(self, attempt: Attempt) -> None:
        # Try the replacement again: by now, fewer threads than the limit may be stuck.
        replaced = self._pool.abandon(attempt.worker)
        if self._pool.is_running(attempt.worker):
            logger.warning(
                "the handler of task %r (run %s) ignores its cancellation; "
                + (
                    "another thread replaces its thread (stuck threads now: %d)"
                    if replaced
                    else "its thread is not replaced (stuck threads now: %d, the limit)"
                ),
                attempt.name,
                attempt.run_id,
                self._pool.abandoned,
                extra={
                    "run_id": attempt.run_id,
                    "task": attempt.name,
                    "attempt": attempt.number,
                },
            )

    @property
    def stuck_threads(self) -> int:
        """The number of threads that were replaced and have not returned."""
        return self._pool.abandoned

    def close(self) -> None:
        """Accept no more calls. Never waits."""
        self._pool.shutdown(wait=False)
        super().close()

    def __repr__(self) -> str:
        return f"{self.worker_limit} workers"


class InlineBackend(Backend):
    """Calls handlers on the thread that waits for the run."""

    inline = True

    def __init__(self) -> None:
        super().__init__(0)

    def help_run(self, work: Work, max_tasks: int = sys.maxsize) -> None:
        """Run ready tasks on the calling thread."""
        self._help(work, max_tasks)

    def __repr__(self) -> str:
        return "0 workers"


class ExecutorBackend(Backend):
    """Calls handlers on an executor that was given, whose size limits how many run at once.

    executor: an executor whose calls run in this process.
    owned: whether to shut it down at the end; default False.
    """

    def __init__(self, executor: Executor, owned: bool = False) -> None:
        super().__init__(sys.maxsize)
        self._executor = self.threads = executor
        self._owned = owned
        self._local = threading.local()  # the run for which the thread is submitting calls

    def start_workers(self, work: Work) -> None:
        """Submit one call for each ready task."""
        if not work.needs_workers():
            return
        # An executor may make the call inside submit(). Tasks that are ready after that call are
        # submitted by this loop, and not recursively.
        outer = getattr(self._local, "submitting", None)
        if outer is work:
            return
        self._local.submitting = work
        try:
            while work.needs_workers():
                for _ in range(work.reserve_workers(sys.maxsize)):
                    future = self._executor.submit(self._run_one, work)
                    future.add_done_callback(lambda future: _check_call(future, work))
        finally:
            self._local.submitting = outer

    def _run_one(self, work: Work) -> None:
        """Run one task, so that other users of the executor have their turn."""
        attempt = work.next_attempt(None)
        if attempt is not None:
            work.finish_attempt(attempt, work.call_handler(attempt), False)
        self.ensure_workers(work)

    def help_run(self, work: Work, max_tasks: int = sys.maxsize) -> None:
        """Run ready tasks if the caller is in a task on the executor, which may be full."""
        if self.occupies_slot():
            self._help(work, max_tasks)

    def close(self) -> None:
        """Accept no more calls. Never waits."""
        if self._owned:
            self._executor.shutdown(wait=False)
        super().close()

    def __repr__(self) -> str:
        return repr(self._executor)


def _check_call(future: "Future[Any]", work: Work) -> None:
    """End a run if the executor did not make a call."""
    error = "it was cancelled" if future.cancelled() else None
    if error is None and future.exception() is not None:
        error = (
            f"{format_error(future.exception() or GraphError())} (an executor whose calls run in "
            "other processes needs remote=True)"
        )
    if error is not None:
        work.end(f"the executor did not make a call: {error}")
    if not future.cancelled() and on_main_thread():
        if not isinstance(future.exception(), (Exception, type(None))):
            future.result()  # Ctrl-C, in an executor that makes the call inside submit()


def on_main_thread() -> bool:
    """Return whether this is the main thread, on which Ctrl-C is raised."""
    return threading.current_thread() is threading.main_thread()
