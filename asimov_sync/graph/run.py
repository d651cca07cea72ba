"""Run and RunEvents: the handle of a run in progress, and the iterator over its events."""

import contextlib
import sys
from typing import Any, Callable, Iterator, Optional

from asimov_sync._drawing import draw_progress
from asimov_sync.cancellation import Cancellation, require_number
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.tracebacks import shorten_traceback
from asimov_sync.errors import CacheError, Cancelled, GraphError, LeaseLost, RunTimeout
from asimov_sync.graph.active_run import ActiveRun
from asimov_sync.graph.backends import yield_worker_slots
from asimov_sync.graph.events import RunFinished
from asimov_sync.graph.publisher import Inbox
from asimov_sync.graph.results import RunResult
from asimov_sync.messages import Event

__all__ = ["Run", "RunEvents", "require_stack"]

POLL_SECONDS = 0.2
"""The longest uninterrupted wait. Where waits cannot be interrupted (Windows), Ctrl-C is delayed by
this much.
"""

STACK_HEADROOM = 50
"""The calls that a run may nest on the thread that starts it or waits for it: 25, with room for
hooks and for the handlers of logging.
"""

LAST_RESULT = "scheduler.last_result has what was finished"

_UNREAD = "its events were not read to the end"


def require_stack(frames: int = STACK_HEADROOM) -> None:
    """Raise RecursionError if the calling thread cannot nest this many calls.

    In the middle of a step, the error would leave a run that neither continues nor ends.
    """
    if frames:
        require_stack(frames - 1)


