"""RemoteBackend: calls handlers on an executor whose calls run in other processes.

A call is sent as one argument, and its report comes back as the result of a Future. The callback of
a Future may run on a thread that must not be held up: the loop of dask's client, or the thread that
feeds a pool of processes. So the callback only enqueues, and a thread of the backend continues.
"""

import collections
import contextlib
import sys
import uuid
from concurrent.futures import BrokenExecutor
from typing import Any, Callable, Dict, Optional, Set

from asimov_sync._json import format_error
from asimov_sync.cache.base import Cache
from asimov_sync.cache.opening import find_address
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.fork import ForkSafeLock, reset_after_fork
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import ClosedError, WorkerLost
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.backends import WARN_AFTER, Backend, Work, interrupt_work
from asimov_sync.graph.executor_source import ExecutorSource, count_workers, sends_code
from asimov_sync.graph.remote_call import run_call
from asimov_sync.graph.remote_channel import RunChannel
from asimov_sync.graph.results import Outcome

__all__ = ["RemoteBackend"]

logger = get_logger("asimov_sync.graph")

MAX_REPLACEMENTS = 3
"""The number of executors to try for one call, if each of them breaks before it takes the call."""


MAX_CALLS = 10_000
"""The most calls that are handed over at once to an executor whose number of workers is unknown."""


