"""Retry: how often a failed attempt is repeated, after which wait, and for which exceptions."""

from typing import Any, Callable, Optional, Tuple, Type, Union

from asimov_sync.errors import Cancelled, NonRetryableError

__all__ = ["Retry"]

INITIAL_WAIT, MAX_WAIT = 1.0, 60.0

Exceptions = Union[Type[BaseException], Tuple[Type[BaseException], ...]]


class Retry:
    """A retry policy for a task. NonRetryableError and Cancelled are never retried.

    attempts: how many attempts a visit has, the first one included; default 3.
    wait: a tenacity wait (`tenacity.wait_fixed(5)`, `tenacity.wait_exponential(max=30)`, or a sum
        of them), which returns seconds. By default 1 second, doubled with each attempt up to 60,
        plus up to 1 second of jitter.
    on: the exception class, or a tuple of classes, to retry; by default every Exception.

    Raises ValueError or TypeError for an invalid argument.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        wait: Optional[Callable[[Any], float]] = None,
        on: Exceptions = (Exception,),
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts= includes the first one: at least 1, not {attempts}")
        if wait is not None and not callable(wait):
            raise TypeError(
                f"wait= is a tenacity wait, such as tenacity.wait_fixed(5); not {wait!r}"
            )
        self.attempts = attempts
        self.wait = wait
        self.on = on if isinstance(on, tuple) else (on,)
        for kind in self.on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"on= takes exception classes, not {kind!r}")

    def should_retry(self, error: BaseException) -> bool:
        """Return whether the policy covers an attempt that raised `error`."""
        return isinstance(error, self.on) and not isinstance(error, (Cancelled, NonRetryableError))

    def wait_seconds(self, attempt: int, error: BaseException) -> float:
        """Return the seconds to wait after attempt number `attempt` raised `error`."""
        import tenacity  # imported here, because most programs never need it

        wait = self.wait or tenacity.wait_exponential_jitter(initial=INITIAL_WAIT, max=MAX_WAIT)
        # The state that tenacity itself passes to a wait.
        state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        state.attempt_number = attempt
        state.set_exception((type(error), error, error.__traceback__))
        return max(0.0, float(wait(state)))

    def __repr__(self) -> str:
        on = ", ".join(kind.__name__ for kind in self.on)
        return f"Retry(attempts={self.attempts}, wait={self.wait!r}, on=({on}))"
