"""Fan-out: run several calls at once on a pool and report them as they start and finish."""

import collections
import queue
from dataclasses import dataclass
from typing import Any, Callable, Deque, Generator, Optional, Sequence, Union

from asimov_sync.concurrency.pool import WorkerPool

__all__ = ["CallFinished", "CallStarted", "fan_out"]

POLL_SECONDS = 0.2
"""Seconds after which a wait for an event is repeated: Windows does not let Ctrl-C interrupt it."""


@dataclass
class CallStarted:
    """A call begins on its worker.

    index: the position of the call.
    """

    index: int


@dataclass
class CallFinished:
    """A call returned or raised.

    index: the position of the call.
    value: what the call returned; None if it raised.
    error: the exception that the call raised; None if it returned.
    """

    index: int
    value: Any = None
    error: Optional[BaseException] = None

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


def fan_out(
    calls: Sequence[Callable[[], Any]],
    pool: WorkerPool,
    cancellation: Any,
    max_workers: Optional[int] = None,
) -> Generator[Union[CallStarted, CallFinished], None, None]:
    """Run calls on a pool, several at once, and yield events as they start and finish.

    calls: the functions to call, without arguments. They start in this order.
    pool: the pool to run them on. Each worker runs one call after the other.
    cancellation: a Cancellation made for this fan-out. The calls have to honour it.
    max_workers: the most calls that run at once; None (the default) for all of them.

    The iteration ends after the last CallFinished. It ends early with Cancelled when the token is
    cancelled, by one of the calls or from outside. If the wait ends for another reason (Ctrl-C, an
    error of the pool, a reader that closes the generator), the token is cancelled. In both cases
    the calls that have not begun never run, and the running ones are not waited for.
    """
    waiting: Deque[int] = collections.deque(range(len(calls)))
    # A queue, not a Condition: see InterruptibleEvent. None is a wake-up without an event.
    events: "queue.SimpleQueue[Union[None, CallStarted, CallFinished]]" = queue.SimpleQueue()

    def work() -> None:
        while not cancellation.cancelled:
            try:
                index = waiting.popleft()
            except IndexError:
                return
            events.put(CallStarted(index))
            try:
                value = calls[index]()
            except BaseException as error:
                events.put(CallFinished(index, None, error))
                if not isinstance(
                    error, Exception
                ):  # a SystemExit, for example: make no further call
                    return
            else:
                events.put(CallFinished(index, value))

    try:
        with cancellation.on_cancel(lambda: events.put(None)):
            count = len(calls)
            for _ in range(count if max_workers is None else min(count, max_workers)):
                pool.submit(work)
            while count:
                cancellation.raise_if_cancelled()
                remaining = cancellation.remaining
                timeout = POLL_SECONDS if remaining is None else min(POLL_SECONDS, remaining)
                try:
                    event = events.get(timeout=timeout)
                except queue.Empty:
                    continue
                if event is not None:
                    count -= isinstance(event, CallFinished)
                    yield event
    except BaseException as interruption:
        cancellation.cancel(f"interrupted by {type(interruption).__name__}")
        raise
