"""A run that is going on: the handle that its caller holds, and the iterator of its events."""

import contextlib
import sys
import time
from typing import Any, Iterator, Optional

from asimov_sync.cancellation import Cancellation, require_number
from asimov_sync.errors import Cancelled, GraphError, RunTimeout
from asimov_sync.graph.driver import Driver
from asimov_sync.graph.events import RunFinished
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.standing import aside
from asimov_sync.messages import Event

__all__ = ["Run", "RunEvents"]

SLICE_SECONDS = 0.2
"""How long a caller waits at a stretch. Where a wait cannot be interrupted (Windows), Ctrl-C is seen this late."""


class Run:
    """A run that is going on. It goes on whether or not anybody waits for it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @property
    def id(self) -> str:
        """The id of the run."""
        return self._driver.id

    def result(self, timeout: Optional[float] = None, cancellation: Optional[Cancellation] = None) -> RunResult:
        """Wait for the end, and return what came of it. RunTimeout after `timeout` seconds, and Cancelled where the wait is
        cancelled; the run itself goes on then. GraphError where the run would never end: in a blocking callback of its own,
        and in a forked child.

        Callbacks have had all events by then. cancellation: what ends the wait, the current token where not given. Any other
        exception that interrupts it (Ctrl-C, SystemExit, one raised by a signal handler) cancels the run.
        """
        require_number("timeout=", timeout)
        driver = self._driver
        end = None if timeout is None else time.monotonic() + timeout
        try:
            with self._wait(cancellation) as token:
                while True:
                    self._refuse_endless_wait(token)
                    driver.workforce.lend_hand(driver)
                    if driver.heard:
                        assert driver.result is not None
                        return driver.result
                    left = SLICE_SECONDS if end is None else min(SLICE_SECONDS, end - time.monotonic())
                    if left <= 0:
                        raise RunTimeout("run {} did not end within {} s; it goes on".format(self.id, timeout))
                    if driver.result is not None:
                        driver.catch_up()  # with what Ctrl-C may have kept from them
                    driver.audience.wait(left, lambda: driver.heard)
        except (RunTimeout, GraphError, Cancelled):  # none of them interrupts the run
            raise
        except BaseException as interruption:
            driver.interrupt(interruption)
            raise

    @contextlib.contextmanager
    def _wait(self, cancellation: Optional[Cancellation] = None) -> Iterator[Cancellation]:
        """Around a wait: others work meanwhile, and a cancellation ends it."""
        token = cancellation or Cancellation.current()
        with aside(), token.on_cancel(self._driver.audience.wake):
            yield token

    def events(self) -> "RunEvents":
        """What happens, from the start of the run to its RunFinished. Closing or dropping the iterator early cancels it."""
        if self._driver.audience.events is None:
            raise RuntimeError("scheduler.run() keeps no events: use scheduler.stream(), or submit().events()")
        return RunEvents(self)

    def event(self, number: int) -> Event:
        """Wait for the event of this number."""
        driver = self._driver
        events = driver.audience.events
        assert events is not None
        if number == len(events):
            with self._wait() as token:
                while number == len(events):
                    self._refuse_endless_wait(token)
                    driver.workforce.lend_hand(driver, tasks=1)
                    driver.audience.wait(SLICE_SECONDS, lambda: number < len(events))
        if driver.workforce.inline:
            driver.audience.attend()  # callbacks are not behind whoever reads
        while isinstance(events[number], RunFinished) and driver.ending:
            driver.catch_up()
            driver.audience.wait(SLICE_SECONDS, lambda: not driver.ending)
        return events[number]

    def _refuse_endless_wait(self, token: Cancellation) -> None:
        if self.done():
            return
        if token.cancelled and not self._driver.cancellation.cancelled:  # else the run itself ends, and has a result
            token.raise_if_cancelled()
        if self._driver.foreign:
            raise GraphError("run {} goes on in the process that this one was forked from".format(self.id))
        if self._driver.audience.blocked:
            raise GraphError(
                "run {} waits for this callback, which cannot wait for its end: add it without blocking=True (and "
                "with max_workers=0 all of them are called so)".format(self.id)
            )

    def cancel(self, reason: str = "cancelled") -> bool:
        """End the run now: what goes on is FAILED with Cancelled, the rest stays WAITING. False if it was over."""
        return self._driver.cancel(reason)

    def done(self) -> bool:
        """Whether it is over."""
        return self._driver.result is not None

    def __repr__(self) -> str:
        return "<Run {}: {}>".format(self.id, self._driver.state.status.name)


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
            self._run._driver.interrupt(interruption)
            raise
        self._told += 1
        self._ended = isinstance(event, RunFinished)
        return event

    def leave(self) -> None:
        """Say that it is about to be closed: whoever wants the graph waits for that, and is not refused."""
        if not self._ended:
            self._run._driver.leave()

    def close(self) -> None:
        """Cancel the run, if it is not over; harmless after the end."""
        if not self._ended:
            self._ended = True
            self._run._driver.drop(_UNREAD, wait=True)

    def __enter__(self) -> "RunEvents":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._ended and not sys.is_finalizing():  # else nothing is left to end it with
            self._run._driver.drop(_UNREAD)


_UNREAD = "its events were not read to the end"
