"""A run that is going on: the handle that its caller holds, and the iterator of its events."""

import contextvars
import queue
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

from asimov_sync.cancellation import Cancellation, Registration
from asimov_sync.errors import Cancelled, RunTimeout, described
from asimov_sync.graph.building import Hold, release
from asimov_sync.graph.context import TaskContext
from asimov_sync.graph.events import RunFinished, TaskFinished, TaskProgress, TaskSkipped, TaskStarted
from asimov_sync.graph.results import Outcome, RunResult, TaskRecord
from asimov_sync.graph.state import RunState
from asimov_sync.messages import Event, Usage
from asimov_sync.metering import Meter
from asimov_sync.workers import Alarm, alarms

if TYPE_CHECKING:
    from asimov_sync.graph.scheduler import TaskScheduler

__all__ = ["Run", "RunEvents"]

SLICE_SECONDS = 0.2
"""How long a caller waits at a stretch. Where a wait cannot be interrupted (Windows), Ctrl-C is seen this late."""


class Run:
    """A run that is going on. It goes on whether or not anybody waits for it."""

    def __init__(
        self,
        scheduler: "TaskScheduler",
        state: RunState,
        hold: Hold,
        run_id: Optional[str],
        timeout: Optional[float],
        recording: bool,
    ) -> None:
        self.id = run_id if run_id is not None else uuid.uuid4().hex
        self.scheduler = scheduler
        self.state = state
        self._hold = hold
        self.meter = Meter()
        self.cancellation = Cancellation()
        self.context = contextvars.copy_context()
        self.hands = 0  # how many workers are on it
        # Guards state, hands, and everything below. Re-entrant: before Python 3.10 Ctrl-C may strike between the end of a
        # `with` and the release of its lock, and the thread that it struck is the one that goes on to end the run.
        self._lock = threading.RLock()
        self._waiters: "Set[queue.SimpleQueue[None]]" = set()  # of callers that wait for an event or the end
        self._events: Optional[List[Event]] = [] if recording else None
        # What goes on: its context, the worker that may be replaced if it never comes back, and its start.
        self._contexts: Dict[int, Tuple[TaskContext, Optional[int], float]] = {}
        self._exceptions: Dict[int, BaseException] = {}  # in the order in which they came
        self._usages: Dict[int, Tuple[Usage, float]] = {}
        self._start = time.perf_counter()
        self._result: Optional[RunResult] = None
        self._alarms: List[Alarm] = []
        self._timeout = timeout
        self._upward: Optional[Registration] = None

    # For the caller

    def result(self, timeout: Optional[float] = None) -> RunResult:
        """Wait for the end, and return what came of it. RunTimeout after `timeout` seconds; the run itself goes on.

        Any exception that interrupts the wait (Ctrl-C, SystemExit, one raised by a signal handler) cancels the run.
        """
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                self.scheduler.lend_hand(self)
                if self._result is not None:
                    return self._result
                left = SLICE_SECONDS if end is None else min(SLICE_SECONDS, end - time.monotonic())
                if left <= 0:
                    raise RunTimeout("run {} did not end within {} s; it goes on".format(self.id, timeout))
                self._wait(left, lambda: self._result is not None)
        except RunTimeout:
            raise
        except BaseException as interruption:
            self.interrupt(interruption)
            raise

    def events(self) -> "RunEvents":
        """What happens, from the start of the run to its RunFinished. Closing or dropping the iterator early cancels it."""
        if self._events is None:
            raise RuntimeError("scheduler.run() keeps no events: use scheduler.stream(), or submit().events()")
        return RunEvents(self)

    def event(self, number: int) -> Event:
        """Wait for the event of this number."""
        assert self._events is not None
        while number == len(self._events):
            self.scheduler.lend_hand(self, tasks=1)
            self._wait(SLICE_SECONDS, lambda: number < len(self._events or ()))
        return self._events[number]

    def _wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Wait until an event was added or the run is over, unless `over()` says that it was.

        On a queue, because Ctrl-C in the wait of a Condition may leave its lock released, and be lost in the error about that.
        """
        waiter: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        with self._lock:
            if over():
                return
            self._waiters.add(waiter)
        try:
            waiter.get(timeout=seconds)
        except queue.Empty:
            pass
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in list(self._waiters):
            waiter.put(None)

    def interrupt(self, interruption: BaseException) -> None:
        """Cancel because the caller's wait was interrupted; a second interruption, in the middle of that, does not undo it."""
        reason = "interrupted by {}".format(type(interruption).__name__)
        try:
            self.cancel(reason)
        finally:
            self.cancel(reason)

    def cancel(self, reason: str = "cancelled") -> bool:
        """End the run now: what goes on is FAILED with Cancelled, the rest stays WAITING. False if it was over."""
        if self.done():
            return False
        self.cancellation.cancel(reason)
        self._end()  # also where an earlier call was interrupted, and the token calls nobody a second time
        return True

    def drop(self, reason: str) -> None:
        """Cancel from a destructor, which may be called at any moment, on any thread, whatever locks that holds."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks, too
            alarms.call_at(0.0, lambda: self.cancel(reason))
        else:
            self.cancel(reason)

    def done(self) -> bool:
        """Whether it is over."""
        return self._result is not None

    # For the scheduler

    def begin(self) -> None:
        """Listen to the cancellation, and start the clock of the time-out; a graph without tasks is over at once."""
        if self._events is not None:
            alarms.start()  # while it is safe to: `drop` may need them, where no thread can be started
        self._upward = self.cancellation.on_cancel(self._end)
        if self._timeout is not None:
            reason = "the run's time-out of {} s passed".format(self._timeout)
            self._alarms.append(alarms.call_at(time.monotonic() + self._timeout, lambda: self.cancel(reason)))
        if self.cancellation.deadline is not None:  # a surrounding token's; a deadline alone calls nobody
            self._alarms.append(alarms.call_at(self.cancellation.deadline, lambda: self.cancellation.cancelled))
        with self._lock:
            self._finish_if_over()
        self._let_go()

    def take(self) -> Optional[TaskContext]:
        """The next task to execute; without one the calling worker is off this run."""
        with self._lock:
            return self._take(threading.get_ident())

    def _take(self, worker: Optional[int]) -> Optional[TaskContext]:
        place = self.state.take()
        if place is None:
            self.hands -= 1
            return None
        context = TaskContext(self, place)
        self._contexts[place] = (context, worker, time.perf_counter())
        if self._events is not None:
            self._tell(TaskStarted(context.name, self.state.nodes[place].task.model_copy(), time.time()))
        return context

    def settle(self, context: TaskContext, outcome: Outcome, take: bool) -> Optional[TaskContext]:
        """End a task, unless the run did so first; the next one for this worker, if it wants to `take` one."""
        worker = None
        with self._lock:
            place = context.place
            if place in self._contexts and self._contexts[place][0] is context:
                if outcome.exception is not None:
                    self._exceptions[place] = outcome.exception
                worker = self._contexts[place][1]
                skipped = self.state.settle(place, outcome.status, outcome.result, outcome.error)
                self._close(place)
                self._tell_skipped(skipped)
                self._finish_if_over()
            following = self._take(worker) if take else None
            if not take:
                self.hands -= 1
        if self._result is not None:
            self._let_go()
        return following

    def staff(self, limit: int) -> int:
        """How many more workers are to be put on the run, so that every ready task has one, up to `limit` in all."""
        with self._lock:
            more = max(0, min(len(self.state.ready), limit - self.hands))
            self.hands += more
            return more

    def join(self) -> Optional[TaskContext]:
        """The next task for a thread that is no worker of the run yet, but would be one; None if none is ready."""
        with self._lock:
            self.hands += 1
            return self._take(None)  # it waits for the run inside of another task, and is not to be replaced for this one

    def report(self, place: int, fraction: Optional[float], text: str) -> None:
        """Tell the progress of a task that goes on."""
        with self._lock:
            if self._events is not None and place in self._contexts:
                node = self.state.nodes[place]
                self._tell(TaskProgress(node.name, node.task.model_copy(), time.time(), fraction, text))

    # The rest holds the lock, but for _end and _let_go, which take it

    def _close(self, place: int) -> None:
        """Keep what a settled task used, and tell that it is."""
        if place in self._contexts:  # not so where Ctrl-C struck before it was there
            context, _, start = self._contexts.pop(place)
            self._usages[place] = (context.meter.usage, time.perf_counter() - start)
        if self._events is not None:
            self._tell(TaskFinished(self.state.nodes[place].name, self.state.nodes[place].task.model_copy(), time.time()))

    def _tell(self, event: Event) -> None:
        if self._events is not None:
            self._events.append(event)
            self._wake()

    def _tell_skipped(self, places: List[int]) -> None:
        if self._events is not None:
            for place in places:
                node = self.state.nodes[place]
                self._tell(TaskSkipped(node.name, node.task.model_copy(), time.time(), self.state.skipped[place]))

    def _end(self) -> None:
        """The run was cancelled: settle all that goes on, and give up the workers that are still in it."""
        reason = self.cancellation.reason or "cancelled"
        with self._lock:
            if self._result is not None:
                return
            cancelled = Cancelled(reason)
            failed, skipped = self.state.end("the run ended early: {}".format(reason), described(cancelled))
            stuck = [entry[1] for entry in self._contexts.values() if entry[1] is not None]
            for place in failed:
                self._exceptions.setdefault(place, cancelled)
                self._close(place)
            self._tell_skipped(skipped)
            self._finish_if_over()
        self._let_go()
        for ident in stuck:
            self.scheduler.abandon(ident)

    def _finish_if_over(self) -> None:
        if self._result is not None or not self.state.over:
            return
        nothing = (Usage(), None)
        records = []
        for place, node in enumerate(self.state.nodes):
            usage, seconds = self._usages.get(place, nothing)
            records.append(
                TaskRecord(
                    node.name,
                    node.task,
                    node.task.snapshot(),
                    self._exceptions.get(place),
                    self.state.skipped.get(place),
                    usage,
                    seconds,
                )
            )
        result = RunResult(
            records,
            self.state.status,
            self.id,
            self.meter.usage,
            time.perf_counter() - self._start,
            next(iter(self._exceptions.values()), None),
        )
        # Whoever is interrupted here does it once more, so the run is not over before the last of it is done.
        self.scheduler.finished(self, result)
        release(self.state.nodes, self._hold)
        self._tell(RunFinished(result, time.time()))
        self._result = result
        self._wake()

    def _let_go(self) -> None:
        """After the end: nothing that outlives the run may still hold it."""
        if self._result is not None:
            if self._upward is not None:
                self._upward.remove()
            for alarm in self._alarms:
                alarm.cancel()

    def __repr__(self) -> str:
        return "<Run {}: {}>".format(self.id, self.state.status.name)


class RunEvents(Iterator[Event]):
    """The events of a run; `close()`, or the loss of the last reference before the end, cancels it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told = 0
        self._ended = False

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        try:
            event = self._run.event(self._told)
        except BaseException as interruption:
            self._ended = True
            self._run.interrupt(interruption)
            raise
        self._told += 1
        self._ended = isinstance(event, RunFinished)
        return event

    def close(self) -> None:
        """Cancel the run, if it is not over; harmless after the end."""
        if not self._ended:
            self._ended = True
            self._run.cancel(_UNREAD)

    def __enter__(self) -> "RunEvents":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._ended:
            self._run.drop(_UNREAD)


_UNREAD = "its events were not read to the end"