class RemoteBackend(Backend):
    """Calls handlers on an executor of processes.

    The backend hands over as many calls at once as the executor has workers, so that the time-out
    of a task does not count the time for which it would be queued.

    source: the executor.
    open_cache: returns the cache of the scheduler. If other processes can open it, calls reach this
        process while they run.
    """

    remote = True

    def __init__(self, source: ExecutorSource, open_cache: Callable[[], Cache]) -> None:
        super().__init__(sys.maxsize)
        self._source = source
        self._closed = False
        self.by_value = sends_code(source.open())
        self._channel: Optional[RunChannel] = None
        cache = open_cache()
        if find_address(cache) is not None:
            self._channel = RunChannel(cache, self.call_in_background)
        self._threads = WorkerPool(None, name="asimov-remote")
        self._guard = ForkSafeLock()  # guards everything below
        self._capacity = count_workers(source.open()) or MAX_CALLS
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget the calls of the parent process; called in a forked child."""
        self._waiting: "collections.OrderedDict[int, Work]" = collections.OrderedDict()
        self._futures: Dict[int, Any] = {}  # by the id of their attempt
        self._calls: Dict[int, str] = {}  # the ids of the calls, likewise
        self._stuck: Set[int] = set()  # likewise, of calls whose attempts were abandoned
        self._in_flight = 0

    def start_workers(self, work: Work) -> None:
        """Have the ready tasks of a run sent."""
        if work.needs_workers():
            self._enqueue(work)
            self._threads.submit(self._dispatch)

    def _enqueue(self, work: Work) -> None:
        if work.needs_workers():
            with self._guard.lock:
                self._waiting[id(work)] = work

    def _dispatch(self) -> None:
        """Send ready tasks while the executor has free workers, one of each run in turn."""
        while True:
            with self._guard.lock:
                full = self._in_flight >= self._capacity
                if full or not self._waiting:
                    return
                _, work = self._waiting.popitem(last=False)
                self._in_flight += 1
            try:
                sent = self._send_next(work)
            except BaseException as error:  # a bug in the scheduler: those of handlers are caught
                self._release_slot()
                interrupt_work(work, error)
                continue
            if not sent:
                self._release_slot()
            self._enqueue(work)

    def _release_slot(self) -> None:
        with self._guard.lock:
            self._in_flight -= 1

    def _send_next(self, work: Work) -> bool:
        """Send the next ready task of a run. Return whether its call keeps the slot."""
        attempt = work.next_attempt(None) if work.reserve_workers(1) else None
        if attempt is None:
            return False
        if attempt.node.when is not None:  # which may take its time
            self._threads.submit(self._send_guarded, work, attempt)
            return True
        return self._send(work, attempt)

    def _send_guarded(self, work: Work, attempt: Attempt) -> None:
        sent = False
        try:
            sent = self._send(work, attempt)
            self._enqueue(work)
        except BaseException as error:  # as in `_dispatch`
            interrupt_work(work, error)
            raise
        finally:
            if not sent:
                self._release_slot()
            self._dispatch()

    def _send(self, work: Work, attempt: Attempt) -> bool:
        """Send an attempt, or end it. Return whether it was sent."""
        channel, id_of_call = self._channel, ""
        if channel is not None:
            id_of_call = uuid.uuid4().hex
        address = None if channel is None else channel.address
        call = work.prepare_call(attempt, id_of_call, address)
        if call is None or isinstance(call, Outcome):
            work.finish_attempt(attempt, call, False)
            return False
        for _ in range(MAX_REPLACEMENTS):
            executor: Any = None
            try:
                executor = self._source.open()
                future = executor.submit(run_call, call)
            except Exception as error:  # it broke, or was shut down
                failure = error
                if executor is None or not self._source.replace(executor):
                    break
            else:
                with self._guard.lock:
                    self._futures[id(attempt)] = future
                if channel is not None:
                    self._open_channel(channel, id_of_call, work, attempt)
                future.add_done_callback(
                    lambda future: self._on_done(work, attempt, executor, future)
                )
                if attempt.abandoned is not None:  # meanwhile
                    self._cancel(attempt)
                return True
        refusal = work.fail_call(attempt, self._describe(failure), True)
        work.finish_attempt(attempt, refusal, False)
        return False

    def _open_channel(self, channel: RunChannel, call: str, work: Work, attempt: Attempt) -> None:
        with self._guard.lock:
            self._calls[id(attempt)] = call
        channel.open(
            call,
            lambda events: work.replay(attempt, events),
            (lambda do, args: work.answer_request(attempt, do, args)) if work.is_durable else None,
        )

    def _describe(self, error: Exception) -> WorkerLost:
        """Return the error of a task that cannot be sent to the executor."""
        hint = "make a new scheduler"
        if self._source.is_given:
            hint = (
                "this executor was given; with a function that makes one, as in "
                "executor=lambda: ProcessPoolExecutor(4), the run continues on a new executor"
            )
        lost = WorkerLost(f"the executor accepts no more calls ({format_error(error)}): {hint}")
        lost.__cause__ = error
        return lost

    def _on_done(self, work: Work, attempt: Attempt, executor: Any, future: Any) -> None:
        """Continue on a thread of the backend. Called on a thread of the executor."""
        with contextlib.suppress(ClosedError):  # then the run is over
            self._threads.submit(self._complete, work, attempt, executor, future)

    def _complete(self, work: Work, attempt: Attempt, executor: Any, future: Any) -> None:
        with self._guard.lock:
            self._futures.pop(id(attempt), None)
            self._stuck.discard(id(attempt))
            call = self._calls.pop(id(attempt), None)
            self._in_flight -= 1
        try:
            replayed = 0
            if call is not None and self._channel is not None:
                replayed = self._channel.close(call)
            outcome = self._read(work, attempt, executor, future, replayed)
            work.finish_attempt(attempt, outcome, False)
            self._enqueue(work)
        except BaseException as error:  # as in `_dispatch`
            interrupt_work(work, error)
            raise
        finally:
            self._dispatch()

    def _read(
        self, work: Work, attempt: Attempt, executor: Any, future: Any, replayed: int
    ) -> Optional[Outcome]:
        """Return the outcome of a call that has ended."""
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            return work.receive_report(attempt, future.result(), replayed)
        if isinstance(error, KeyboardInterrupt):
            work.end("Ctrl-C has interrupted a process of the executor")
        elif isinstance(error, BrokenExecutor):
            self._source.replace(executor)
        if attempt.abandoned is not None:
            return None
        reason = "it was cancelled" if error is None else format_error(error)
        lost = WorkerLost(
            f"the process that executed {attempt.name!r} was lost before the handler returned "
            f"({reason})"
        )
        lost.__cause__ = error
        return work.fail_call(attempt, lost, False)

    # Cancellation

    def replace_worker(self, attempt: Attempt) -> None:
        """Cancel the call of an abandoned attempt, as far as that is possible."""
        # On another thread, since this one may be in a destructor, which must not wait for a lock.
        now = clock.monotonic()
        timers.call_at(now, lambda: self.call_in_background(self._cancel, attempt))
        timers.call_at(now + WARN_AFTER, lambda: self._warn_if_stuck(attempt))

    def _cancel(self, attempt: Attempt) -> None:
        with self._guard.lock:
            future, call = self._futures.get(id(attempt)), self._calls.get(id(attempt))
        if future is not None:
            future.cancel()
        if call is not None and self._channel is not None:
            self._channel.cancel(call, attempt.cancellation.reason or "cancelled")

    def _warn_if_stuck(self, attempt: Attempt) -> None:
        with self._guard.lock:
            future = self._futures.get(id(attempt))
            if future is None or future.done():
                return
            self._stuck.add(id(attempt))
        logger.warning(
            "the handler of task %r (run %s) still runs in its process after its cancellation",
            attempt.name,
            attempt.run_id,
            extra={"run_id": attempt.run_id, "task": attempt.name, "attempt": attempt.number},
        )
        self.call_in_background(self._kill_if_stuck)

    def _kill_if_stuck(self) -> None:
        """Kill the processes if all of them are stuck, so that runs can continue on new ones."""
        with self._guard.lock:
            running = {key for key, future in self._futures.items() if not future.done()}
            full = len(running) >= self._capacity
            kills = bool(running) and running <= self._stuck and (full or self._closed)
        if kills:
            self._source.kill()

    def close(self) -> None:
        """Accept no more calls. Never waits.

        The processes of stuck handlers are killed a moment later, so that the program can end.
        """
        self._closed = True
        self._threads.shutdown(wait=False)
        self._source.close()
        super().close()
        if self._stuck:
            timers.call_at(clock.monotonic() + WARN_AFTER, self._kill_if_stuck)

    def __repr__(self) -> str:
        return repr(self._source)
