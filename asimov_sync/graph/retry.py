"""When a task's attempt that failed is made again: how often, after how long, and for which exceptions."""

from typing import Any, Callable, Optional, Tuple, Type, Union

from asimov_sync.errors import Cancelled, NonRetryableError

__all__ = ["Retry"]

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0

Exceptions = Union[Type[BaseException], Tuple[Type[BaseException], ...]]


class Retry:
    """Up to `attempts` attempts, for exceptions that are `on`; between them the seconds that `wait` says.

    wait: a tenacity wait (`tenacity.wait_fixed(5)`, `tenacity.wait_exponential(max=30)`, sums of them), called as tenacity
    calls it; where not given, a second, doubled each time up to a minute, and up to a second more by chance. A
    NonRetryableError and a Cancelled are never retried.
    """

    def __init__(
        self, attempts: int = 3, wait: Optional[Callable[[Any], float]] = None, on: Exceptions = (Exception,)
    ) -> None:
        if attempts < 1:
            raise ValueError("attempts counts the first one, too: at least 1, not {}".format(attempts))
        if wait is not None and not callable(wait):
            raise TypeError("wait is a tenacity wait, such as tenacity.wait_fixed(5); not {!r}".format(wait))
        self.attempts = attempts
        self.wait = wait
        self.on = on if isinstance(on, tuple) else (on,)
        for kind in self.on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError("on holds exception classes, not {!r}".format(kind))

    def covers(self, error: BaseException) -> bool:
        """Whether an attempt that raised this may be made again."""
        return isinstance(error, self.on) and not isinstance(error, (Cancelled, NonRetryableError))

    def seconds(self, attempt: int, error: BaseException) -> float:
        """How long to wait after attempt number `attempt` raised `error`."""
        import tenacity  # here, because most programs never come here

        wait = self.wait or tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT)
        state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # what tenacity itself would hand it
        state.attempt_number = attempt
        state.set_exception((type(error), error, error.__traceback__))
        return max(0.0, float(wait(state)))

    def __repr__(self) -> str:
        on = ", ".join(kind.__name__ for kind in self.on)
        return "Retry(attempts={}, wait={!r}, on=({}))".format(self.attempts, self.wait, on)