class Run:
    """A run in progress. It continues whether or not a thread waits for it.

    hint: where the results of an interrupted run are, for the last line of its progress.
    """

    def __init__(self, active_run: ActiveRun, hint: str = LAST_RESULT) -> None:
        self._active_run = active_run
        self._hint = hint

    @property
    def id(self) -> str:
        """The id of the run."""
        return self._active_run.id

    def result(
        self, timeout: Optional[float] = None, *, cancellation: Optional[Cancellation] = None
    ) -> RunResult:
        """Wait for the end of the run and return its result.

        Callbacks have received all events by then.

        timeout: the seconds to wait; by default unlimited.
        cancellation: a token that ends the wait; by default the current one.

        Raises RunTimeout after `timeout` seconds and Cancelled if the wait is cancelled; the run
        continues. Raises GraphError if the wait could not end: in a blocking callback of the run,
        and in a forked child. Any other exception that interrupts the wait (Ctrl-C, SystemExit, or
        one raised by a signal handler) cancels the run and is raised again. It interrupts a durable
        run, which the next `run` continues. For a durable run also raises LeaseLost if another
        driver has taken it over, and a CacheError if it cannot be stored any more.
        """
        require_number("timeout=", timeout)
        require_stack()
        run = self._active_run
        end = None if timeout is None else clock.monotonic() + timeout
        try:
            with self._waiting(cancellation) as token:
                while True:
                    self._check_can_wait(token)
                    run.help()
                    if run.delivered:
                        if run.failure is not None:
                            raise run.failure
                        assert run.result is not None
                        return run.result
                    left = POLL_SECONDS
                    if end is not None:
                        left = min(left, end - clock.monotonic())
                    if left <= 0:
                        raise RunTimeout(
                            f"run {self.id} did not end within {timeout} s; it continues"
                        )
                    if run.result is not None:
                        run.flush()  # Ctrl-C may have prevented it
                    run.bus.wait(left, lambda: run.delivered)
        except (RunTimeout, GraphError, Cancelled):  # these do not cancel the run
            raise
        except (LeaseLost, CacheError):  # the run has ended because of it
            raise
        except BaseException as interruption:
            shorten_traceback(interruption)
            run.interrupt(interruption)
            raise

    def progress(
        self, timeout: Optional[float] = None, *, cancellation: Optional[Cancellation] = None
    ) -> RunResult:
        """Wait for the end of the run like `result`, and draw its progress meanwhile.

        In a notebook it is a bar in the output of the cell. On a terminal it is a bar on stderr if
        tqdm is installed (the extra `progress`), otherwise lines. Elsewhere, and inside a task,
        nothing is drawn. A last line says what was finished, and where it is.

        The arguments, the result and the exceptions are those of `result`.
        """
        if scope.current().task_context is not None:
            return self.result(timeout, cancellation=cancellation)
        with draw_progress(self._active_run.snapshot, self._hint) as progress:
            result = self.result(timeout, cancellation=cancellation)
            progress.result = result
            return result

    @contextlib.contextmanager
    def _waiting(self, cancellation: Optional[Cancellation] = None) -> Iterator[Cancellation]:
        """Give up the caller's worker slots for a wait, which a cancellation wakes."""
        token = cancellation or Cancellation.current()
        with yield_worker_slots(), token.on_cancel(self._active_run.bus.wake):
            yield token

    def events(self) -> "RunEvents":
        """Iterate over the events of the run, to its RunFinished.

        Any number of iterators may be open, and each may be left at any time, which does not affect
        the run. An iterator that is opened later than the start of the run first yields the present
        state: RunStarted, then, for each task that has started or will not run, the last
        TaskStarted, TaskRetried, TaskParked, TaskFinished or TaskSkipped. An exception that
        interrupts the wait for an event, such as Ctrl-C, cancels the run, as in `result`.

        Raises RuntimeError for a run that was started by `scheduler.run()`, GraphError in a forked
        child.
        """
        publisher = self._active_run.publisher
        if not publisher.keeps_state:
            raise RuntimeError(
                "scheduler.run() keeps no events: use scheduler.stream(), or submit().events()"
            )
        self._check_not_forked()
        return RunEvents(self, publisher.open_inbox(), owns_run=False)

    def _next_event(self, inbox: Inbox, is_closed: Callable[[], bool]) -> Optional[Event]:
        """Wait for the next event; None if its iterator is closed meanwhile."""
        run = self._active_run
        if not inbox:
            with self._waiting() as token:
                while not inbox:
                    if is_closed():
                        return None
                    self._check_can_wait(token)
                    run.help(max_tasks=1)
                    run.bus.wait(POLL_SECONDS, lambda: bool(inbox), for_event=True)
        if run.inline:
            run.bus.pump_here()  # so that callbacks receive the events before the reader
        try:
            event = inbox.take()
        except IndexError:  # another thread has closed it
            return None
        while isinstance(event, RunFinished) and run.ending_spans:
            run.flush()
            run.bus.wait(POLL_SECONDS, lambda: not run.ending_spans)
        return event

    def _check_can_wait(self, token: Cancellation) -> None:
        run = self._active_run
        if self.done():
            return
        if token.cancelled and not run.enclosing.cancelled:
            token.raise_if_cancelled()  # otherwise the run itself ends, and has a result
        self._check_not_forked()
        if run.bus.in_blocking_callback:
            raise GraphError(
                f"run {self.id} waits for this callback, which cannot wait for its end: add it "
                "without blocking=True (with max_workers=0 all callbacks are blocking)"
            )

    def _check_not_forked(self) -> None:
        if self._active_run.in_forked_child:
            raise GraphError(f"run {self.id} is in the process that this one was forked from")

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel the run: running tasks fail with Cancelled, the others stay WAITING.

        Tasks with `always=True` still run, and the run ends when they have ended; without any, it
        ends now. Returns False if the run was over.
        """
        return self._active_run.cancel(self._active_run.keep_text(reason))

    def done(self) -> bool:
        """Return whether the run is over."""
        return self._active_run.result is not None

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self._active_run.engine.state.status.name}>"


class RunEvents(Iterator[Event]):
    """The events of a run.

    If it owns the run, as the iterator of `scheduler.stream()` does, then `close()` before the end
    cancels the run, and so does the loss of the last reference. Otherwise it only reads.

    inbox: receives the events.
    owns_run: whether the end of the iteration ends the run.
    """

    def __init__(self, run: Run, inbox: Inbox, owns_run: bool) -> None:
        self._run = run
        self._inbox = inbox
        self._owns_run = owns_run
        self._ended = False
        self._finished = False

    def __next__(self) -> Event:
        if self._ended:
            failure = self._run._active_run.failure
            if failure is not None and self._finished:
                self._finished = False
                raise failure
            raise StopIteration
        if not self._inbox:
            require_stack()
        try:
            event = self._run._next_event(self._inbox, self._is_closed)
        except BaseException as interruption:
            self._end()
            # A wait that is refused or cancelled does not affect the run.
            if self._owns_run or not isinstance(interruption, (GraphError, Cancelled)):
                self._run._active_run.interrupt(interruption)
            shorten_traceback(interruption)
            raise
        if event is None:
            raise StopIteration
        if isinstance(event, RunFinished):
            self._finished = True
            self._end()
        return event

    def _end(self) -> None:
        self._ended = True
        self._inbox.close()

    def _is_closed(self) -> bool:
        return self._ended

    def mark_closing(self) -> None:
        """Announce that the iterator is about to be closed, without waiting and without a lock.

        If it owns the run, the next run of the graph waits for the end of this run.
        """
        if not self._owns_run:
            self._ended = True
        elif not self._ended:
            self._run._active_run.mark_closing()

    def close(self) -> None:
        """End the iteration, and cancel the run if it is this iterator's and is not over.

        Does nothing after the end.
        """
        if not self._ended:
            self._end()
            if self._owns_run:
                self._run._active_run.close_from_finalizer(_UNREAD, wait=True)

    def __enter__(self) -> "RunEvents":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __del__(self) -> None:
        self._inbox.close()
        # At exit, the modules that would end the run are gone.
        if self._owns_run and not self._ended and not sys.is_finalizing():
            self._run._active_run.close_from_finalizer(_UNREAD)
